"""A Segmentation object as a label map on the grid of the images that it belongs to.

References
----------
DICOM PS3.3 A.51 (Segmentation IOD), C.8.20 (segmentation modules).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from domain.errors import UnsupportedSeries
from domain.volume import Volume


def read_label_map(ds: Dataset, like: Volume) -> tuple[NDArray[np.uint8], tuple[tuple[int, str], ...]]:
    """Return the segment number of each voxel, and number and label of each segment.

    Parameters
    ----------
    ds : Dataset
        Segmentation whose segments do not overlap.
    like : Volume
        The images: the label map gets their grid. Slices without a segment may be missing from `ds`.

    Returns
    -------
    tuple of (array, (slice, row, column), uint8), tuple of (int, str)

    Raises
    ------
    UnsupportedSeries
        If it is no segmentation, its segments overlap, or it lies on another grid than the images.
    """
    from highdicom import VolumeGeometry
    from highdicom.seg import Segmentation

    try:
        segmentation = Segmentation.from_dataset(ds, copy=True)
        grid = VolumeGeometry(
            like.affine_lps, like.shape, coordinate_system="PATIENT", frame_of_reference_uid=like.frame_of_reference_uid
        )
        # A grid that would have to be resampled is refused by highdicom.
        labels = segmentation.get_volume(combine_segments=True, dtype=np.uint8).match_geometry(grid)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedSeries(
            found=f"a segmentation that does not fit its images ({type(error).__name__})",
            allowed="segments that do not overlap, on the grid of the images",
            action="leave the series out, or publish it again",
        ) from error
    named = tuple((int(item.SegmentNumber), str(item.SegmentLabel)) for item in ds.SegmentSequence)
    return np.asarray(labels.array, dtype=np.uint8), named
