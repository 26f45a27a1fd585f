"""C-FIND of the node, asked by DCMTK's findscu and by callers that negotiate more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from dicom_node.archive import Archive
from dicom_node.calling.dimse import identifier
from dicom_node.presentation import FIND_CLASSES, find_contexts
from dicom_node.scp import StorageNode
from domain.identifiers import derive_uid
from tests.builders_dicom import new_archive, part10_series
from tests.peers.dcmtk import run_dcmtk

PEOPLE = {
    "latin": ("ISO_IR 100", "Müller^Jörg", "20240105", "101112"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "20240106", "090000"),
    "unicode": ("ISO_IR 192", "Ελένη^Παπά", "20240107", "200000"),
}


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = new_archive(tmp_path / "node")
    for name, (charset, person, day, time) in PEOPLE.items():

        def change(
            ds: Dataset, name: str = name, charset: Any = charset, person: str = person, day: str = day, time: str = time
        ) -> None:
            ds.SpecificCharacterSet, ds.PatientName, ds.PatientID = charset, person, name
            ds.StudyDate, ds.StudyTime, ds.AccessionNumber = day, time, f"ACC-{name}"

        for data in part10_series(3, name=name, change=change):
            archive.land(data, source="CT1")
    return archive


@pytest.fixture
def node(archive: Archive) -> Iterator[StorageNode]:
    running = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0)
    running.start()
    yield running
    running.stop()


def findscu(node: StorageNode, folder: Path, query: Dataset | None = None, *keys: str, model: str = "-S") -> list[Dataset]:
    """Ask by a query file and keys; return the answers as DCMTK has written them."""
    folder.mkdir()
    files = []
    if query is not None:
        files = [folder / "query.dcm"]
        query.save_as(files[0], implicit_vr=True, little_endian=True)
    pairs = [part for key in keys for part in ("-k", key)]
    asked = run_dcmtk("findscu", model, "-X", "-od", folder, "-aec", "VERAICON", *pairs, "127.0.0.1", str(node.port), *files)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    return [dcmread(path) for path in sorted(folder.glob("rsp*.dcm"))]


@pytest.mark.requirement("DICOM-QR-004")
@pytest.mark.parametrize("name", PEOPLE)
def test_a_name_is_asked_for_and_answered_in_the_character_set_of_the_caller(
    node: StorageNode, tmp_path: Path, name: str
) -> None:
    charset, person, *_ = PEOPLE[name]
    query = Dataset()
    query.SpecificCharacterSet, query.QueryRetrieveLevel, query.StudyInstanceUID = charset, "STUDY", ""
    query.PatientName = f"{person.split('^')[0]}*"
    (found,) = findscu(node, tmp_path / "asked", query)
    assert found.SpecificCharacterSet == charset
    assert found.PatientName == person
    assert found.StudyInstanceUID == derive_uid(name, "study")


@pytest.mark.requirement("DICOM-QR-004")
def test_a_caller_whose_set_cannot_hold_the_answer_gets_unicode(node: StorageNode, tmp_path: Path) -> None:
    query = Dataset()
    query.SpecificCharacterSet, query.QueryRetrieveLevel, query.PatientID, query.PatientName = (
        "ISO_IR 100",
        "STUDY",
        "unicode",
        "",
    )
    (found,) = findscu(node, tmp_path / "asked", query)
    assert (found.SpecificCharacterSet, found.PatientName) == ("ISO_IR 192", PEOPLE["unicode"][1])


@pytest.mark.requirement("DICOM-QR-002")
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["AccessionNumber=ACC-*"], {"latin", "japanese", "unicode"}),
        (["AccessionNumber=acc-*"], set()),
        (["AccessionNumber=ACC-???in"], {"latin"}),
        (["StudyDate=20240106-20240107"], {"japanese", "unicode"}),
        (["StudyDate=-20240105"], {"latin"}),
        (["StudyTime=0900-1030"], {"latin", "japanese"}),
        (["ModalitiesInStudy=MR\\CT"], {"latin", "japanese", "unicode"}),
        (["ModalitiesInStudy=CT"], set()),
        (["StudyInstanceUID=" + "\\".join(derive_uid(name, "study") for name in ("latin", "unicode"))], {"latin", "unicode"}),
        (["PatientName=MÜLLER^*".encode().decode()], set()),  # the bytes are UTF-8 and no set is named
    ],
)
def test_keys_match_by_the_rules_of_their_kind(node: StorageNode, tmp_path: Path, keys: list[str], expected: set[str]) -> None:
    found = findscu(node, tmp_path / "asked", None, "QueryRetrieveLevel=STUDY", "PatientID", *keys)
    assert {str(ds.PatientID) for ds in found} == expected


@pytest.mark.requirement("DICOM-QR-001", "DICOM-QR-005")
def test_sequences_and_unknown_keys_do_not_come_back_and_the_rest_is_filled(node: StorageNode, tmp_path: Path) -> None:
    keys = (
        "QueryRetrieveLevel=SERIES", f"StudyInstanceUID={derive_uid('latin', 'study')}", "SeriesInstanceUID",
        "RequestAttributesSequence[0].ScheduledProcedureStepID", "OperatorsName", "InstanceAvailability",
        "NumberOfSeriesRelatedInstances",
    )  # fmt: skip
    (found,) = findscu(node, tmp_path / "asked", None, *keys)
    assert "RequestAttributesSequence" not in found
    assert "OperatorsName" not in found
    assert (found.InstanceAvailability, found.RetrieveAETitle, found.NumberOfSeriesRelatedInstances) == (
        "ONLINE",
        "VERAICON",
        3,
    )


@pytest.mark.requirement("DICOM-QR-005")
def test_each_match_says_whether_all_keys_were_supported(node: StorageNode, tmp_path: Path) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "InstanceAvailability"]
    for more, said in (([], "FF00"), (["-k", "OperatorsName"], "FF01")):
        answered = run_dcmtk("findscu", "-d", "-S", "-aec", "VERAICON", "127.0.0.1", str(node.port), *keys, *more)
        statuses = re.findall(r"DIMSE Status\s*: 0x(ff\w\w)", answered.stdout + answered.stderr)
        assert {status.upper() for status in statuses} == {said}


@pytest.mark.requirement("DICOM-QR-001")
def test_levels_of_the_patient_root_are_answered_and_strange_ones_refused(node: StorageNode, tmp_path: Path) -> None:
    found = findscu(node, tmp_path / "patients", None, "QueryRetrieveLevel=PATIENT", "PatientID=*", model="-P")
    assert {str(ds.PatientID) for ds in found} == set(PEOPLE)
    refused = run_dcmtk(
        "findscu", "-v", "-S", "-aec", "VERAICON", "127.0.0.1", str(node.port), "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID"
    )  # fmt: skip
    assert "DataSetDoesNotMatch" in refused.stdout + refused.stderr


@pytest.mark.requirement("DICOM-QR-003")
def test_combined_ranges_of_date_and_time_are_granted(node: StorageNode) -> None:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = FIND_CLASSES[1], b"\x01\x01\x01\x01"
    assoc = AE("ASKER").associate(
        "127.0.0.1", node.port, contexts=find_contexts(FIND_CLASSES[1]), ae_title="VERAICON", ext_neg=[item]
    )
    try:
        assert assoc.acceptor.sop_class_extended[FIND_CLASSES[1]] == b"\x01\x01\x00\x00"
        asked = identifier("STUDY", "PatientID", StudyDate="20240105-20240107", StudyTime="1000-1900")
        found = [ds for _, ds in assoc.send_c_find(asked, FIND_CLASSES[1]) if ds is not None]
        assert {str(ds.PatientID) for ds in found} == {"latin", "japanese"}, (
            "09:00 of the 6th lies within, 20:00 of the 7th not"
        )
    finally:
        assoc.release()
