"""Instances of an MR or CT series, classic or enhanced, as a volume; what cannot be taken is refused by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, MRImageStorage

from dicom_node.holding.headers import text_of
from dicom_node.volumes.describing import describe_series
from dicom_node.volumes.frames import Frame, classic_frame, mixed, require_one_kind, require_one_plane
from dicom_node.volumes.geometry import stack_geometry
from dicom_node.volumes.multiframe import ENHANCED, enhanced_frames, in_order
from dicom_node.volumes.pixels import decode_pixels, is_padding
from domain.errors import IncompleteSeries, UnreadableInstance, UnsupportedSeries
from domain.volume import FloatArray, Volume

__all__ = ["CLASSIC", "decode_pixels", "describe_series", "is_image_class", "read_volume"]

CLASSIC = {MRImageStorage: "MR", CTImageStorage: "CT"}
_MODALITIES = CLASSIC | ENHANCED
_UNITS = {"MR": "1", "CT": "[hnsf'U]"}

# What must be the same in each instance for the slices to be one grid.
_SHARED = ("SeriesInstanceUID", "SOPClassUID", "FrameOfReferenceUID", "Rows", "Columns", "PhotometricInterpretation")

_ALLOWED = "an MR or CT series in grey scale: classic with one slice an instance, or one enhanced multi-frame object"


def is_image_class(sop_class_uid: str) -> bool:
    """Return whether instances of a SOP class are images of a patient, by its name in PS3.6 Annex A.

    Segmentations, registrations, value maps, radiotherapy objects, reports and documents are none, nor is what has no name.

    Examples
    --------
    >>> is_image_class(MRImageStorage), is_image_class("1.2.840.10008.5.1.4.1.1.67"), is_image_class("1.2.3")
    (True, False, False)
    """
    return UID(sop_class_uid).keyword.endswith("ImageStorage")


def read_volume(datasets: Sequence[Dataset]) -> Volume:
    """Return the volume that the instances of one series form.

    Slices are sorted by position along their normal; neither Instance Number nor the order of frames is looked at. Rescale
    slope and intercept are applied slice by slice, so CT comes in Hounsfield units. Padding around the image is no measurement:
    it takes the lowest measured value of the volume.

    Parameters
    ----------
    datasets : sequence of Dataset
        All instances of one series, in any order, with file meta information and Pixel Data.

    Returns
    -------
    Volume
        Array (slice, row, column), float32.

    Raises
    ------
    UnsupportedSeries
        If it holds more than one stack, echo, b-value, frame type or temporal position, is a mosaic, in colour, in MONOCHROME1,
        tilted, mixed, a single slice, no MR or CT, without geometry, with a lookup table, or compressed in a way that nothing
        here decodes.
    IncompleteSeries
        If slices or parts of a concatenation are missing, doubled or unevenly spaced (tolerances: `volumes.geometry`).
    UnreadableInstance
        If Pixel Data or functional groups are damaged.

    References
    ----------
    DICOM PS3.3 C.7.6.2 (Image Plane), C.7.6.3 (Image Pixel), C.7.6.16 (Multi-frame Functional Groups), C.11.1 (Modality LUT),
    C.8.2 (CT), C.8.3 (MR), C.8.13 (Enhanced MR), C.8.15 (Enhanced CT).
    """
    if not datasets:
        raise IncompleteSeries(found="no instance", allowed=_ALLOWED, action="send the series")
    for ds in datasets:
        _require_image(ds)
    _require_one_grid(datasets)
    datasets, frames = _frames(datasets)
    first = datasets[0]
    modality = _MODALITIES[UID(first.SOPClassUID)]
    require_one_plane(frames)
    require_one_kind(frames)
    if modality == "CT":
        _require_hounsfield(frames)
    geometry = stack_geometry([frame.position_mm for frame in frames], frames[0].orientation, frames[0].pixel_spacing_mm)
    places = {index: place for place, index in enumerate(geometry.order)}
    array = _values(datasets, frames, places)
    return Volume(array, geometry.affine_lps, text_of(first, "FrameOfReferenceUID"), modality, _UNITS[modality])


def _frames(datasets: Sequence[Dataset]) -> tuple[Sequence[Dataset], list[Frame]]:
    """Return instances in reading order and all of their frames."""
    if UID(datasets[0].SOPClassUID) in CLASSIC:
        return datasets, [classic_frame(ds, index) for index, ds in enumerate(datasets)]
    datasets = in_order(datasets)
    return datasets, [frame for index, ds in enumerate(datasets) for frame in enhanced_frames(ds, index)]


def _values(datasets: Sequence[Dataset], frames: Sequence[Frame], places: dict[int, int]) -> FloatArray:
    """Return the volume's array, (slice, row, column), in output units; each instance is decoded once."""
    rows, columns = int(datasets[0].Rows), int(datasets[0].Columns)
    array = np.empty((len(frames), rows, columns), dtype=np.float32)  # (slice, row, column)
    padding = np.zeros(array.shape, dtype=np.bool_)
    by_instance: dict[int, list[int]] = {}
    for index, frame in enumerate(frames):
        by_instance.setdefault(frame.instance, []).append(index)
    for instance, members in by_instance.items():
        ds = datasets[instance]
        stored = _stored_frames(ds, len(members))  # (frame, row, column)
        padded = is_padding(ds, stored)
        for index in members:
            frame, place = frames[index], places[index]
            array[place] = _rescaled(stored[frame.number], frame)
            if padded is not None:
                padding[place] = padded[frame.number]
    return _without_padding(array, padding)


