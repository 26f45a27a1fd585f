"""What a recall writes, before outside judges: the rejection note by dciodvfy, the FHIR resources by two validators."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_node.holding.files import to_part10
from dicom_node.holding.rejecting import REJECTION_TITLES
from dicom_node.objects.rejection_note import NoteIdentity, rejection_note
from dicom_node.writing import ImageForm, SummaryForm
from fhir_adapter.bundles import amendment_bundle
from provenance.recall_as_fhir import nullified, recall_provenance
from provenance.recall_notice import RecallReason
from provenance.signing import SigningKey
from tests.builders_objects import written_objects
from tests.builders_provenance import publish
from tests.peers.dicom3tools import errors_of_instance
from tests.peers.fhir_validators import validate

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KEY = SigningKey.generate()


@pytest.mark.requirement("PROV-RECALL-005")
@pytest.mark.parametrize("image", ImageForm)
@pytest.mark.parametrize("title", REJECTION_TITLES)
def test_a_rejection_note_has_no_error_and_is_marked(tmp_path: Path, title: str, image: ImageForm) -> None:
    published = [ds for series in written_objects(image=image, summary=SummaryForm.SR).values() for ds in series]
    note = rejection_note(published, NoteIdentity("2.25.1", "2.25.2", title, "recalled: see the notice", WHEN, "0.1.0"))
    path = tmp_path / "note.dcm"
    path.write_bytes(to_part10(note))
    assert errors_of_instance(path) == []
    assert (note.SyntheticData, note.PatientID, note.StudyInstanceUID) == (
        "YES",
        published[0].PatientID,
        published[0].StudyInstanceUID,
    )


@pytest.mark.requirement("PROV-RECALL-006")
@pytest.mark.parametrize("reason", RecallReason)
def test_the_provenance_of_a_recall_is_valid(reason: RecallReason) -> None:
    provenance = recall_provenance(
        KEY,
        recall_id="recall-1",
        request_id="request-1",
        recalled_at=WHEN,
        by="data steward",
        organization="Example Hospital",
        reason=reason,
        note="",
        notice_jws="a.b.c",
        targets=["ImagingStudy/i1", "Device/d1"],
        superseded="Provenance/p1",
    )
    assert validate(provenance) == []


@pytest.mark.requirement("PROV-RECALL-006")
def test_what_is_entered_in_error_is_valid_and_the_first_provenance_is_not_among_it() -> None:
    changed = [(one, body) for one in publish(KEY, count=1).resources if (body := nullified(one)) is not None]
    assert {before["resourceType"] for before, _ in changed} == {"ImagingStudy", "DocumentReference", "Device"}
    for before, after in changed:
        assert (after["status"], nullified(after)) == ("entered-in-error", None), "a repeat changes nothing"
        assert validate(after) == validate(before), "valid as what was published; see conformance/test_provenance.py"
    first = changed[0][1]
    assert [entry["request"] for entry in amendment_bundle([first | {"meta": {"versionId": "3"}}], [])["entry"]] == [
        {"method": "PUT", "url": f"{first['resourceType']}/{first['id']}", "ifMatch": 'W/"3"'}
    ]
