from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.archive import Archive
from dicom_node.holding.paging import page_of_uids
from dicom_node.query import UNIQUE_KEYS
from dicom_node.web.query import parse_search
from domain.errors import RequestInvalid
from tests.builders_dicom import index_engine, new_archive, part10_series, series_datasets


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    held = new_archive(tmp_path)
    for name, count in (("one", 3), ("two", 1)):
        for data in part10_series(count, name=name):
            held.land(data, source="PACS")
    return held


def _found(archive: Archive, level: str, *parameters: tuple[str, str], **path: str) -> list[dict[str, str]]:
    search = parse_search(level, path, parameters)
    return search.page(archive.find(level, search.query.narrowing))[0]


@pytest.mark.requirement("DICOM-WEB-001")
def test_keywords_tags_lists_ranges_and_wildcards_match(archive: Archive) -> None:
    one, two = (str(series_datasets(1, name=name)[0].StudyInstanceUID) for name in ("one", "two"))
    assert len(_found(archive, "STUDY", ("StudyInstanceUID", f"{one},{two}"))) == 2
    assert len(_found(archive, "STUDY", ("0020000D", one))) == 1
    assert len(_found(archive, "STUDY", ("StudyDate", "20240101-20240131"), ("PatientName", "PHANTOM*"))) == 2
    assert len(_found(archive, "STUDY", ("StudyDate", "20240106-"))) == 0
    assert len(_found(archive, "IMAGE", ("InstanceNumber", "2"))) == 1
    assert len(_found(archive, "STUDY", ("ModalitiesInStudy", "MR"))) == 2


@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_the_database_gives_the_pages_that_a_search_through_everything_gives(tmp_path: Path, level: str) -> None:
    engine, held = index_engine(tmp_path), new_archive(tmp_path)
    for name, count in (("one", 12), ("two", 3), ("three", 1)):
        for data in part10_series(count, name=name):
            held.land(data, source="PACS")
    study = str(series_datasets(1, name="one")[0].StudyInstanceUID)
    for parameters in ([], [("PatientID", "P-1")], [("StudyInstanceUID", study)], [("PatientID", "NOBODY")]):
        for offset, limit in ((0, 5), (2, 10), (40, 5), (0, 0)):
            search = parse_search(level, {}, [*parameters, ("offset", str(offset)), ("limit", str(limit))])
            assert search.query.exact
            entities, beyond = search.page(held.find(level, search.query.narrowing))
            uids, total = page_of_uids(engine, level, search.query.narrowing, offset=offset, limit=limit)
            assert uids == [entity[UNIQUE_KEYS[level]] for entity in entities]
            assert max(0, total - offset - limit) == beyond
    assert not parse_search(level, {}, [("PatientName", "Phantom*")]).query.exact
    assert not parse_search(level, {}, [("PatientID", "P-*")]).query.exact


def test_a_parameter_narrows_what_the_path_names_and_never_widens_it(archive: Archive) -> None:
    one, two = (str(series_datasets(1, name=name)[0].StudyInstanceUID) for name in ("one", "two"))
    assert len(_found(archive, "IMAGE", StudyInstanceUID=one)) == 3
    assert _found(archive, "IMAGE", ("StudyInstanceUID", two), StudyInstanceUID=one) == []


@pytest.mark.requirement("DICOM-WEB-001")
def test_a_count_that_its_level_does_not_have_is_told_and_does_not_empty_the_answer(archive: Archive) -> None:
    search = parse_search(
        "SERIES", {}, [("ModalitiesInStudy", "MR"), ("RequestAttributesSequence.ScheduledProcedureStepID", "1")]
    )
    assert "ModalitiesInStudy" in search.warnings[0]
    assert "ScheduledProcedureStepID" in search.warnings[0]
    assert len(search.page(archive.find("SERIES", search.query.narrowing))[0]) == 2


def test_an_answer_is_in_the_order_of_tags_and_holds_what_was_asked_for(archive: Archive) -> None:
    search = parse_search("STUDY", {}, [("includefield", "StudyDescription,00081010"), ("limit", "1")])
    page, beyond = search.page(archive.find("STUDY", search.query.narrowing))
    told = search.as_json(page[0], "http://here/dicom-web")
    assert beyond == 1
    assert list(told) == sorted(told)
    assert told["00081030"] == {"vr": "LO"}
    assert "00081010" not in told, "a Station Name that the index does not know"
    assert told["00081190"]["Value"] == [f"http://here/dicom-web/studies/{page[0]['StudyInstanceUID']}"]
    assert "00080052" not in told
    everything = parse_search("IMAGE", {}, [("includefield", "all")])
    entity = everything.page(archive.find("IMAGE", {}))[0][0]
    assert everything.as_json(entity, "")["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]


@pytest.mark.parametrize(
    "parameter",
    [("Nonsense", "1"), ("99999999", "1"), ("limit", "x"), ("offset", "-1"), ("limit", "9" * 40), ("a b.c\r\nX: 1", "1")],
)
def test_refuses_a_parameter_that_is_none(parameter: tuple[str, str]) -> None:
    with pytest.raises(RequestInvalid):
        parse_search("IMAGE", {}, [parameter])


def test_refuses_a_path_that_names_no_uid_and_an_attribute_given_twice() -> None:
    with pytest.raises(RequestInvalid):
        parse_search("SERIES", {"StudyInstanceUID": "../x"}, [])
    with pytest.raises(RequestInvalid):
        parse_search("STUDY", {}, [("PatientID", "1"), ("PatientID", "2")])
