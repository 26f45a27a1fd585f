"""A 3D array with its place in the patient.

Axes are (slice, row, column). `affine_lps` maps a homogeneous index (slice, row, column, 1) to millimetres in the DICOM patient
coordinate system: x to the patient's Left, y to Posterior, z Superior (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and geometry, without identity.

    Attributes
    ----------
    array : array, (slice, row, column), float32
        Intensities in `unit`.
    affine_lps : array, (4, 4), float64
        Index (slice, row, column, 1) to LPS mm.
    frame_of_reference_uid : str
        Volumes with the same UID share one space.
    modality : str
        ``MR`` or ``CT``.
    unit : str
        ``1`` (arbitrary) for MR, ``[hnsf'U]`` for CT (UCUM).
    """

    array: FloatArray
    affine_lps: NDArray[np.float64]
    frame_of_reference_uid: str
    modality: str
    unit: str = field(default="1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        slices, rows, columns = self.array.shape
        return slices, rows, columns

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along slice, row index and column index, mm."""
        slice_mm, row_mm, column_mm = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return float(slice_mm), float(row_mm), float(column_mm)

    @property
    def field_of_view_mm(self) -> tuple[float, float, float]:
        """Extent along each axis: number of voxels times spacing, mm."""
        lengths = [n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True)]
        return lengths[0], lengths[1], lengths[2]


def to_patient_axes(volume: Volume) -> Volume:
    """Reorder and flip axes so that slices run to Superior, rows to Posterior, columns to Left. Exact: no resampling.

    Oblique volumes keep their obliqueness: each axis is assigned to the patient axis it is nearest to.
    """
    directions = volume.affine_lps[:3, :3] / np.linalg.norm(volume.affine_lps[:3, :3], axis=0)
    order = _axis_order(directions)
    array = np.transpose(volume.array, order)
    affine = volume.affine_lps.copy()
    affine[:3, :3] = volume.affine_lps[:3, list(order)]
    for axis, patient_axis in enumerate((2, 1, 0)):
        if affine[patient_axis, axis] < 0:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(np.ascontiguousarray(array), affine, volume.frame_of_reference_uid, volume.modality, volume.unit)


def _axis_order(directions: NDArray[np.float64]) -> tuple[int, int, int]:
    """Which array axis runs mostly along z, y and x: a greedy match, so that no axis is taken twice."""
    strength = np.abs(directions)
    order = {}
    for _ in range(3):
        patient_axis, axis = np.unravel_index(np.argmax(strength), strength.shape)
        order[int(patient_axis)] = int(axis)
        strength[patient_axis, :] = -1
        strength[:, axis] = -1
    return order[2], order[1], order[0]
