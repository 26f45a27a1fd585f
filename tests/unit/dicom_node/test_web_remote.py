"""How questions are put to a DICOMweb peer, and how its pages become one answer; no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.calling import web
from dicom_node.calling.web import WebRemote
from dicom_node.web import peer as web_peer
from dicom_node.web.peer import WebPeer, search_all
from domain.errors import PeerAnswerInvalid, RequestInvalid

PEER = WebPeer("pacs", "http://127.0.0.1:1/dicom-web")


def match(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def paged(monkeypatch: pytest.MonkeyPatch, page_of: Callable[[int], list[str]]) -> None:
    def search(*_: Any, offset: int, **__: Any) -> list[Dataset]:
        return [match(StudyInstanceUID=uid) for uid in page_of(offset)]

    monkeypatch.setattr(web_peer, "search", search)


@pytest.mark.requirement("DICOM-PULL-007")
def test_every_page_is_read_and_a_part_is_never_taken_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [f"1.{number}" for number in range(7)]
    paged(monkeypatch, lambda offset: held[offset : offset + 3])
    assert [ds.StudyInstanceUID for ds in search_all(PEER, "STUDY", {})] == held
    # One came to the front meanwhile, so that the second page repeats the last of the first.
    paged(monkeypatch, lambda offset: ["1.1", "1.2"] if not offset else ["1.2"][: 3 - offset])
    assert len(search_all(PEER, "STUDY", {})) == 2
    paged(monkeypatch, lambda _: held)
    with pytest.raises(PeerAnswerInvalid, match="same page"):
        search_all(PEER, "STUDY", {})
    paged(monkeypatch, lambda offset: [f"1.{offset + number}" for number in range(50_000)])
    with pytest.raises(RequestInvalid, match="more than"):
        search_all(PEER, "STUDY", {})
    paged(monkeypatch, lambda _: [""])
    with pytest.raises(PeerAnswerInvalid, match="StudyInstanceUID"):
        search_all(PEER, "STUDY", {})


class Asked:
    """Stands for `search_all`, and remembers."""

    def __init__(self, *found: Dataset) -> None:
        self.found = list(found)
        self.level, self.matching, self.options = "", {}, {}  # type: ignore[var-annotated]  # filled by the call

    def __call__(self, _: WebPeer, level: str, matching: Any, **options: Any) -> list[Dataset]:
        self.level, self.matching, self.options = level, matching, options
        return self.found


@pytest.mark.requirement("DICOM-PULL-007")
def test_unique_keys_stand_in_the_path_and_everything_else_is_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(match(SeriesInstanceUID="1.2.3"))
    monkeypatch.setattr(web, "search_all", asked)
    remote = WebRemote(PEER)
    (found,) = remote.find("SERIES", ["Modality"], {"StudyInstanceUID": "1.2", "Modality": "MR"})
    assert found.StudyInstanceUID == "1.2", "as the path named it"
    assert (asked.matching, asked.options["study_uid"], asked.options["fields"]) == ({"Modality": "MR"}, "1.2", ["Modality"])
    remote.find("SERIES", [], {"StudyInstanceUID": "1.2\\1.3"})
    assert (asked.matching, asked.options["study_uid"]) == ({"StudyInstanceUID": "1.2,1.3"}, "")
    remote.find("IMAGE", [], {"SeriesInstanceUID": "1.2.3"})
    assert (asked.matching, asked.options["series_uid"]) == ({"SeriesInstanceUID": "1.2.3"}, "")
    remote.find("IMAGE", [], {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"})
    assert (asked.matching, asked.options["study_uid"], asked.options["series_uid"]) == ({}, "1.2", "1.2.3")
    with pytest.raises(RequestInvalid):
        remote.find("STUDY", [], {"NoSuchKeyword": "1"})


@pytest.mark.requirement("DICOM-PULL-007")
def test_patients_are_those_of_the_studies_and_their_number_is_told_only_where_all_were_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked(
        match(PatientID="P-1", IssuerOfPatientID="A", PatientName="One^Old"),
        match(PatientID="P-1", IssuerOfPatientID="B"),
        match(PatientID="P-1", IssuerOfPatientID="A", PatientName="One^New"),
    )
    monkeypatch.setattr(web, "search_all", asked)
    first, second = WebRemote(PEER).find("PATIENT", [], {"PatientID": "P-1"})
    assert (asked.level, str(first.PatientName)) == ("STUDY", "One^Old")
    assert (first.NumberOfPatientRelatedStudies, second.NumberOfPatientRelatedStudies) == (2, 1)
    narrowed = WebRemote(PEER).find("PATIENT", [], {"Modality": "MR"})
    assert asked.matching == {"ModalitiesInStudy": "MR"}
    assert "NumberOfPatientRelatedStudies" not in narrowed[0]
