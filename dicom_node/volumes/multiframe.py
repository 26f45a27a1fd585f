"""Enhanced multi-frame MR and CT, legacy converted ones too: functional groups become frames, concatenations one object. Pure.

References
----------
DICOM PS3.3 C.7.6.16 (Multi-frame Functional Groups), C.7.6.16.2.2.4 (Concatenation), C.7.6.17 (Multi-frame Dimension),
A.36, A.38 (Enhanced MR, CT), A.70, A.71 (Legacy Converted Enhanced CT, MR).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
)

from dicom_node.holding.headers import PARSE_ERRORS, text_of
from dicom_node.volumes.frames import Frame, number_or, numbers, shown, states_rescale
from domain.errors import IncompleteSeries, UnreadableInstance, UnsupportedSeries

ENHANCED = {
    EnhancedMRImageStorage: "MR",
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedCTImageStorage: "CT",
}

_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")
_CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")

# Name of the difference: the functional groups that may hold it, and the attribute in them.
_KINDS = {
    "stacks": (("FrameContentSequence",), ("StackID",)),
    "temporal positions": (("FrameContentSequence", *_CONVERTED), ("TemporalPositionIndex", "TemporalPositionIdentifier")),
    "frame types": (_FRAME_TYPES, ("FrameType",)),
    "complex components": (_FRAME_TYPES, ("ComplexImageComponent",)),
    "echo times": (("MREchoSequence", *_CONVERTED), ("EffectiveEchoTime", "EchoTime")),
    "b-values": (("MRDiffusionSequence", *_CONVERTED), ("DiffusionBValue",)),
    "rescale types": (("PixelValueTransformationSequence",), ("RescaleType",)),
}
_FURTHER = {
    "cardiac phases": (
        ("CardiacSynchronizationSequence",),
        ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    ),
    "acquisition numbers": (("FrameContentSequence", *_CONVERTED), ("FrameAcquisitionNumber", "AcquisitionNumber")),
    "trigger times": (_CONVERTED, ("TriggerTime",)),
    "inversion times": (("MRModifierSequence", *_CONVERTED), ("InversionTimes", "InversionTime")),
    "convolution kernels": (("CTReconstructionSequence", *_CONVERTED), ("ConvolutionKernel",)),
}

# Dimensions that say where a frame lies, or that `_KINDS` names already.
_PLACE_DIMENSIONS = frozenset(
    Tag(keyword)
    for keyword in (
        "StackID",
        "InStackPositionNumber",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "TemporalPositionIndex",
        "EffectiveEchoTime",
        "DiffusionBValue",
        "FrameType",
    )
)

Group = Sequence[Dataset]


def in_order(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Return the parts of a concatenation in its order; a single enhanced instance is itself.

    Raises
    ------
    UnsupportedSeries
        If several instances are no parts of one concatenation.
    IncompleteSeries
        If parts are missing or doubled.
    """
    if len(datasets) == 1 and not text_of(datasets[0], "ConcatenationUID"):
        return list(datasets)
    uids = {text_of(ds, "ConcatenationUID") for ds in datasets}
    if len(uids) > 1 or "" in uids:
        raise UnsupportedSeries(
            found=f"{len(datasets)} enhanced multi-frame instances that are no parts of one concatenation",
            allowed="one enhanced instance a series, or the parts of one Concatenation UID (0020,9161)",
            action="send each instance as a series of its own",
        )
    parts = [_whole_number(ds, "InConcatenationNumber") for ds in datasets]
    stated = max(_whole_number(ds, "InConcatenationTotalNumber", otherwise=0) for ds in datasets)
    total = stated or max(parts)
    if sorted(parts) != list(range(1, total + 1)):
        missing = len(set(range(1, total + 1)) - set(parts))
        doubled = len(parts) - len(set(parts))
        raise IncompleteSeries(
            found=f"a concatenation of {total} parts with {missing} missing and {doubled} doubled",
            allowed="each part once (PS3.3 C.7.6.16.2.2.4)",
            action="send the series again, with all of its parts",
        )
    return [datasets[index] for index in sorted(range(len(datasets)), key=lambda index: parts[index])]


