"""Which settled series become requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    RealWorldValueMappingStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SpatialRegistrationStorage,
)

from dicom_node.holding.files import to_part10
from domain.generation import GenerationRequest
from tests.builders_dicom import Clock, new_archive, part10_series
from tests.builders_objects import written_objects
from veraicon.intake import Intake
from veraicon.sections import GenerationSettings


class Jobs:
    """A job table that remembers requests and knows of no series of ours."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    def made_by_us(self, series_uid: str) -> bool:
        return False

    def submit(self, request: GenerationRequest) -> bool:
        self.requests.append(request)
        return True


def of_class(sop_class_uid: str, modality: str) -> list[bytes]:
    def change(ds: Dataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
        ds.Modality = modality

    return part10_series(1, change=change)


@pytest.mark.parametrize(
    ("contents", "asked"),
    [
        (part10_series(3), 1),
        ([to_part10(ds) for ds in written_objects()["segmentation"]], 0),
        ([to_part10(ds) for ds in written_objects()["summary"]], 0),
        (of_class(RealWorldValueMappingStorage, "RWV"), 0),
        (of_class(SpatialRegistrationStorage, "REG"), 0),
        (of_class(RTDoseStorage, "RTDOSE"), 0),
        (of_class(RTStructureSetStorage, "RTSTRUCT"), 0),
        (of_class(SpatialRegistrationStorage, "MR"), 0),
        (of_class(EnhancedMRImageStorage, "OT"), 1),
    ],
    ids=["images", "segmentation", "document", "value map", "registration", "dose", "structures", "called MR", "called OT"],
)
def test_only_images_become_a_source(tmp_path: Path, contents: list[bytes], asked: int) -> None:
    """What a PACS forwards of our own publication comes back to us, and other reports too."""
    clock, jobs = Clock(), Jobs()
    archive = new_archive(tmp_path, clock=clock)
    for content in contents:
        archive.land(content, source="PACS")
    clock.advance(60)
    passed_on: Any = jobs
    assert Intake(archive, passed_on, GenerationSettings(), settle_s=1).announce_settled() == asked
    assert len(jobs.requests) == asked
    assert archive.unannounced(1) == []
