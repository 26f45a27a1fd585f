"""A volume as NIfTI-1, compressed; the same volume gives the same bytes.

NIfTI holds (column, row, slice) and maps to Right-Anterior-Superior; ours is (slice, row, column) and maps to
Left-Posterior-Superior. Nothing is resampled or turned: axes are listed the other way round, and two of them change their sign.
"""

from __future__ import annotations

import gzip
import io

import nibabel
import numpy as np
from numpy.typing import NDArray

from domain.volume import FloatArray, Volume

_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# (column, row, slice, 1) of NIfTI to (slice, row, column, 1) of ours.
_REVERSED = [2, 1, 0, 3]
_SCANNER = 1  # qform_code and sform_code: anatomical coordinates of the scanner
_DESCRIPTION_BYTES = 79


def image_to_nifti(volume: Volume, description: str) -> bytes:
    """Return intensities as int16 where that loses nothing, else as float32.

    Parameters
    ----------
    volume : Volume
        Array (slice, row, column).
    description : str
        ``descrip`` of the header; ASCII, at most 79 characters are kept.
    """
    return _encoded(_smallest(volume.array), volume.affine_lps, description)


def labels_to_nifti(labels: NDArray[np.uint8], affine_lps: NDArray[np.float64], description: str) -> bytes:
    """Return a label map, (slice, row, column), as uint8."""
    return _encoded(labels, affine_lps, description)


def affine_ras(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the map from NIfTI's (column, row, slice, 1) to RAS mm."""
    return np.asarray(_RAS_FROM_LPS @ affine_lps[:, _REVERSED])


def _encoded(array: NDArray[np.generic], affine_lps: NDArray[np.float64], description: str) -> bytes:
    affine = affine_ras(affine_lps)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=_SCANNER)
    image.set_qform(affine, code=_SCANNER)  # of a sheared grid the nearest one without shear; readers prefer the sform
    image.header.set_xyzt_units(xyz="mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def _smallest(array: FloatArray) -> NDArray[np.generic]:
    whole = array.astype(np.int16)
    return whole if np.array_equal(whole, array) else array