def enhanced_frames(ds: Dataset, instance: int) -> list[Frame]:
    """Return the frames of one enhanced instance.

    Raises
    ------
    UnsupportedSeries
        If a frame lacks position, orientation or spacing, is geometrically distorted, or the object has supplemental colours.
    UnreadableInstance
        If there are not as many functional groups as frames.
    """
    if text_of(ds, "PixelPresentation") not in ("", "MONOCHROME"):
        raise _refused(f"pixels with a supplemental palette ({text_of(ds, 'PixelPresentation')})")
    groups = _sequence(ds, "PerFrameFunctionalGroupsSequence")
    count = _whole_number(ds, "NumberOfFrames")
    if len(groups) != count:
        raise UnreadableInstance(
            found=f"{len(groups)} per-frame functional groups for {count} frames",
            allowed="one item of Per-Frame Functional Groups Sequence a frame (PS3.3 C.7.6.16)",
            action="send the instance again as the scanner wrote it",
        )
    shared = (_sequence(ds, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    dimensions = _further_dimensions(ds)
    return [_frame((own, shared), instance, number, dimensions) for number, own in enumerate(groups)]


def _frame(groups: Group, instance: int, number: int, dimensions: dict[int, str]) -> Frame:
    if _attribute(groups, _FRAME_TYPES, ("VolumetricProperties",)) == "DISTORTED":
        raise _refused("a frame whose geometry is distorted (Volumetric Properties DISTORTED)")
    rescale = _macro(groups, "PixelValueTransformationSequence")
    further = {name: _attribute(groups, *where) for name, where in _FURTHER.items()}
    further["diffusion directions"] = _diffusion_direction(groups)
    index = text_of(_macro(groups, "FrameContentSequence"), "DimensionIndexValues").split("\\")
    further |= {name: index[place] if place < len(index) else "" for place, name in dimensions.items()}
    kinds = {name: _attribute(groups, *where) for name, where in _KINDS.items()}
    return Frame(
        instance=instance,
        number=number,
        position_mm=numbers(_macro(groups, "PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(_macro(groups, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(_macro(groups, "PixelMeasuresSequence"), "PixelSpacing", 2),
        slope=number_or(rescale, "RescaleSlope", 1.0),
        intercept=number_or(rescale, "RescaleIntercept", 0.0),
        rescaled=states_rescale(rescale),
        rescale_type=text_of(rescale, "RescaleType").upper(),
        kinds=kinds,
        further=further,
    )


def _further_dimensions(ds: Dataset) -> dict[int, str]:
    """Place in Dimension Index Values and name of each dimension that is neither a place nor a kind of its own.

    The name is the attribute's keyword or tag: a dimension's description is free text.
    """
    found = {}
    for place, item in enumerate(_sequence(ds, "DimensionIndexSequence")):
        try:
            tag: BaseTag = Tag(item.DimensionIndexPointer)
        except PARSE_ERRORS:
            continue
        if tag not in _PLACE_DIMENSIONS:
            found[place] = f"values of the dimension {keyword_for_tag(tag) or str(tag)}"
    return found


def _macro(groups: Group, keyword: str) -> Dataset:
    """Return a functional group of a frame: its own before the shared one; empty where there is none."""
    for group in groups:
        items = _sequence(group, keyword)
        if items:
            return items[0]
    return Dataset()


def _attribute(groups: Group, macros: Sequence[str], keywords: Sequence[str]) -> str:
    for macro in macros:
        for keyword in keywords:
            value = shown(_macro(groups, macro), keyword)
            if value:
                return value
    return ""


def _diffusion_direction(groups: Group) -> str:
    items = _sequence(_macro(groups, "MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
    return shown(items[0], "DiffusionGradientOrientation") if items else ""


def _sequence(ds: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(ds.get(keyword) or [])
    except PARSE_ERRORS as error:
        raise UnreadableInstance(
            found=f"a {keyword} that cannot be read ({type(error).__name__})",
            allowed="a sequence of items (PS3.5 7.5)",
            action="send the instance again",
        ) from error


def _whole_number(ds: Dataset, keyword: str, *, otherwise: int | None = None) -> int:
    text = text_of(ds, keyword)
    if text.isdigit():
        return int(text)
    if otherwise is not None:
        return otherwise
    raise UnreadableInstance(
        found=f"no whole number in {keyword}", allowed="a positive whole number", action="send the instance again"
    )


def _refused(found: str) -> UnsupportedSeries:
    return UnsupportedSeries(
        found=found,
        allowed="grey-scale frames in the straight geometry of the patient",
        action="send the original series as the scanner reconstructed it",
    )
