"""How sure a figure is: the bootstrap over people, not over volumes, since the volumes of one person are alike.

Arms of one figure (what was generated, and what is real) are resampled together: a person who is drawn twice counts twice in
each of them. So the interval of a ratio is that of the ratio, not one made from two intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.intp]

DRAWS = 1000
LEVEL = 95.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the interval of `LEVEL` percent; NaN where it was not estimated.
    n : int
        Cases behind the figure: those of its first arm.
    people : int
        People behind it.
    """

    value: float
    low: float
    high: float
    n: int
    people: int


def estimate(figure: Callable[..., float], *arms: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Return a figure on all cases, and the percentile interval over people that are drawn with replacement.

    Parameters
    ----------
    figure : callable
        Called with one array of case numbers for each arm, in which a case stands as often as it was drawn.
    arms : arrays, (N,) or (N, K), int
        Whom each case is of; a case of K people (a pair) is drawn as often as all of them together: the product.
    draws, seed : int
        Number of resamples, and of their random stream.

    Notes
    -----
    A resample on which the figure is not finite (one person drawn every time has no correlation) is left out.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3; Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, section 3.8 (whole clusters are drawn).
    """
    people = [np.asarray(arm) for arm in arms]
    value = figure(*(np.arange(len(arm)) for arm in people))
    drawn = np.array([figure(*resample) for resample in _resamples(people, draws, seed)])
    drawn = drawn[np.isfinite(drawn)]
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail)) if drawn.size else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), len(people[0]), len(np.unique(people[0])))


def _resamples(arms: list[NDArray[Any]], draws: int, seed: int) -> Iterator[list[Indices]]:
    everyone = np.unique(np.concatenate([arm.ravel() for arm in arms]))
    codes = [np.searchsorted(everyone, arm.reshape(len(arm), -1)) for arm in arms]
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        times = np.bincount(rng.integers(len(everyone), size=len(everyone)), minlength=len(everyone))
        resample = [np.repeat(np.arange(len(code)), times[code].prod(axis=1)) for code in codes]
        if all(len(indices) for indices in resample):
            yield resample
