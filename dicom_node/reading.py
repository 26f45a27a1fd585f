"""Instances of a classic single-frame MR or CT series as a volume; what cannot be taken is refused by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from dicom_node.describing import describe_series
from dicom_node.geometry import DIRECTION_TOLERANCE, stack_geometry
from dicom_node.headers import PARSE_ERRORS, text_of
from domain.errors import IncompleteSeries, UnreadableInstance, UnsupportedSeries
from domain.volume import Volume

__all__ = ["decode_pixels", "describe_series", "read_volume"]

_CLASSIC = {MRImageStorage: "MR", CTImageStorage: "CT"}
_ENHANCED = {
    EnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
}
_UNITS = {"MR": "1", "CT": "[hnsf'U]"}

# What must be the same in each instance for the slices to be one grid.
_SHARED = ("SeriesInstanceUID", "SOPClassUID", "FrameOfReferenceUID", "Rows", "Columns", "PhotometricInterpretation")

_ALLOWED = "a classic single-frame MR or CT series, grey scale, one slice an instance"


def read_volume(datasets: Sequence[Dataset]) -> Volume:
    """Return the volume that the instances of one series form.

    Slices are sorted by position along their normal; Instance Number is not looked at. Rescale slope and intercept are applied
    slice by slice, so CT comes in Hounsfield units.

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
        If it is an enhanced multi-frame object, a mosaic, in colour, tilted, mixed, a single slice, no MR or CT, without
        geometry, or compressed in a way that nothing here decodes.
    IncompleteSeries
        If slices are missing, doubled or unevenly spaced (tolerances: see `dicom_node.geometry`).
    UnreadableInstance
        If Pixel Data is damaged.

    References
    ----------
    DICOM PS3.3 C.7.6.2 (Image Plane), C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), C.8.2 (CT), C.8.3 (MR).
    """
    if not datasets:
        raise IncompleteSeries(found="no instance", allowed=_ALLOWED, action="send the series")
    for ds in datasets:
        _require_classic(ds)
    _require_one_grid(datasets)
    first = datasets[0]
    geometry = stack_geometry(
        [_numbers(ds, "ImagePositionPatient", 3) for ds in datasets],
        _numbers(first, "ImageOrientationPatient", 6),
        _numbers(first, "PixelSpacing", 2),
    )
    modality = _CLASSIC[UID(first.SOPClassUID)]
    array = np.empty((len(datasets), int(first.Rows), int(first.Columns)), dtype=np.float32)  # (slice, row, column)
    for place, index in enumerate(geometry.order):
        array[place] = _rescaled(datasets[index], modality)
    return Volume(array, geometry.affine_lps, text_of(first, "FrameOfReferenceUID"), modality, _UNITS[modality])


def decode_pixels(ds: Dataset) -> NDArray[np.generic]:
    """Return the stored values of one instance, (row, column), decompressed where needed.

    Raises
    ------
    UnsupportedSeries
        If nothing here decodes the transfer syntax.
    UnreadableInstance
        If Pixel Data is missing or damaged.
    """
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    if not _can_decode(syntax):
        raise UnsupportedSeries(
            found=f"Pixel Data in transfer syntax {syntax.name} ({syntax})",
            allowed="uncompressed, RLE, JPEG-LS or JPEG 2000 (others where a decoder is installed)",
            action="send the series uncompressed, or install a decoder for it",
        )
    try:
        return pixel_array(ds)
    except (*PARSE_ERRORS, RuntimeError) as error:
        raise UnreadableInstance(
            found=f"Pixel Data that does not decode ({type(error).__name__})",
            allowed="as many values as rows, columns and bits ask for (PS3.3 C.7.6.3)",
            action="send the instance again",
        ) from error


def _can_decode(syntax: UID) -> bool:
    """Whether a decoder is installed; a syntax newer than the installed dictionary is simply one without."""
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _rescaled(ds: Dataset, modality: str) -> NDArray[np.float32]:
    """Stored values to output units (PS3.3 C.11.1.1.2); the sum is made in float64, so that HU stay whole numbers."""
    stored = decode_pixels(ds)
    if stored.shape != (int(ds.Rows), int(ds.Columns)):
        raise UnreadableInstance(
            found=f"Pixel Data of shape {stored.shape}",
            allowed="one frame of rows by columns",
            action="send the instance again",
        )
    kind = text_of(ds, "RescaleType").upper()
    if modality == "CT" and (kind not in ("", "HU") or "RescaleSlope" not in ds or "RescaleIntercept" not in ds):
        raise UnsupportedSeries(
            found=f"a CT slice with rescale type {kind or 'HU'} and without slope or intercept"
            if kind in ("", "HU")
            else f"a CT slice in {kind}",
            allowed="Hounsfield units by Rescale Slope and Intercept (PS3.3 C.8.2.1)",
            action="send the original CT series",
        )
    slope, intercept = _number_or(ds, "RescaleSlope", 1.0), _number_or(ds, "RescaleIntercept", 0.0)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def _require_classic(ds: Dataset) -> None:
    sop_class = UID(text_of(ds, "SOPClassUID"))
    found = ""
    if sop_class in _ENHANCED:
        found = f"{sop_class.name}: an enhanced multi-frame object"
    elif sop_class not in _CLASSIC:
        found = f"{sop_class.name} ({text_of(ds, 'Modality') or 'no modality'})"
    elif text_of(ds, "NumberOfFrames") not in ("", "1"):
        found = f"{text_of(ds, 'NumberOfFrames')} frames in one instance"
    elif "MOSAIC" in text_of(ds, "ImageType").split("\\"):
        found = "a mosaic: many slices tiled into one image"
    elif text_of(ds, "SamplesPerPixel") != "1" or text_of(ds, "PhotometricInterpretation") != "MONOCHROME2":
        found = f"pixels in {text_of(ds, 'PhotometricInterpretation') or 'no stated photometric interpretation'}"
    if found:
        raise UnsupportedSeries(found=found, allowed=_ALLOWED, action="send the series as classic single-frame images")


def _require_one_grid(datasets: Sequence[Dataset]) -> None:
    for keyword in _SHARED:
        if len({text_of(ds, keyword) for ds in datasets}) > 1:
            raise _mixed(f"more than one {keyword}")
    for keyword, count, tolerance in (("ImageOrientationPatient", 6, DIRECTION_TOLERANCE), ("PixelSpacing", 2, 1e-4)):
        values = np.array([_numbers(ds, keyword, count) for ds in datasets])
        if np.abs(values - values[0]).max() > tolerance:
            raise _mixed(f"more than one {keyword} (they differ by up to {np.abs(values - values[0]).max():.4f})")


def _mixed(found: str) -> UnsupportedSeries:
    return UnsupportedSeries(
        found=found,
        allowed="one grid: equal size, spacing, orientation and frame of reference in all slices",
        action="split the series (localisers, reformats and acquisitions apart), then send it again",
    )


def _numbers(ds: Dataset, keyword: str, count: int) -> list[float]:
    parts = text_of(ds, keyword).split("\\")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise UnsupportedSeries(
            found=f"a slice without {count} numbers in {keyword}",
            allowed="Image Position, Image Orientation and Pixel Spacing in each slice (PS3.3 C.7.6.2)",
            action="send a series that keeps its geometry",
        )
    return values


def _number_or(ds: Dataset, keyword: str, otherwise: float) -> float:
    return _numbers(ds, keyword, 1)[0] if text_of(ds, keyword) else otherwise
