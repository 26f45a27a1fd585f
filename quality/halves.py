"""Compares generated with real volumes, always beside real with real at the same number.

The real people are split at random into two halves. One half is the reference. The other half stands against it, and so do as
many volumes that were generated for those same people. Over many splits that gives two distributions of one figure, which
differ only in that one of them is of generated volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quality.resampling import LEVEL, Estimate

Features = NDArray[np.floating[Any]]
Figure = Callable[[Features, Features], float]

SPLITS = 200


@dataclass(frozen=True, slots=True)
class BesideReal:
    """A figure of generated against real, the same of real against real, and one over the other within each split.

    Each value is the median over the splits; the interval holds the middle 95 in 100 of them.
    """

    generated: Estimate
    real: Estimate
    ratio: Estimate


def beside_real(
    figure: Figure,
    real: Features,
    people: Sequence[int],
    generated: Features,
    made_for: Sequence[int],
    *,
    splits: int = SPLITS,
    seed: int = 0,
) -> BesideReal:
    """Return a figure of two sets of features, generated beside real.

    Parameters
    ----------
    figure : callable
        Called with the reference half, (N, F), and what stands against it, (M, F).
    real : array, (R, F)
    people : sequence of int
        Whom each real case is of: no person is in both halves.
    generated : array, (G, F)
    made_for : sequence of int
        The real case for which each was generated.

    References
    ----------
    Politis, Romano and Wolf, Subsampling, 1999, chapter 2 (halves are drawn without replacement: a figure of distances to
    neighbours cannot be bootstrapped, since a case that is drawn twice is its own neighbour).
    """
    drawn = _splits(people, made_for, splits, seed)
    rows = [(figure(real[a], generated[chosen]), figure(real[a], real[b]), len(b)) for a, b, chosen in drawn]
    values = np.array(rows)
    n, count = int(np.median(values[:, 2])), len(set(people))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values[:, 0] / values[:, 1]
    return BesideReal(*(_over_splits(column, n, count) for column in (values[:, 0], values[:, 1], ratio)))


def _splits(
    people: Sequence[int], made_for: Sequence[int], splits: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """Yield the reference's cases, the other half's, and one generated volume for each of the latter."""
    whose, rng = np.asarray(people), np.random.default_rng(seed)
    everyone = np.unique(whose)
    made = [np.flatnonzero(np.asarray(made_for) == case) for case in range(len(whose))]
    for _ in range(splits):
        half = rng.permutation(everyone)[: len(everyone) // 2]
        first = np.isin(whose, half)
        theirs = np.array([case for case in np.flatnonzero(~first) if len(made[case])], dtype=np.intp)
        yield np.flatnonzero(first), theirs, np.array([rng.choice(made[case]) for case in theirs], dtype=np.intp)


def _over_splits(values: NDArray[np.float64], n: int, people: int) -> Estimate:
    tail = (100 - LEVEL) / 2
    low, middle, high = np.percentile(values, (tail, 50, 100 - tail))
    return Estimate(float(middle), float(low), float(high), n, people)