def _stored_frames(ds: Dataset, count: int) -> NDArray[np.generic]:
    stored = decode_pixels(ds)
    if stored.ndim == 2:
        stored = stored[None]
    if stored.shape != (count, int(ds.Rows), int(ds.Columns)):
        raise UnreadableInstance(
            found=f"Pixel Data of shape {stored.shape}",
            allowed=f"{count} frames of rows by columns",
            action="send the instance again",
        )
    return stored


def _rescaled(stored: NDArray[np.generic], frame: Frame) -> FloatArray:
    """Stored values to output units (PS3.3 C.11.1.1.2); the sum is made in float64, so that HU stay whole numbers."""
    return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def _without_padding(array: FloatArray, padding: NDArray[np.bool_]) -> FloatArray:
    if not padding.any():
        return array
    if padding.all():
        raise UnsupportedSeries(
            found="a series whose pixels are all padding", allowed="measured pixels", action="send a series that shows anatomy"
        )
    array[padding] = array[~padding].min()
    return array


def _require_image(ds: Dataset) -> None:
    sop_class = UID(text_of(ds, "SOPClassUID"))
    found = ""
    if sop_class not in _MODALITIES:
        found = f"{sop_class.name} ({text_of(ds, 'Modality') or 'no modality'})"
    elif sop_class in CLASSIC and text_of(ds, "NumberOfFrames") not in ("", "1"):
        found = f"{text_of(ds, 'NumberOfFrames')} frames in one instance of a classic class"
    elif "MOSAIC" in text_of(ds, "ImageType").split("\\"):
        found = "a mosaic: many slices tiled into one image"
    elif text_of(ds, "SamplesPerPixel") != "1" or text_of(ds, "PhotometricInterpretation") != "MONOCHROME2":
        found = f"pixels in {text_of(ds, 'PhotometricInterpretation') or 'no stated photometric interpretation'}"
    elif "ModalityLUTSequence" in ds:
        found = "a Modality LUT: values by a table and not by slope and intercept"
    if found:
        raise UnsupportedSeries(found=found, allowed=_ALLOWED, action="send the original MR or CT series")


def _require_one_grid(datasets: Sequence[Dataset]) -> None:
    for keyword in _SHARED:
        if len({text_of(ds, keyword) for ds in datasets}) > 1:
            raise mixed(f"more than one {keyword}")


def _require_hounsfield(frames: Sequence[Frame]) -> None:
    """CT values mean something only in HU: no slope is taken for granted (PS3.3 C.8.2.1, C.8.15.3.10)."""
    for frame in frames:
        if frame.rescale_type in ("", "HU") and frame.rescaled:
            continue
        found = f"a CT slice in {frame.rescale_type}" if frame.rescaled else "a CT slice without rescale slope or intercept"
        raise UnsupportedSeries(
            found=found,
            allowed="Hounsfield units by Rescale Slope and Intercept (PS3.3 C.8.2.1)",
            action="send the original CT series",
        )
