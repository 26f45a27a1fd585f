"""The summary as a structured report, by highdicom.

References
----------
DICOM PS3.3 A.35.2 (Enhanced SR IOD), C.17 (SR modules).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import EnhancedSRStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.objects import common
from dicom_node.objects.summary import Section
from domain.generation import GeneratedVolume


def report_instance(
    generated: GeneratedVolume, identity: SeriesIdentity, images: Sequence[Dataset], sections: Sequence[Section]
) -> Dataset:
    """Return the structured report: a container a section, a text a line.

    Parameters
    ----------
    identity : SeriesIdentity
        Of the report's own series.
    images : sequence of Dataset
        The generated instances that it is about: its evidence.
    sections : sequence of Section
        What it says.
    """
    from highdicom.sr import EnhancedSR

    ds = Dataset()
    ds.update(
        EnhancedSR(
            evidence=list(images),
            content=_content(sections),
            series_instance_uid=identity.series_uid,
            series_number=identity.series_number,
            sop_instance_uid=identity.instance_uid(1),
            instance_number=1,
            manufacturer=common.MANUFACTURER,
            is_complete=True,
        )
    )
    common.write_common_modules(ds, generated, identity, sop_class=EnhancedSRStorage, number=1)
    common.general_series_module(ds, identity, "SR")
    common.content_time(ds, identity)
    return ds


def _content(sections: Sequence[Section]) -> Dataset:
    from highdicom.sr import ContainerContentItem, ContentSequence, RelationshipTypeValues, TextContentItem

    contains = RelationshipTypeValues.CONTAINS
    root: Dataset = ContainerContentItem(name=Code(*common.SUMMARY_TITLE))
    containers = []
    for number, section in enumerate(sections, start=1):
        container = ContainerContentItem(name=_own_code(f"SECTION{number}", section.heading), relationship_type=contains)
        texts = [
            TextContentItem(name=_own_code(f"LINE{number}-{line}", name), value=text, relationship_type=contains)
            for line, (name, text) in enumerate(section.lines, start=1)
        ]
        container.ContentSequence = ContentSequence(texts)
        containers.append(container)
    root.ContentSequence = ContentSequence(containers)
    return root


def _own_code(value: str, meaning: str) -> Code:
    return Code(value, common.CODING_SCHEME, meaning)
