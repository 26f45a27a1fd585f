"""One scale and one grid for volumes that come from different scanners: used by encoders, generators and quality checks alike.

MR intensities have no common scale, so a volume is normalised by its own 1st and 99th percentile. A grid is a fixed shape on
which a volume is centred; what the volume does not fill repeats its edge, so that no black border is learned.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from domain.errors import UnsupportedSeries
from domain.volume import FloatArray

Shape = tuple[int, int, int]
Value = TypeVar("Value", bound=np.generic)

_LOW_PERCENTILE, _HIGH_PERCENTILE = 1, 99


def normalised(array: NDArray[np.floating[Any]] | NDArray[np.integer[Any]]) -> FloatArray:
    """Return intensities scaled so that the 1st percentile is 0 and the 99th is 1, clipped to [0, 1].

    Raises
    ------
    UnsupportedSeries
        If the two percentiles are equal or not finite: such a volume shows nothing.

    Examples
    --------
    >>> normalised(np.arange(101.0)).round(2)[[0, 1, 50, 99, 100]].tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    low, high = np.percentile(array, (_LOW_PERCENTILE, _HIGH_PERCENTILE))
    if not np.isfinite(high - low) or high <= low:
        raise UnsupportedSeries(
            found="a volume whose intensities do not vary or are not finite",
            allowed="a 99th percentile above the 1st",
            action="send a series that shows anatomy",
        )
    scaled: FloatArray = np.clip((array - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def placed(array: NDArray[Value], grid: Shape, *, outside: float | None = None) -> NDArray[Value]:
    """Return `array` centred on a grid; the centre part of it along an axis on which it is larger.

    Parameters
    ----------
    array : array, (slice, row, column)
    grid : tuple of int
        Shape of the answer.
    outside : scalar or None
        Value outside `array`; None repeats its edge.
    """
    kept = array[_centre(array.shape, grid)]
    widths = [((n - have) // 2, n - have - (n - have) // 2) for n, have in zip(grid, kept.shape, strict=True)]
    if outside is None:
        return np.pad(kept, widths, mode="edge")
    return np.pad(kept, widths, constant_values=outside)


def cut(array: NDArray[Value], shape: Shape) -> NDArray[Value]:
    """Return the centre part of `array`: the inverse of `placed` for a volume of `shape` that fitted the grid."""
    return array[_centre(array.shape, shape)]


def _centre(have: tuple[int, ...], want: Shape) -> tuple[slice, ...]:
    starts = [max(n - m, 0) // 2 for n, m in zip(have, want, strict=True)]
    return tuple(slice(start, start + m) for start, m in zip(starts, want, strict=True))
