"""Annex A of the statement: the objects that are published, attribute by attribute, as the writers write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SegmentationStorage,
)

from dicom_node.conformance.document import Section, Table
from dicom_node.conformance.facts import PrivateBlock, PublishedFacts
from dicom_node.conformance.listing import VARIES, ListedAttribute, listed, top_level
from dicom_node.conformance.phantoms import Phantom, phantoms
from dicom_node.objects import common
from dicom_node.writing import ImageForm, SummaryForm

_Writer = Callable[[Phantom, Sequence[Dataset]], Sequence[Dataset]]


def _images(modality: str, form: ImageForm) -> _Writer:
    return lambda phantom, _: phantom.images(modality, form)


# In this order they stand in the annex; companions are written beside images of each kind in turn.
_WRITERS: Mapping[UID, _Writer] = {
    MRImageStorage: _images("MR", ImageForm.CLASSIC),
    CTImageStorage: _images("CT", ImageForm.CLASSIC),
    EnhancedMRImageStorage: _images("MR", ImageForm.ENHANCED),
    EnhancedCTImageStorage: _images("CT", ImageForm.ENHANCED),
    SegmentationStorage: lambda phantom, images: [phantom.segmentation(images)],
    EncapsulatedPDFStorage: lambda phantom, images: [phantom.summary(images, SummaryForm.PDF)],
    EnhancedSRStorage: lambda phantom, images: [phantom.summary(images, SummaryForm.SR)],
}
_BESIDE = (("MR", ImageForm.CLASSIC), ("CT", ImageForm.ENHANCED), ("MR", ImageForm.ENHANCED))

CREATED_CLASSES = frozenset({*_WRITERS, KeyObjectSelectionDocumentStorage})

_COLUMNS = ("Attribute", "Keyword", "Tag", "VR", "Presence", "Value")


def published_objects() -> dict[UID, tuple[ListedAttribute, ...]]:
    """Return every attribute of each kind of object that we publish, by SOP class."""
    beside = [(phantom, phantom.images(modality, form)) for phantom, (modality, form) in zip(phantoms(), _BESIDE, strict=True)]
    return {
        sop_class: listed([ds for phantom, images in beside for ds in write(phantom, images)])
        for sop_class, write in _WRITERS.items()
    }


def rejection_note_attributes() -> tuple[ListedAttribute, ...]:
    """Return every attribute of the notes that reject what was published."""
    return listed([phantom.rejection(phantom.images(*kind)) for phantom, kind in zip(phantoms(), _BESIDE, strict=True)])


def object_annex(published: PublishedFacts) -> Section:
    """Return annex A."""
    kinds = published_objects()
    trees = {sop_class: top_level(attributes) for sop_class, attributes in kinds.items()}
    first, *others = trees.values()
    shared = {tag: tree for tag, tree in first.items() if all(other.get(tag) == tree for other in others)}
    own = [
        Section(
            f"A.{number}",
            f"{sop_class.name} ({sop_class})",
            tables=(
                _table(
                    f"Table A-{number}. Attributes beside those of table A-1",
                    (attribute for tag, tree in trees[sop_class].items() if tag not in shared for attribute in tree),
                ),
            ),
        )
        for number, sop_class in enumerate(trees, start=2)
    ]
    note = Section(
        f"A.{len(own) + 2}",
        f"{KeyObjectSelectionDocumentStorage.name} ({KeyObjectSelectionDocumentStorage})",
        ("The rejection note of a recall, in the study of what it rejects. It has no private block.",),
        (_table(f"Table A-{len(own) + 2}. All attributes", rejection_note_attributes()),),
    )
    everywhere = (attribute for tree in shared.values() for attribute in tree)
    return Section(
        "A",
        "Information Object Definitions of created instances",
        (
            "The tables list what the writers write. Presence: ALWAYS; VNAP, the attribute is always there and may be "
            "empty; ANAP, the attribute may be missing; EMPTY, it never has a value. A value is given where it is always "
            f"the same; *{VARIES}* stands for what follows from the request, its source, the model or the site. Items of a "
            "sequence have one > for each level.",
            "All instances are encoded in Explicit VR Little Endian.",
        ),
        sections=(
            Section("A.1", "Every published instance", tables=(_table("Table A-1. Attributes that all have", everywhere),)),
            *own,
            note,
            _private(f"A.{len(own) + 3}", published.block),
        ),
    )


def code_annex() -> Section:
    """Return annex E: codes that are not of the standard, and where they come from."""
    rows = [
        (value, scheme, meaning, where)
        for (value, scheme, meaning), where in (
            (common.GENERATED_BY_MODEL, "Derivation Code Sequence (0008,9215): CID 7203 has no code for generating"),
            (common.SUMMARY_TITLE, "Concept Name Code Sequence (0040,A043) of a summary"),
            (("SECTIONn", common.CODING_SCHEME, "heading of a section"), "structured summary, containers"),
            (("LINEn-m", common.CODING_SCHEME, "name of a line"), "structured summary, texts"),
            (
                ("LABELn", common.CODING_SCHEME, "name of a label"),
                "Segmented Property Type Code Sequence (0062,000F), where the model's card names a structure without a "
                "code here",
            ),
        )
    ]
    return Section(
        "E",
        "Code set usage",
        (
            f"Private codes have the Coding Scheme Designator {common.CODING_SCHEME}, which each published instance "
            "explains in its Coding Scheme Identification Sequence (0008,0110). Standard codes are those of DCM and SCT in "
            "the tables of annex A.",
        ),
        (Table.of("Table E-1. Private codes", ("Code Value", "Scheme", "Code Meaning", "Where"), rows),),
    )


def _private(number: str, block: PrivateBlock) -> Section:
    rows = [(f"({block.group:04X},xx{one.element:02X})", one.vr, "ALWAYS", one.meaning) for one in block.elements]
    return Section(
        number,
        "Private attributes",
        (
            f"Each published instance has one private block in group {block.group:04X} with the Private Creator "
            f'"{block.creator}". It holds no patient data, is text only, and may be dropped: the instance is then valid and no '
            "longer verifiable by itself.",
        ),
        (Table.of(f"Table {number.replace('.', '-')}. Private block", ("Tag", "VR", "Presence", "Meaning"), rows),),
    )


def _table(caption: str, attributes: Iterable[ListedAttribute]) -> Table:
    return Table.of(
        caption,
        _COLUMNS,
        (
            (
                ">" * (len(one.path) - 1) + dictionary_description(one.path[-1]),
                one.keyword.lstrip(">"),
                one.tag,
                one.vr,
                one.presence,
                one.value,
            )
            for one in attributes
        ),
    )
