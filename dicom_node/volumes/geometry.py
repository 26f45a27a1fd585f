"""The geometry of a stack of slices: sorted by position, shown to be even, refused by name where it is not. Pure.

References
----------
DICOM PS3.3 C.7.6.2.1.1: Image Position and Image Orientation (Patient), equation C.7.6.2.1-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.errors import IncompleteSeries, UnsupportedSeries

# Direction cosines are decimal strings: scanners round them to six places, some archives to four.
DIRECTION_TOLERANCE = 1e-3

# A slice may lie this far from its even place: 1 % of the slice distance, or 0.02 mm where that is more (positions in files
# are often rounded to hundredths of a millimetre).
RELATIVE_TOLERANCE = 0.01
ABSOLUTE_TOLERANCE_MM = 0.02

# Steps that leave the slice normal by more than this are a tilted gantry, whose slices form a sheared grid.
TILT_TOLERANCE_DEGREES = 0.5

# Nearer than this, two slices are at the same place.
SAME_PLACE_MM = 1e-3

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StackGeometry:
    """Where the slices lie.

    Attributes
    ----------
    order : tuple of int
        Indices of the slices as they were given, from the first to the last along the slice normal.
    affine_lps : array, (4, 4), float64
        Index (slice, row, column, 1) to LPS mm.
    """

    order: tuple[int, ...]
    affine_lps: FloatArray


def stack_geometry(
    positions_mm: Sequence[Sequence[float]], orientation: Sequence[float], pixel_spacing_mm: Sequence[float]
) -> StackGeometry:
    """Return order and affine of parallel slices that lie evenly along their normal.

    Parameters
    ----------
    positions_mm : sequence of (x, y, z)
        Image Position (Patient) of each slice, LPS.
    orientation : sequence of 6 float
        Image Orientation (Patient), the same for all: direction of a row (rising column index), then of a column.
    pixel_spacing_mm : (row, column)
        Pixel Spacing (0028,0030): distance between rows, then between columns.

    Raises
    ------
    UnsupportedSeries
        If the orientation is no pair of perpendicular unit vectors, spacing is not positive, there is one slice, or the
        gantry is tilted.
    IncompleteSeries
        If two slices lie at one place, slices are missing or their distances are uneven.
    """
    along_row, along_column = _directions(orientation)
    row_mm, column_mm = _spacing(pixel_spacing_mm)
    normal = np.cross(along_row, along_column)
    positions = np.asarray(positions_mm, dtype=np.float64)
    if len(positions) < 2:
        raise UnsupportedSeries(
            found="a single slice", allowed="a stack of at least two parallel slices", action="send the whole series"
        )
    along_normal = positions @ normal
    order = np.argsort(along_normal, kind="stable")
    positions = positions[order]
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    _require_distinct(distances)
    _require_no_tilt(steps, distances, normal)
    _require_even(distances)
    affine = np.eye(4)
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = along_row * column_mm
    affine[:3, 3] = positions[0]
    _require_on_line(positions, affine)
    return StackGeometry(tuple(int(index) for index in order), affine)


def _directions(orientation: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    cosines = np.asarray(orientation, dtype=np.float64)
    along_row, along_column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(along_row), np.linalg.norm(along_column)])
    if not np.all(np.abs(lengths - 1) < DIRECTION_TOLERANCE) or abs(along_row @ along_column) > DIRECTION_TOLERANCE:
        raise UnsupportedSeries(
            found="direction cosines that are not two perpendicular unit vectors",
            allowed=f"unit length and a right angle within {DIRECTION_TOLERANCE:g} (PS3.3 C.7.6.2.1.1)",
            action="send the original series, not a reformatted one",
        )
    return along_row / lengths[0], along_column / lengths[1]


def _spacing(pixel_spacing_mm: Sequence[float]) -> tuple[float, float]:
    row_mm, column_mm = (float(value) for value in pixel_spacing_mm)
    if not (np.isfinite([row_mm, column_mm]).all() and min(row_mm, column_mm) > 0):
        raise UnsupportedSeries(
            found="a Pixel Spacing that is not positive",
            allowed="two positive distances in mm (PS3.3 10.7.1.3)",
            action="send the original series",
        )
    return row_mm, column_mm


def _require_distinct(distances: FloatArray) -> None:
    doubled = int(np.count_nonzero(np.abs(distances) < SAME_PLACE_MM))
    if doubled:
        raise IncompleteSeries(
            found=f"{doubled} slices at a place where another slice lies already",
            allowed="one slice at each position along the normal",
            action="send one acquisition, echo or phase a series",
        )


def _require_no_tilt(steps: FloatArray, distances: FloatArray, normal: FloatArray) -> None:
    aside = np.linalg.norm(steps - np.outer(distances, normal), axis=1)
    tilt = float(np.median(np.degrees(np.arctan2(aside, distances))))
    if tilt > TILT_TOLERANCE_DEGREES:
        uneven = _unevenness(distances)
        raise UnsupportedSeries(
            found=f"a gantry tilt of {tilt:.1f} degrees: each slice is shifted sideways against the one before"
            + (f"; and {uneven}" if uneven else ""),
            allowed=f"slices stacked along their normal within {TILT_TOLERANCE_DEGREES:g} degrees",
            action="send a series that was reformatted without tilt",
        )


def _require_even(distances: FloatArray) -> None:
    found = _unevenness(distances)
    if found:
        raise IncompleteSeries(
            found=found,
            allowed=f"slice distances that are equal within {_evenness_mm(distances):.3f} mm",
            action="send the slices that are missing, or one evenly spaced series",
        )


def _unevenness(distances: FloatArray) -> str:
    """What is uneven about the slice distances, told as missing slices where they explain it; empty where nothing is."""
    usual, tolerance = float(np.median(distances)), _evenness_mm(distances)
    uneven = distances[np.abs(distances - usual) > tolerance]
    if not len(uneven):
        return ""
    missing = np.rint(uneven / usual).astype(int) - 1
    whole = np.all(missing >= 1) and np.all(np.abs(uneven - (missing + 1) * usual) <= tolerance * (missing + 1))
    what = f"{int(missing.sum())} slices missing in {len(uneven)} gaps" if whole else f"{len(uneven)} uneven slice distances"
    return f"{what}: distances from {distances.min():.3f} to {distances.max():.3f} mm, usually {usual:.3f} mm"


def _evenness_mm(distances: FloatArray) -> float:
    return max(ABSOLUTE_TOLERANCE_MM, RELATIVE_TOLERANCE * float(np.median(distances)))


def _require_on_line(positions: FloatArray, affine: FloatArray) -> None:
    """Small steps aside or along may add up where no single one shows: compare each slice with where the affine puts it."""
    places = affine[:3, 3] + np.arange(len(positions))[:, None] * affine[:3, 0]
    off = float(np.linalg.norm(positions - places, axis=1).max())
    tolerance = max(ABSOLUTE_TOLERANCE_MM, RELATIVE_TOLERANCE * float(np.linalg.norm(affine[:3, 0])))
    if off > 2 * tolerance:
        raise IncompleteSeries(
            found=f"a slice {off:.3f} mm away from its place in an even stack",
            allowed=f"slices on one line within {2 * tolerance:.3f} mm",
            action="send one evenly spaced series",
        )
