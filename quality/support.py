"""Whether what is generated lies where real volumes lie, and everywhere where they lie, in the features of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]

NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Support:
    """Four shares of one comparison.

    Attributes
    ----------
    precision : float
        Share of the generated inside a ball about a real one that reaches to its k-th real neighbour.
    recall : float
        Share of the real inside such a ball about a generated one.
    density : float
        Mean number of real balls about a generated one, over k; above 1 where it keeps to crowded places.
    coverage : float
        Share of real balls with a generated one inside.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def support(real: Features, generated: Features, *, neighbours: int = NEIGHBOURS) -> Support:
    """Return precision, recall, density and coverage of features (N, F) and (M, F); of few, with fewer neighbours.

    References
    ----------
    Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019, equations 1 and 2.
    Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020, equations 3 and 6.
    """
    neighbours = min(neighbours, len(real) - 1, len(generated) - 1)
    between = _distances(real, generated)  # (N, M)
    in_real = between < _reach(real, neighbours)[:, None]
    in_generated = between < _reach(generated, neighbours)[None, :]
    return Support(
        precision=float(in_real.any(axis=0).mean()),
        recall=float(in_generated.any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / neighbours),
        coverage=float(in_real.any(axis=1).mean()),
    )


def _reach(features: Features, neighbours: int) -> NDArray[np.float64]:
    """Return the distance of each to its k-th nearest other."""
    within = np.sort(_distances(features, features), axis=1)
    return np.asarray(within[:, neighbours])  # the nearest of all is itself


def _distances(one: Features, other: Features) -> NDArray[np.float64]:
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return np.asarray(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)))
