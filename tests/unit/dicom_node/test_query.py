"""Matching of identifiers, and queries against the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.query import Root, answer, parse_find, parse_get, select
from dicom_node.querying.matching import matches
from domain.errors import RequestInvalid
from domain.identifiers import derive_uid
from tests.builders_dicom import new_archive, part10_series


def identifier(**keys: object) -> Dataset:
    ds = Dataset()
    for keyword, value in keys.items():
        # As it comes over the wire: a wildcard in a UID is for the node to judge.
        ds.add(DataElement(tag_for_keyword(keyword), dictionary_VR(keyword), value, validation_mode=IGNORE))
    return ds


@pytest.mark.requirement("DICOM-QR-002")
@pytest.mark.parametrize(
    ("value", "wanted", "vr", "expected"),
    [
        ("Doe^Jane", "DOE^J*", "PN", True),
        ("Doe^Jane^^", "doe^jane", "PN", True),
        ("Doe^Jane", "Doe", "PN", False),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "yamada^tarou", "PN", True),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "*=山田*", "PN", True),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "=太郎*", "PN", False),
        ("Yamada^Tarou", "Yamada^Tarou=山田^太郎", "PN", False),
        ("MÜLLER^Ä", "müller*", "PN", True),
        ("007", "7", "IS", True),
        ("7", "70", "IS", False),
        ("MR", "mr", "CS", False),
        ("T1 post", "T? p*t", "LO", True),
        ("a.c", "a?c", "LO", True),
        ("abc", "a.c", "LO", False),
        ("1.2.3", "1.2.*", "UI", False),
        ("1.2.3", "1.2.9\\1.2.3", "UI", True),
        ("CT\\SEG", "SEG", "CS", True),
        ("MR", "CT\\MR", "CS", True),
        ("20240105", "20240105", "DA", True),
        ("20240105", "20240106-", "DA", False),
        ("20240105", "-20240105", "DA", True),
        ("20240105", "20240101-20240104", "DA", False),
        ("", "20240101-", "DA", False),
        ("101112.5", "10-11", "TM", True),
        ("115959.9", "10-11", "TM", True),
        ("120000", "10-11", "TM", False),
        ("101112.000", "101112", "TM", True),
    ],
)
def test_matching_follows_the_rules_of_the_value_representation(value: str, wanted: str, vr: str, expected: bool) -> None:
    assert matches(value, wanted, vr) is expected


@given(st.text(st.characters(blacklist_characters="*?\\", min_codepoint=32), max_size=12).map(str.strip))
def test_a_text_without_wildcard_matches_itself_and_its_own_prefix_pattern(text: str) -> None:
    assert matches(text, text, "LO")
    assert matches(text + "tail", text + "*", "LO")
    assert not matches(text + "x", text, "LO")


@pytest.mark.requirement("DICOM-QR-002")
@given(text=st.text("ab*?", max_size=8), wanted=st.text("ab*?", max_size=8), tail=st.text("abc", max_size=4))
def test_wildcards_mean_what_a_regular_expression_of_them_means(text: str, wanted: str, tail: str) -> None:
    parts = {"*": ".*", "?": "."}
    expected = re.fullmatch("".join(parts.get(one) or re.escape(one) for one in wanted.strip()), text + tail)
    assert matches(text + tail, wanted, "LO") is bool(expected)


@pytest.mark.requirement("DICOM-QR-007")
def test_a_hostile_pattern_takes_no_more_time_than_another() -> None:
    assert not matches("a" * 64, "a*" * 2000 + "b", "LO")


@pytest.mark.requirement("DICOM-QR-003")
def test_a_range_of_dates_and_one_of_times_are_one_range_where_that_was_negotiated() -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "StudyDate": "20240105-20240107", "StudyTime": "1000-1800"}
    held = [{"StudyDate": day, "StudyTime": time} for day in ("20240105", "20240106") for time in ("0900", "1200", "2300")]
    apart = list(select(parse_find(identifier(**keys), Root.STUDY), held))
    assert apart == [held[1], held[4]]
    combined = list(select(parse_find(identifier(**keys), Root.STUDY, combined=True), held))
    assert combined == held[1:]


@pytest.mark.requirement("DICOM-QR-004")
@pytest.mark.parametrize(
    ("asked", "name", "expected"),
    [
        (None, "Doe^Jane", "ISO_IR 192"),
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 100", "山田^太郎", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", ["", "ISO 2022 IR 87"]),
        ("ISO_IR NONE", "Doe^Jane", "ISO_IR 192"),
    ],
)
def test_an_answer_comes_in_the_set_of_its_reader_where_that_can_hold_it(asked: object, name: str, expected: object) -> None:
    wanted = identifier(QueryRetrieveLevel="STUDY", PatientName="")
    if asked is not None:
        wanted.SpecificCharacterSet = asked
    found = answer(parse_find(wanted, Root.STUDY), {"StudyInstanceUID": "1.2", "PatientName": name}, retrieve_ae_title="US")
    assert found.SpecificCharacterSet == expected
    assert found.PatientName == name


@pytest.mark.requirement("DICOM-QR-001")
def test_a_level_that_the_model_does_not_have_is_refused() -> None:
    for level in ("", "PATIENT", "FRAME"):
        with pytest.raises(RequestInvalid, match="STUDY, SERIES, IMAGE"):
            parse_find(identifier(QueryRetrieveLevel=level), Root.STUDY)
    assert parse_find(identifier(QueryRetrieveLevel="PATIENT"), Root.PATIENT).level == "PATIENT"


@pytest.mark.requirement("DICOM-QR-026")
@pytest.mark.parametrize("keys", [{}, {"SeriesInstanceUID": ""}, {"SeriesInstanceUID": "*"}, {"PatientID": "P-1"}])
def test_nobody_retrieves_without_the_unique_key_of_the_level(keys: dict[str, str]) -> None:
    with pytest.raises(RequestInvalid, match="SeriesInstanceUID"):
        parse_get(identifier(QueryRetrieveLevel="SERIES", **keys), Root.STUDY)


class TestAgainstTheIndex:
    """Two patients: A with two series in two studies, B with one."""

    @pytest.fixture
    def archive(self, tmp_path: Path) -> Archive:
        archive = new_archive(tmp_path)
        for name, patient, day in (("a1", "A", "20240105"), ("a2", "A", "20240301"), ("b1", "B", "20240105")):

            def change(ds: Dataset, patient: str = patient, day: str = day) -> None:
                ds.PatientID, ds.PatientName, ds.StudyDate = patient, f"Doe^{patient}", day

            for data in part10_series(3, name=name, change=change):
                archive.land(data, source="CT1")
        return archive

    def found(self, archive: Archive, root: Root = Root.STUDY, **keys: object) -> list[Dataset]:
        query = parse_find(identifier(**keys), root)
        entities = archive.find(query.level, query.narrowing)
        return [answer(query, entity, retrieve_ae_title="US") for entity in select(query, entities)]

    @pytest.mark.requirement("DICOM-QR-001")
    def test_studies_come_with_their_counts(self, archive: Archive) -> None:
        found = self.found(
            archive, QueryRetrieveLevel="STUDY", PatientID="A", NumberOfStudyRelatedInstances=None, ModalitiesInStudy=""
        )
        assert {ds.StudyInstanceUID for ds in found} == {derive_uid("a1", "study"), derive_uid("a2", "study")}
        assert [(ds.NumberOfStudyRelatedInstances, ds.ModalitiesInStudy, ds.RetrieveAETitle) for ds in found] == [
            (3, "MR", "US")
        ] * 2

    @pytest.mark.requirement("DICOM-QR-002")
    def test_wildcards_and_ranges_narrow(self, archive: Archive) -> None:
        found = self.found(archive, QueryRetrieveLevel="STUDY", PatientName="doe^?", StudyDate="20240201-")
        assert [ds.StudyInstanceUID for ds in found] == [derive_uid("a2", "study")]

    @pytest.mark.requirement("DICOM-QR-001")
    def test_a_patient_is_one_answer_however_many_studies(self, archive: Archive) -> None:
        found = self.found(
            archive, Root.PATIENT, QueryRetrieveLevel="PATIENT", PatientID="*", NumberOfPatientRelatedStudies=None
        )
        assert [(ds.PatientID, ds.NumberOfPatientRelatedStudies) for ds in found] == [("A", 2), ("B", 1)]

    @pytest.mark.requirement("DICOM-QR-001")
    def test_images_of_a_series_by_a_list_of_uids(self, archive: Archive) -> None:
        wanted = [derive_uid("b1", "instance", n) for n in ("1", "3")]
        found = self.found(archive, QueryRetrieveLevel="IMAGE", SOPInstanceUID=wanted, InstanceNumber=None)
        assert sorted(ds.InstanceNumber for ds in found) == [1, 3]

    @pytest.mark.requirement("DICOM-QR-005")
    def test_unknown_keys_narrow_nothing_and_do_not_come_back(self, archive: Archive) -> None:
        found = self.found(
            archive, QueryRetrieveLevel="SERIES", OperatorsName="Nobody", BodyPartExamined="", SeriesInstanceUID=""
        )
        assert len(found) == 3
        assert all("OperatorsName" not in ds and "BodyPartExamined" in ds for ds in found)

    @pytest.mark.requirement("DICOM-QR-005")
    def test_keys_below_the_level_narrow_nothing(self, archive: Archive) -> None:
        assert len(self.found(archive, QueryRetrieveLevel="STUDY", SOPInstanceUID="1.2.3")) == 3

    @pytest.mark.requirement("DICOM-QR-005")
    def test_a_count_of_another_level_narrows_nothing(self, archive: Archive) -> None:
        found = self.found(archive, QueryRetrieveLevel="STUDY", NumberOfPatientRelatedStudies="7", StudyInstanceUID="")
        assert len(found) == 3
        assert all("NumberOfPatientRelatedStudies" not in ds for ds in found)

    @pytest.mark.requirement("DICOM-QR-007")
    def test_a_quote_in_a_key_is_text_and_nothing_else(self, archive: Archive) -> None:
        assert self.found(archive, QueryRetrieveLevel="STUDY", PatientID="A' OR '1'='1") == []

    @pytest.mark.requirement("DICOM-QR-026")
    def test_retrieval_names_all_instances_under_its_keys(self, archive: Archive) -> None:
        query = parse_get(identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID=derive_uid("a1", "study")), Root.STUDY)
        assert len(archive.references(query.narrowing)) == 3
