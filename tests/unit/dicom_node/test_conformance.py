"""The conformance statement: its tables are those that the node works by, and its two forms say the same."""

from __future__ import annotations

import inspect
import re

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.conformance.answers import CONTRACTS, Contract
from dicom_node.conformance.document import Document, Section, Table, to_data, to_markdown
from dicom_node.conformance.listing import VARIES, ListedAttribute, listed
from dicom_node.conformance.objects import published_objects
from dicom_node.statuses import NormalizedStatus, Status
from dicom_node.writing import ImageForm, SummaryForm
from tests.builders_objects import written_objects

# Error ID (0000,0903) of PS3.4 table F.7.2-2, no status.
NO_STATUS = {0xA710}
# Success that a handler leaves to pynetdicom, or names without its code.
IMPLIED = {"C-FIND", "C-MOVE and C-GET"}


@pytest.mark.requirement("DICOM-CS-003")
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.operation)
def test_an_operation_has_the_statuses_that_its_handler_states(contract: Contract) -> None:
    said = {int(code, 16) for code in re.findall(r"0x([0-9A-F]{4})", inspect.getdoc(contract.stated_by) or "")} - NO_STATUS
    told = [answer.status for answer in contract.answers]
    assert set(told) == said | ({0} if contract.operation in IMPLIED else set())
    assert len(told) == len(set(told))


@pytest.mark.requirement("DICOM-CS-003")
def test_no_status_that_the_node_knows_is_left_out() -> None:
    told = {answer.status for contract in CONTRACTS for answer in contract.answers}
    # 0xC001 is for settings that are found wrong within an operation, which none of the operations of the node meets.
    assert {int(one) for kind in (Status, NormalizedStatus) for one in kind} - told == {Status.UNABLE_TO_PROCESS}


@pytest.fixture(scope="module")
def objects() -> dict[UID, tuple[ListedAttribute, ...]]:
    return published_objects()


@pytest.mark.requirement("DICOM-OBJ-010")
@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("image", ImageForm)
@pytest.mark.parametrize("summary", SummaryForm)
def test_what_is_said_of_an_object_holds_for_those_of_another_request(
    objects: dict[UID, tuple[ListedAttribute, ...]], modality: str, image: ImageForm, summary: SummaryForm
) -> None:
    for instances in written_objects(modality, image, summary).values():
        said = {one.path: one for one in objects[instances[0].SOPClassUID]}
        for found in listed(instances):
            told = said.get(found.path)
            assert told is not None, f"{found.keyword} {found.tag} is written and not listed"
            # The identity of the builders says MR of every series.
            if found.keyword != "SeriesDescription" and told.value not in ("", VARIES) and " or " not in told.value:
                assert found.value == told.value, found.keyword
            if told.presence == "EMPTY":
                assert found.presence == "EMPTY", found.keyword
        written = {one.path for one in listed(instances)}
        top = {path for path, one in said.items() if one.presence in ("ALWAYS", "VNAP", "EMPTY") and len(path) == 1}
        assert top <= written


def test_presence_and_values_are_those_of_all_datasets() -> None:
    first, second = Dataset(), Dataset()
    first.Modality = second.Modality = "MR"
    first.PatientSex, second.PatientSex = "F", "M"
    first.PatientID, second.PatientID = "1", "2"
    first.StudyID, second.StudyID = "", "7"
    first.PatientBirthDate = second.PatientBirthDate = ""
    item = Dataset()
    item.CodeValue = "1"
    first.DerivationCodeSequence, second.AccessionNumber = [item, Dataset()], "A"
    found = {one.keyword: (one.presence, one.value) for one in listed([first, second])}
    assert found == {
        "Modality": ("ALWAYS", "MR"),
        "PatientSex": ("ALWAYS", "F or M"),
        "PatientID": ("ALWAYS", VARIES),
        "StudyID": ("VNAP", "7"),
        "PatientBirthDate": ("EMPTY", ""),
        "DerivationCodeSequence": ("ANAP", ""),
        ">CodeValue": ("ANAP", "1"),
        "AccessionNumber": ("ANAP", "A"),
    }


def test_no_text_of_a_cell_breaks_its_table_and_both_forms_hold_it() -> None:
    table = Table.of("Values", ("a", "b"), [("x|y\nz", "<b>\\")])
    document = Document("Title", ("Below.",), (Section("1", "One", sections=(Section("1.1", "Below", tables=(table,)),)),))
    lines = to_markdown(document).splitlines()
    assert lines[:3] == ["# Title", "", "Below."]
    assert "## 1 One" in lines
    assert "### 1.1 Below" in lines
    assert "| x\\|y z | &lt;b>\\\\ |" in lines
    assert to_data(document)["sections"][0]["sections"][0]["tables"][0]["rows"] == [{"a": "x|y\nz", "b": "<b>\\"}]


def test_a_row_has_a_cell_for_each_column() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        Table.of("Values", ("a", "b"), [("x",)])
