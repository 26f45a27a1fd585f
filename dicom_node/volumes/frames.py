"""Frames of classic and enhanced instances as one kind of thing: place, rescale, and what each shows. Pure.

A classic instance holds one frame and says everything at its top level; an enhanced one holds many and says it in functional
groups, shared or per frame (`dicom_node.volumes.multiframe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.holding.headers import text_of
from dicom_node.volumes.geometry import DIRECTION_TOLERANCE, SAME_PLACE_MM
from domain.errors import UnsupportedSeries

_SPACING_TOLERANCE_MM = 1e-4
# Values listed in a refusal; what is more is counted.
_LISTED = 6


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice as it was sent.

    Attributes
    ----------
    instance : int
        Index of its instance.
    number : int
        Its index among the frames of that instance, from 0.
    position_mm, orientation, pixel_spacing_mm : tuple of float
        Image Position, Image Orientation (Patient) and Pixel Spacing.
    slope, intercept : float
        Stored value to output unit (PS3.3 C.11.1.1.2).
    rescaled : bool
        Whether the frame states both.
    rescale_type : str
        Unit of the rescale; empty where the frame names none.
    kinds : mapping of str to str
        What must be the same in all frames of one volume: echo time, frame type.
    further : mapping of str to str
        What explains why several frames lie at one place, and may differ elsewhere: trigger time, acquisition number.
    """

    instance: int
    number: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]
    slope: float
    intercept: float
    rescaled: bool
    rescale_type: str
    kinds: Mapping[str, str]
    further: Mapping[str, str]


# Names of the differences, and the attributes of a classic instance that tell them.
_CLASSIC_KINDS = {
    "echo times": "EchoTime",
    "b-values": "DiffusionBValue",
    "temporal positions": "TemporalPositionIdentifier",
    "complex components": "ComplexImageComponent",
}
_CLASSIC_FURTHER = {
    "acquisition numbers": "AcquisitionNumber",
    "trigger times": "TriggerTime",
    "inversion times": "InversionTime",
    "convolution kernels": "ConvolutionKernel",
    "diffusion directions": "DiffusionGradientOrientation",
}


# Magnitude and phase of MR differ in Image Type alone. In CT its further values tell how slices were reconstructed (``AXIAL``
# beside ``AXIAL\ADD`` in one stack), so they count only where slices lie at one place.
_IMAGE_TYPES = "image types"


def classic_frame(ds: Dataset, instance: int) -> Frame:
    """Return the one frame of a classic instance.

    Raises
    ------
    UnsupportedSeries
        If it lacks position, orientation or spacing, or has a rescale that is no number.
    """
    kinds = {name: shown(ds, keyword) for name, keyword in _CLASSIC_KINDS.items()}
    further = {name: shown(ds, keyword) for name, keyword in _CLASSIC_FURTHER.items()}
    (kinds if text_of(ds, "Modality") == "MR" else further)[_IMAGE_TYPES] = shown(ds, "ImageType")
    return Frame(
        instance=instance,
        number=0,
        position_mm=numbers(ds, "ImagePositionPatient", 3),
        orientation=numbers(ds, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(ds, "PixelSpacing", 2),
        slope=number_or(ds, "RescaleSlope", 1.0),
        intercept=number_or(ds, "RescaleIntercept", 0.0),
        rescaled=states_rescale(ds),
        rescale_type=text_of(ds, "RescaleType").upper(),
        kinds=kinds,
        further=further,
    )


def require_one_kind(frames: Sequence[Frame]) -> None:
    """Refuse frames that are several images of one body: two echoes, magnitude and phase, two time points.

    Raises
    ------
    UnsupportedSeries
        Naming each difference with the values found.
    """
    places = {tuple(np.rint(np.array(frame.position_mm) / SAME_PLACE_MM).astype(int)) for frame in frames}
    doubled = len(places) < len(frames)
    found = _differences([frame.kinds for frame in frames])
    if doubled:
        found += _differences([frame.further for frame in frames])
    if not found:
        return
    shared = f"; {len(frames)} frames share {len(places)} places" if doubled else ""
    raise UnsupportedSeries(
        found=f"more than one image in one series: {', '.join(found)}{shared}",
        allowed="one volume: one stack, temporal position, echo, b-value and frame type",
        action="send each of them as a series of its own",
    )


def require_one_plane(frames: Sequence[Frame]) -> None:
    """Refuse frames of several orientations or pixel spacings.

    Raises
    ------
    UnsupportedSeries
        Naming the attribute and the largest difference.
    """
    for keyword, values, tolerance in (
        ("ImageOrientationPatient", [frame.orientation for frame in frames], DIRECTION_TOLERANCE),
        ("PixelSpacing", [frame.pixel_spacing_mm for frame in frames], _SPACING_TOLERANCE_MM),
    ):
        array = np.array(values)
        difference = float(np.abs(array - array[0]).max())
        if difference > tolerance:
            raise mixed(f"more than one {keyword} (they differ by up to {difference:.4f})")


def mixed(found: str) -> UnsupportedSeries:
    """Return the refusal of instances or frames that do not form one grid."""
    return UnsupportedSeries(
        found=found,
        allowed="one grid: equal size, spacing, orientation and frame of reference in all slices",
        action="split the series (localisers, reformats and acquisitions apart), then send it again",
    )


def numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return an attribute that must hold `count` finite numbers.

    Raises
    ------
    UnsupportedSeries
        If it does not.
    """
    try:
        values = tuple(float(part) for part in text_of(ds, keyword).split("\\"))
    except ValueError:
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise UnsupportedSeries(
            found=f"a slice without {count} numbers in {keyword}",
            allowed="Image Position, Image Orientation and Pixel Spacing in each slice (PS3.3 C.7.6.2)",
            action="send a series that keeps its geometry",
        )
    return values


def number_or(ds: Dataset, keyword: str, otherwise: float) -> float:
    """Return a number, or `otherwise` where the attribute is absent or empty; refuse what is no number."""
    return numbers(ds, keyword, 1)[0] if text_of(ds, keyword) else otherwise


def states_rescale(ds: Dataset) -> bool:
    """Return whether slope and intercept are both stated."""
    return bool(text_of(ds, "RescaleSlope") and text_of(ds, "RescaleIntercept"))


def shown(ds: Dataset, keyword: str) -> str:
    r"""Return a value as a refusal may show it: numbers rounded to a hundredth, so that noise of the last digit is no kind."""
    text = text_of(ds, keyword)
    try:
        return "\\".join(f"{float(part):.2f}".rstrip("0").rstrip(".") for part in text.split("\\")) if text else ""
    except ValueError:
        return text


def _differences(kinds: Sequence[Mapping[str, str]]) -> list[str]:
    """Each name with more than one value, and the values."""
    found = []
    for name in kinds[0]:
        values = sorted({one.get(name, "") for one in kinds}, key=_sort_key)
        if len(values) > 1:
            listed = ", ".join(value or "none stated" for value in values[:_LISTED])
            more = f" and {len(values) - _LISTED} more" if len(values) > _LISTED else ""
            found.append(f"{len(values)} {name} ({listed}{more})")
    return found


def _sort_key(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
