"""How closely one number follows another: what was asked and what came, or the truth and what was measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's correlation; NaN where one of the two does not vary.

    Examples
    --------
    >>> round(pearson([1, 2, 3], [2, 4, 6]), 6), pearson([1, 1, 1], [1, 2, 3])
    (1.0, nan)
    """
    a, b = _centred(x), _centred(y)
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the slope of the least squares line of y over x; NaN where x does not vary.

    Examples
    --------
    >>> slope([1.0, 2.0, 3.0], [10.0, 10.5, 11.0])
    0.5
    """
    a, b = _centred(x), _centred(y)
    size = float((a**2).sum())
    return float((a * b).sum() / size) if size > 0 else float("nan")


def mean_absolute_error(x: ArrayLike, y: ArrayLike) -> float:
    """Return the mean absolute difference.

    Examples
    --------
    >>> mean_absolute_error([1.0, 2.0], [2.0, 0.0])
    1.5
    """
    return float(np.abs(np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)).mean())


def spread(x: ArrayLike) -> float:
    """Return the standard deviation of a sample (n - 1); NaN of a single number.

    Examples
    --------
    >>> spread([1.0, 3.0]) == 2**0.5, spread([1.0])
    (True, nan)
    """
    values = np.asarray(x, dtype=np.float64)
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation; equal numbers share the mean of their ranks.

    References
    ----------
    Spearman, The Proof and Measurement of Association between Two Things, American Journal of Psychology 15:72, 1904.

    Examples
    --------
    >>> round(spearman([1, 2, 3, 4], [1, 10, 100, 1000]), 6)
    1.0
    """
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: ArrayLike) -> Numbers:
    _, where, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[where], dtype=np.float64)


def _centred(x: ArrayLike) -> Numbers:
    values = np.asarray(x, dtype=np.float64)
    return np.asarray(values - values.mean(), dtype=np.float64)
