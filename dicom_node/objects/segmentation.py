"""The label map of a generated volume as a Segmentation object, by highdicom.

References
----------
DICOM PS3.3 A.51 (Segmentation IOD), C.8.20 (segmentation modules); PS3.16 CID 2, 7150, 7151, 7162.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.objects import common
from domain.errors import UnsupportedSeries
from domain.generation import GeneratedVolume, ModelIdentity
from domain.identifiers import derive_uid

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_ANATOMICAL_STRUCTURE = ("123037004", "SCT", "Anatomical Structure")
_ARTIFICIAL_INTELLIGENCE = ("123109", "DCM", "Artificial Intelligence")
# A concept of a model card is a structure, words that narrow it, and the quantity: ``hippocampus-anterior-volume``.
_STRUCTURES = {"hippocampus": ("5366008", "SCT", "Hippocampus"), "brain": ("12738006", "SCT", "Brain")}
_MODIFIERS = {
    "anterior": ("255549009", "SCT", "Anterior"),
    "posterior": ("255551008", "SCT", "Posterior"),
    "left": ("7771000", "SCT", "Left"),
    "right": ("24028007", "SCT", "Right"),
}

Labels = Sequence[tuple[int, str]]


def segmentation_instance(
    generated: GeneratedVolume, identity: SeriesIdentity, images: Sequence[Dataset], labels: Labels
) -> Dataset:
    """Return one binary segmentation of the generated images, with a segment a label.

    Parameters
    ----------
    generated : GeneratedVolume
        With a label map on the grid of its volume.
    identity : SeriesIdentity
        Of the segmentation's own series.
    images : sequence of Dataset
        The instances that `dicom_node.writing.write_series` made of the same volume, first slice first.
    labels : sequence of (int, str)
        Value in the label map and the concept that it stands for, as the model card lists them.

    Raises
    ------
    UnsupportedSeries
        If there is no label map, it is on another grid, or it holds a value that `labels` does not name.
    """
    from highdicom.seg import Segmentation, SegmentationTypeValues

    ordered = sorted(labels)
    ds = Dataset()
    ds.update(
        Segmentation(
            source_images=list(images),
            pixel_array=_segment_numbers(generated, ordered),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _described(number, concept, generated.model, identity) for number, (_, concept) in enumerate(ordered, start=1)
            ],
            series_instance_uid=identity.series_uid,
            series_number=identity.series_number,
            sop_instance_uid=identity.instance_uid(1),
            instance_number=1,
            manufacturer=common.MANUFACTURER,
            manufacturer_model_name=generated.model.name,
            software_versions=identity.software_version,
            device_serial_number=common.serial_number(generated.model),
            content_description=f"Labels of the generated volume: {common.NOT_FOR_CLINICAL_USE}",
            content_label="LABELS",
        )
    )
    _name_by_request(ds, identity)
    common.write_common_modules(ds, generated, identity, sop_class=SegmentationStorage, number=1)
    common.general_series_module(ds, identity, "SEG")
    common.content_time(ds, identity)
    ds.PositionReferenceIndicator = ""
    ds.BodyPartExamined = identity.body_part
    return ds


def _segment_numbers(generated: GeneratedVolume, labels: Labels) -> NDArray[np.uint8]:
    """The label map with label values replaced by segment numbers, which run from 1 without a gap (C.8.20.4.2)."""
    label_map = generated.label_map
    known = {value for value, _ in labels}
    if label_map is None or label_map.shape != generated.volume.shape or not labels:
        raise _refused("no label map on the grid of the generated volume")
    unknown = {int(value) for value in np.unique(label_map)} - known - {0}
    if unknown:
        raise _refused(f"labels {', '.join(map(str, sorted(unknown)))} in the label map")
    numbered = np.zeros_like(label_map)
    for number, (value, _) in enumerate(labels, start=1):
        numbered[label_map == value] = number
    return numbered


def _described(number: int, concept: str, model: ModelIdentity, identity: SeriesIdentity) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.coding import Code

    name = concept.removesuffix("-volume").replace("-", " ")
    kind, modifiers = _property_type(number, name)
    described = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=Code(*_ANATOMICAL_STRUCTURE),
        segmented_property_type=Code(*kind),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model.name, family=Code(*_ARTIFICIAL_INTELLIGENCE), version=model.version, source=common.MANUFACTURER
        ),
        tracking_uid=derive_uid(identity.request_id, "segment", concept),
        tracking_id=name,
    )
    if modifiers:
        kind_item = described.SegmentedPropertyTypeCodeSequence[0]
        kind_item.SegmentedPropertyTypeModifierCodeSequence = [common.code(*modifier) for modifier in modifiers]
    return described


def _property_type(number: int, name: str) -> tuple[tuple[str, str, str], list[tuple[str, str, str]]]:
    """Return the code of a structure and of the words that narrow it; a code of our own where a word is not known."""
    structure, *words = name.split()
    if structure in _STRUCTURES and set(words) <= set(_MODIFIERS):
        return _STRUCTURES[structure], [_MODIFIERS[word] for word in words]
    return (f"LABEL{number}", common.CODING_SCHEME, name), []


def _name_by_request(ds: Dataset, identity: SeriesIdentity) -> None:
    """Replace the UID that highdicom draws at random: the same request gives the same bytes."""
    uid = derive_uid(identity.request_id, "dimension-organization", identity.part)
    items: list[Any] = [*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence]
    for item in items:
        item.DimensionOrganizationUID = uid


def _refused(found: str) -> UnsupportedSeries:
    return UnsupportedSeries(
        found=found,
        allowed="a label map on the grid of the volume, with the labels that the model card names",
        action="check the model's card, or set publication.segmentation to false",
    )
