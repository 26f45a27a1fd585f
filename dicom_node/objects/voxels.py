"""A generated volume as stored values on planes: what the classic and the enhanced image objects share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from domain.errors import GenerationError, NonFiniteOutput, UnsupportedSeries
from domain.volume import FloatArray, Volume

# Twelve bits: what scanners use for MR, so each PACS and viewer shows it. Intensity 0 to 1 is stored as 0 to 4095.
MR_BITS = 12
MR_MAX = 2**MR_BITS - 1
# A CT value is stored as it is: Hounsfield units are whole numbers (PS3.3 C.8.2.1), and sixteen signed bits hold metal too.
CT_BITS = 16
CT_RANGE_HU = (-(2**15), 2**15 - 1)
# Soft tissue, PS3.3 C.11.2: centre and width in HU.
_CT_WINDOW_HU = ("40", "400")

# Rounding in float32 may leave the range by this much; more than that is an error of the generator, never clipped in silence.
_RANGE_SLACK = 1e-3
_PERPENDICULAR = 1e-4


@dataclass(frozen=True, eq=False)
class StoredVoxels:
    """Stored values and what they mean.

    Attributes
    ----------
    array : array, (slice, row, column), uint16 or int16
    bits_stored : int
    rescale_type : str
        ``HU`` for CT, ``US`` (unspecified) for MR; slope is 1 and intercept 0 for both.
    window : (str, str)
        Centre and width.
    meaning : str
        One clause for the derivation description.
    """

    array: NDArray[np.uint16] | NDArray[np.int16]
    bits_stored: int
    rescale_type: str
    window: tuple[str, str]
    meaning: str


def stored_voxels(volume: Volume) -> StoredVoxels:
    """Return the stored values of a generated MR or CT volume.

    Raises
    ------
    UnsupportedSeries
        If the volume is neither MR nor CT.
    NonFiniteOutput
        If a voxel is NaN or infinite.
    GenerationError
        If an MR intensity lies outside 0 to 1, or a CT value outside what sixteen bits hold.
    """
    if volume.modality not in ("MR", "CT"):
        raise UnsupportedSeries(
            found=f"a generated volume of modality {volume.modality}",
            allowed="MR or CT",
            action="use a model whose output is MR or CT",
        )
    if not np.isfinite(volume.array).all():
        raise NonFiniteOutput(
            found="NaN or infinity in a voxel", allowed="finite intensities", action="use another seed or model"
        )
    return _mr(volume.array) if volume.modality == "MR" else _ct(volume.array)


def _mr(array: FloatArray) -> StoredVoxels:
    _require_range(array, -_RANGE_SLACK, 1 + _RANGE_SLACK, "0 to 1")
    scaled = np.rint(np.clip(array.astype(np.float64), 0, 1) * MR_MAX).astype(np.uint16)
    window = str((MR_MAX + 1) // 2), str(MR_MAX + 1)
    return StoredVoxels(scaled, MR_BITS, "US", window, f"stored value = {MR_MAX} x intensity")


def _ct(array: FloatArray) -> StoredVoxels:
    low, high = CT_RANGE_HU
    _require_range(array, low, high, f"{low} to {high} HU")
    return StoredVoxels(np.rint(array).astype(np.int16), CT_BITS, "HU", _CT_WINDOW_HU, "stored value = Hounsfield units")


def _require_range(array: FloatArray, low: float, high: float, allowed: str) -> None:
    found = float(array.min()), float(array.max())
    if found[0] < low or found[1] > high:
        raise GenerationError(
            found=f"intensities from {found[0]:.4g} to {found[1]:.4g}",
            allowed=allowed,
            action="check the model's output scale and its card",
        )


@dataclass(frozen=True, slots=True)
class Plane:
    """An affine in the words of the Image Plane module."""

    affine_lps: NDArray[np.float64]
    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    normal: NDArray[np.float64]
    slice_mm: float
    row_mm: float
    column_mm: float

    @classmethod
    def of(cls, affine_lps: NDArray[np.float64]) -> Plane:
        """Return the planes of a straight grid.

        Raises
        ------
        UnsupportedSeries
            If the affine is sheared.
        """
        lengths = np.linalg.norm(affine_lps[:3, :3], axis=0)
        slice_axis, row_axis, column_axis = (affine_lps[:3, :3] / lengths).T
        crossed = np.array([slice_axis @ row_axis, slice_axis @ column_axis, row_axis @ column_axis])
        if np.abs(crossed).max() > _PERPENDICULAR:
            raise UnsupportedSeries(
                found="a sheared affine", allowed="three perpendicular axes", action="resample the volume to a straight grid"
            )
        slice_mm, row_mm, column_mm = (float(length) for length in lengths)
        return cls(affine_lps, column_axis, row_axis, slice_axis, slice_mm, row_mm, column_mm)

    @property
    def orientation(self) -> list[float]:
        """Image Orientation (Patient)."""
        return [*self.along_row, *self.along_column]

    def position(self, index: int) -> NDArray[np.float64]:
        """Centre of the first voxel of a slice, LPS mm (PS3.3 C.7.6.2.1.1)."""
        return self.affine_lps[:3, 3] + index * self.affine_lps[:3, 0]


def image_pixel_module(ds: Dataset, voxels: StoredVoxels, frames: NDArray[Any]) -> None:
    """PS3.3 C.7.6.3; `frames` are the slices of this instance, (row, column) or (frame, row, column)."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = frames.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, voxels.bits_stored, voxels.bits_stored - 1
    ds.PixelRepresentation = int(voxels.array.dtype == np.int16)
    ds.PixelData = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
