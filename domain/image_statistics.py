"""Numbers that say how a volume looks: measured the same way for a model's card and at a gate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domain.errors import UnsupportedSeries
from domain.grid import cut, normalised
from domain.volume import Volume


def mean(volume: Volume) -> float:
    """Return the mean intensity."""
    return float(volume.array.mean(dtype=np.float64))


def standard_deviation(volume: Volume) -> float:
    """Return the standard deviation of intensity."""
    return float(volume.array.std(dtype=np.float64))


def sharpness(volume: Volume) -> float:
    """Return the mean absolute difference of neighbours per mm, averaged over the axes; NaN where an axis has one voxel."""
    if min(volume.shape) < 2:
        return float("nan")
    array = volume.array.astype(np.float64)
    return float(np.mean([np.abs(np.diff(array, axis=axis)).mean() / volume.spacing_mm[axis] for axis in range(3)]))


def similarity(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return Pearson's correlation of the voxels of two volumes in patient axes, centre on centre.

    Each is scaled by its own 1st and 99th percentile, and only the part that both have is compared. Positions in the scanner
    are not used: a generated volume has none. NaN where one of them is constant or not finite.

    References
    ----------
    Normalised cross-correlation at zero shift.
    """
    slices, rows, columns = np.minimum(one.shape, other.shape).tolist()
    try:
        first, second = (normalised(cut(array, (slices, rows, columns))).ravel() for array in (one, other))
    except UnsupportedSeries:  # it does not vary
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
