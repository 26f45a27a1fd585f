"""Rejection notes: what they withdraw from queries, retrieval and the worker, and what they leave alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.holding.files import to_part10
from dicom_node.holding.paging import page_of_uids
from dicom_node.holding.rejecting import read_rejection, rejected_series
from dicom_node.objects.rejection_note import NoteIdentity, rejection_note
from domain.errors import UnreadableInstance
from domain.identifiers import derive_uid
from tests.builders_dicom import Clock, index_engine, part10_series, series_datasets

SERIES, STUDY = derive_uid("series", "series"), derive_uid("series", "study")
LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")


def note_over(instances: list[Dataset], title: str = "113037") -> bytes:
    for ds in instances:
        ds.ReferringPhysicianName = ds.StudyID = ds.AccessionNumber = ""
    when = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    return to_part10(rejection_note(instances, NoteIdentity("2.25.71", "2.25.72", title, "recalled", when, "0.1.0")))


def opened(folder: Path) -> Archive:
    return Archive(index_engine(folder), folder / "archive", min_free_bytes=1, heeds={"PACS"}, clock=Clock())


def found(archive: Archive, level: str) -> int:
    return len(archive.find(level, {"SeriesInstanceUID": [SERIES]}))


@pytest.mark.requirement("DICOM-IOCM-001")
@pytest.mark.parametrize("note_first", [False, True])
def test_what_a_note_names_is_gone_from_every_level_and_its_bytes_are_kept(tmp_path: Path, note_first: bool) -> None:
    archive, series = opened(tmp_path), part10_series(3)
    files = [note_over(series_datasets(3)), *series] if note_first else [*series, note_over(series_datasets(3))]
    for data in (*part10_series(2, name="other"), *files):
        archive.land(data, source="PACS")
    assert [found(archive, level) for level in LEVELS] == [0, 0, 0, 0]
    assert list(archive.search("IMAGE", {"SeriesInstanceUID": [SERIES]})) == []
    assert archive.holdings({"StudyInstanceUID": [STUDY]})[0].series_uid == "2.25.71", "the note itself is found"
    assert archive.references({"SeriesInstanceUID": [SERIES]}) == []
    assert len(archive.references({"SeriesInstanceUID": [SERIES]}, rejected=True)) == 3
    with pytest.raises(UnreadableInstance, match="withdrawn"):
        archive.series(SERIES)
    assert SERIES not in {settled.series_uid for settled in archive.unannounced(0)}
    (listed,) = rejected_series(index_engine(tmp_path))
    assert (listed.series_uid, listed.rejected, listed.instances, listed.code) == (SERIES, 3, 3, "113037")
    assert len(archive.holdings({"StudyInstanceUID": [derive_uid("other", "study")]})) == 2
    archive.close()


@pytest.mark.requirement("DICOM-IOCM-001")
def test_a_note_about_some_instances_leaves_the_rest_and_its_counts(tmp_path: Path) -> None:
    archive, engine = opened(tmp_path), index_engine(tmp_path)
    for data in (*part10_series(4), note_over(series_datasets(3)), note_over(series_datasets(3))):
        archive.land(data, source="PACS")
    (entity,) = archive.find("SERIES", {"SeriesInstanceUID": [SERIES]})
    assert entity["NumberOfSeriesRelatedInstances"] == "1"
    pages = {level: page_of_uids(engine, level, {}, offset=0, limit=9) for level in ("STUDY", "SERIES", "IMAGE")}
    assert {level: total for level, (_, total) in pages.items()} == {"STUDY": 1, "SERIES": 2, "IMAGE": 2}
    archive.land(note_over(series_datasets(4)).replace(b"2.25.72", b"2.25.73"), source="PACS")
    assert page_of_uids(engine, "SERIES", {"StudyInstanceUID": [STUDY]}, offset=0, limit=9)[1] == 1
    archive.close()


@pytest.mark.requirement("DICOM-IOCM-001")
def test_a_note_of_a_stranger_and_a_key_object_that_rejects_nothing_are_kept_and_change_nothing(tmp_path: Path) -> None:
    archive = opened(tmp_path)
    of_interest = dcmread(_file(tmp_path, note_over(series_datasets(3))))
    of_interest.ConceptNameCodeSequence[0].CodeValue = "113000"
    assert read_rejection(of_interest) is None
    for data, source in (*((one, "PACS") for one in part10_series(3)), (note_over(series_datasets(3)), "STRANGER")):
        archive.land(data, source=source)
    assert [found(archive, level) for level in LEVELS] == [1, 1, 1, 3]
    archive.land(note_over(series_datasets(3)), source="archive", origin="generated")
    assert found(archive, "SERIES") == 0, "a note of our own is heeded"
    archive.close()


@pytest.mark.requirement("PROV-RECALL-005")
def test_the_same_note_has_the_same_bytes() -> None:
    assert note_over(series_datasets(3)) == note_over(series_datasets(3))


def _file(folder: Path, data: bytes) -> Path:
    (folder / "one.dcm").write_bytes(data)
    return folder / "one.dcm"
