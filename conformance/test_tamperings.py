"""Everything that somebody could do to what we published, and how `veraicon verify` tells it.

Each row names what is changed, the claim that must become false, and a piece of the reason; the untampered twin verifies each
time. The same table, in words, stands in `docs/provenance.md`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from domain.attestation import Approval
from provenance.attest import PROV_NAME, SIDECAR_NAME
from provenance.checks import names
from provenance.report import Truth, VerificationReport
from provenance.signing import ATTESTATION_KIND, STATEMENT_KIND
from tests.builders_provenance import NOW
from tests.builders_tamperings import (
    BUNDLE,
    DOCUMENT,
    KEY,
    OTHER,
    PROVENANCE,
    SEGMENTATION,
    Case,
    attestation,
    attested_by_another_site,
    block,
    broken_recall,
    document,
    element,
    entered_as_recall,
    entry_of_another,
    fewer_stated,
    fit_proof_to_pixels,
    flip_pixel,
    foreign_instance,
    forked_before,
    head_of,
    hide_in_signature,
    in_provenance,
    in_sidecar,
    key_with,
    later,
    log_proof,
    member_twice,
    not_canonical,
    of_another,
    of_another_file,
    other_card,
    preamble,
    proof,
    proof_of_another,
    prov,
    provenance_signed,
    publish_into,
    published_as,
    recall,
    recall_by_a_stopped_key,
    recall_of_another,
    resource,
    set_value,
    signed_again,
    stated,
    statement_jws,
    stranger_in_bundle,
    supersede,
    swap_companion,
    swap_series,
    twin_before,
    unsigned_recall,
    with_header,
    with_key_id_of,
    with_payload,
    without_preamble,
    write_file,
)
from veraicon.verifying.targets import verify

DOCS = Path(__file__).resolve().parents[1] / "docs" / "provenance.md"


@dataclass(frozen=True)
class Tampering:
    """One row.

    Attributes
    ----------
    what : str
        What is changed.
    claim : str
        What must be false then.
    reason : str
        A piece of what verify says.
    """

    what: str
    change: Callable[[Case], object]
    claim: str
    reason: str


_A_DAY_EARLY = int((NOW - timedelta(days=1)).timestamp())

INSTANCE = [
    Tampering("a pixel", block(flip_pixel), names.PIXELS, "the pixel values are not those"),
    Tampering("a pixel of the segmentation", block(flip_pixel, SEGMENTATION), names.PIXELS, "the pixel values are not those"),
    Tampering("the pixels taken out", block(lambda ds: delattr(ds, "PixelData")), names.PIXELS, "are gone"),
    Tampering(
        "bytes behind the last pixel",
        block(lambda ds: setattr(ds, "PixelData", ds.PixelData + b"secret")),
        names.PIXELS,
        "bytes behind the last pixel",
    ),
    Tampering("a tag: the name of a real person", block(set_value("PatientName", "Real^Person")), names.ATTRIBUTES, "not those"),
    Tampering("a tag: the pixel spacing", block(set_value("PixelSpacing", [2.0, 2.0])), names.ATTRIBUTES, "not those"),
    Tampering("a tag added", block(set_value("PatientComments", "x")), names.ATTRIBUTES, "not those"),
    Tampering("a tag taken out", block(lambda ds: delattr(ds, "SeriesDescription")), names.ATTRIBUTES, "not those"),
    Tampering(
        "a tag inside a sequence",
        block(lambda ds: setattr(ds.SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3")),
        names.ATTRIBUTES,
        "not those",
    ),
    Tampering("the instance renumbered", block(set_value("InstanceNumber", 5)), names.ATTRIBUTES, "not those"),
    Tampering(
        "the words of the document",
        block(lambda ds: setattr(ds, "EncapsulatedDocument", ds.EncapsulatedDocument.replace(b"%%EOF", b"%%eof")), DOCUMENT),
        names.ATTRIBUTES,
        "not those",
    ),
    Tampering("a private element of somebody", block(lambda ds: ds.private_block(0x0011, "X", create=True).add_new(1, "LO", "x")),
              names.ATTRIBUTES, "not those"),
    Tampering("the SOP Instance UID", block(set_value("SOPInstanceUID", "1.2.3")), names.NAMED, "that of another instance"),
    Tampering("the Series Instance UID", block(set_value("SeriesInstanceUID", "1.2.3")), names.NAMED, "in another series"),
    Tampering("the Study Instance UID", block(set_value("StudyInstanceUID", "1.2.3")), names.NAMED, "in another series"),
    Tampering("the mark Synthetic Data", block(set_value("SyntheticData", "NO")), names.MARKS, "Synthetic Data YES"),
    Tampering("the mark Content Qualification", block(set_value("ContentQualification", "PRODUCT")), names.MARKS, "RESEARCH"),
    Tampering("Image Type: original", block(set_value("ImageType", ["ORIGINAL", "PRIMARY"])), names.MARKS, "DERIVED"),
    Tampering("a file cut off", write_file(0, lambda content: content[: len(content) // 2]), names.PRESENT, ""),
    Tampering("a file of 0 bytes", write_file(0, lambda _: b""), names.READABLE, "0 bytes"),
    Tampering("a file that is text", write_file(0, lambda _: b"no DICOM" * 40), names.READABLE, "no DICOM file"),
    Tampering("a file of noise behind the preamble", write_file(0, lambda _: b"\0" * 128 + b"DICM" + bytes(range(256)) * 9),
              names.PRESENT, ""),
    Tampering("text in the padding behind the data set", block(lambda ds: ds.add_new(0xFFFCFFFC, "OB", b"Real^Person")),
              names.ATTRIBUTES, "Padding that holds something"),
    Tampering("text in the preamble", write_file(0, preamble), names.ATTRIBUTES, "a preamble that is not empty"),
    Tampering("the file meta information of another instance", write_file(0, of_another_file), names.ATTRIBUTES, "of another instance"),
    Tampering("a name hidden in the item of a Digital Signature", block(hide_in_signature), names.DICOM_SIGNATURE, "that is none"),
]  # fmt: skip

BLOCK = [
    Tampering("the private block taken out", block(lambda ds: ds.remove_private_tags()), names.PRESENT, "no statement"),
    Tampering(
        "a private element hidden in the block",
        block(lambda ds: ds.private_block(0x7FDF, "VERAICON PROVENANCE").add_new(0x40, "LT", "hidden")),
        names.PRESENT,
        "6 elements",
    ),
    Tampering(
        "a second block", block(lambda ds: ds.add_new((0x7FDF, 0x0011), "LO", "VERAICON PROVENANCE")), names.PRESENT, "2 blocks"
    ),
    Tampering("the version of the block", element(0x01, lambda _: "veraicon-block/1"), names.PRESENT, "another version"),
    Tampering("text hidden in the proof", proof(lambda one: one.update(note="x")), names.PRESENT, "not in canonical form"),
    Tampering(
        "the block names another Provenance", element(0x03, lambda _: "Provenance/other"), names.SIGNED, "another request"
    ),
    Tampering(
        "the block names a server that nobody signed",
        element(0x03, lambda one: f"https://evil.example/fhir/{one}"),
        names.SIGNED,
        "another request",
    ),
    Tampering("the block names another key", element(0x04, lambda _: OTHER.kid), names.SIGNED, "another key than"),
    Tampering("the proof of another instance", proof_of_another, names.NAMED, "that of another instance"),
    Tampering("a pixel, and the proof made to fit", block(fit_proof_to_pixels), names.IN_SERIES, "does not lead to"),
    Tampering("the number of the leaf", proof(lambda one: one.update(leaf=1)), names.IN_SERIES, ""),
    Tampering("the path cut short", proof(lambda one: one["path"].pop()), names.IN_SERIES, "too short"),
    Tampering("the path made longer", proof(lambda one: one["path"].append("00" * 32)), names.IN_SERIES, "too long"),
]

STATEMENT = [
    Tampering(
        "a changed seed", statement_jws(with_payload(lambda one: one["generation"].update(seed="1"))), names.SIGNED, "not hold"
    ),
    Tampering(
        "a changed source",
        statement_jws(with_payload(lambda one: one["source"].update(studyUid="1.2"))),
        names.SIGNED,
        "not hold",
    ),
    Tampering("the count of instances lowered", fewer_stated, names.SIGNED, "not hold"),
    Tampering("the statement cut off", statement_jws(lambda jws: jws[:-9]), names.SIGNED, ""),
    Tampering("the statement signed again by another key", with_key_id_of(OTHER), names.SIGNED, "not among the trusted keys"),
    Tampering("the algorithm none", statement_jws(with_header(alg="none")), names.SIGNED, "the algorithm 'none'"),
    Tampering("the algorithm HS384", statement_jws(with_header(alg="HS384")), names.SIGNED, "the algorithm 'HS384'"),
    Tampering("a key brought along in the header", statement_jws(with_header(jwk={})), names.SIGNED, "other members"),
    Tampering(
        "the key id swapped for that of another trusted key",
        lambda case: (
            case.keys["keys"].extend(OTHER.public_jwks()["keys"]),
            statement_jws(with_header(kid=OTHER.kid))(case),
            element(0x04, lambda _: OTHER.kid)(case),
        ),
        names.SIGNED,
        "not hold",
    ),
    Tampering("a payload that is not canonical", statement_jws(not_canonical), names.SIGNED, "not in canonical form"),
    Tampering("an attestation in place of the statement", statement_jws(stated), names.SIGNED, "of the kind"),
    Tampering(
        "another version, signed by the right key",
        statement_jws(signed_again(STATEMENT_KIND, change=lambda one: one.update(version="veraicon-statement/9"))),
        names.SIGNED,
        "another version",
    ),
]

FOLDER = [
    Tampering("an instance taken out", lambda case: case.files[2].unlink(), names.COMPLETE, "1 of 6 instances are missing"),
    Tampering(
        "an instance doubled",
        lambda case: shutil.copy(case.files[2], case.folder / "series" / "copy.dcm"),
        names.COMPLETE,
        "given twice",
    ),
    Tampering("an instance of another request added", foreign_instance, names.NAMED, "that of another instance"),
    Tampering("a data set without preamble added", without_preamble, names.READABLE, "no DICOM file"),
    Tampering("a swapped series", swap_series, names.NAMED, "in another series"),
    Tampering("a swapped segmentation, under our block", swap_companion, names.NAMED, "in another series"),
]

FHIR = [
    Tampering(
        "a Provenance that points elsewhere",
        in_provenance(lambda one: one["target"][0].update(reference="ImagingStudy/other")),
        names.PROVENANCE_SIGNED,
        "not hold",
    ),
    Tampering("the Provenance of another request", of_another(PROVENANCE), names.PROVENANCE_ABOUT, "another request"),
    Tampering(
        "the Provenance signed again by another key",
        provenance_signed(OTHER, lambda _: None),
        names.PROVENANCE_SIGNED,
        "not among the trusted keys",
    ),
    Tampering(
        "the Provenance without signature", in_provenance(lambda one: one.pop("signature")), names.PROVENANCE_SIGNED, "no JWS"
    ),
    Tampering(
        "the recorded time", in_provenance(lambda one: one.update(recorded="2020-01-01T00:00:00Z")), names.PROVENANCE_SIGNED, "hold"
    ),
    Tampering(
        "a label taken out of the Provenance",
        in_provenance(lambda one: one["meta"]["security"].pop()),
        names.PROVENANCE_SIGNED,
        "not hold",
    ),
    Tampering(
        "the agent exchanged",
        in_provenance(lambda one: one["agent"][1]["who"].update(display="Another Hospital")),
        names.PROVENANCE_SIGNED,
        "not hold",
    ),
    Tampering(
        "the signature in the name of somebody",
        in_provenance(lambda one: one["signature"][0]["who"].update(reference="Device/other")),
        names.PROVENANCE_SIGNED,
        "not the author",
    ),
    Tampering(
        "another statement named in the Provenance, signed by the right key",
        provenance_signed(KEY, lambda one: one["entity"][-1]["what"]["identifier"].update(value="ni:///sha-256;" + "A" * 43)),
        names.PROVENANCE_ABOUT,
        "digest of this statement",
    ),
    Tampering(
        "another attestation named in the Provenance, signed by the right key",
        provenance_signed(KEY, lambda one: one["target"][1]["identifier"].update(value="ni:///sha-256;" + "A" * 43)),
        names.PROVENANCE_ATTESTED,
        "another attestation",
    ),
    Tampering(
        "the version in the Device", resource("Device", lambda one: one["version"][0].update(value="9")), names.RESOURCES, "Device/"
    ),
    Tampering("a label taken out of the Device", resource("Device", lambda one: one["meta"]["security"].pop()), names.RESOURCES,
              "Device/"),
    Tampering(
        "the count in the ImagingStudy",
        resource("ImagingStudy", lambda one: one.update(numberOfInstances=1)),
        names.RESOURCES,
        "ImagingStudy/",
    ),
    Tampering(
        "the name of the Patient",
        resource("Patient", lambda one: one["name"][0].update(text="Real Person")),
        names.RESOURCES,
        "Patient/",
    ),
    Tampering(
        "what the parameters document holds",
        document("AIInputPrompt", lambda one: one["content"][0]["attachment"].update(data="e30=")),
        names.RESOURCES,
        "DocumentReference/",
    ),
    Tampering(
        "a changed twin before the true Patient",
        twin_before("Patient", lambda one: one["name"][0].update(text="Real Person")),
        names.RESOURCES,
        "Patient/",
    ),
    Tampering("a resource that nobody attested, in the Bundle", stranger_in_bundle, names.RESOURCES, "no attestation names"),
    Tampering("a member of the Provenance twice", member_twice, names.READABLE, "cannot be read as JSON"),
    Tampering("the model card replaced", document("AIModelCard", other_card), names.CARD, "not the one"),
]  # fmt: skip

SIDECAR = [
    Tampering(
        "a truncated sidecar",
        lambda case: (case.folder / SIDECAR_NAME).write_bytes((case.folder / SIDECAR_NAME).read_bytes()[:-20]),
        names.READABLE,
        "cannot be read as JSON",
    ),
    Tampering(
        "a truncated sidecar under another name",
        lambda case: (case.folder / "copy.json").write_bytes((case.folder / SIDECAR_NAME).read_bytes()[:-20]),
        names.READABLE,
        "cannot be read as JSON",
    ),
    Tampering("the sidecar of another request", of_another(SIDECAR_NAME), names.ATTESTATION_ABOUT, "another statement"),
    Tampering(
        "the attestation signed again by another key",
        attestation(signed_again(ATTESTATION_KIND, OTHER)),
        names.ATTESTATION_SIGNED,
        "not among the trusted keys",
    ),
    Tampering(
        "a receipt of the attestation",
        attestation(with_payload(lambda one: one["receipts"][0].update(destination="elsewhere"))),
        names.ATTESTATION_SIGNED,
        "not hold",
    ),
    Tampering(
        "an instance less in the attestation, signed by the right key",
        attestation(signed_again(ATTESTATION_KIND, change=lambda one: one["instances"][0]["instances"].pop())),
        names.ATTESTATION_SIGNED,
        "list of instances",
    ),
    Tampering(
        "something added to the sidecar", in_sidecar(lambda one: one.update(note="x")), names.ATTESTATION_SIGNED, "sidecar"
    ),
]

LOG = [
    Tampering("the proof from the log taken out", in_sidecar(lambda one: one.update(log={})), names.IN_LOG, "another form"),
    Tampering("a removed leaf of the log", log_proof(lambda one: one["path"].pop()), names.IN_LOG, ""),
    Tampering("another place in the log", log_proof(lambda one: one.update(index=2)), names.IN_LOG, ""),
    Tampering(
        "another hash on the path",
        log_proof(lambda one: one["path"].__setitem__(0, "sha256:" + "0" * 64)),
        names.IN_LOG,
        "not in",
    ),
    Tampering(
        "the time of the log entry",
        log_proof(lambda one: one["entry"].update(loggedAt="2020-01-01T00:00:00.000Z")),
        names.IN_LOG,
        "not in",
    ),
    Tampering("the entry of something else", log_proof(entry_of_another), names.IN_LOG, "of another object"),
    Tampering("entered as a recall", entered_as_recall, names.IN_LOG, "of the kind"),
    Tampering(
        "a tree head signed by another key",
        log_proof(head_of(OTHER, "log-of-the-tests", "head")),
        names.IN_LOG,
        "not among the trusted keys",
    ),
    Tampering("the tree head of another log", log_proof(head_of(KEY, "another", "previous")), names.IN_LOG, "different logs"),
    Tampering("a fork that the consistency proof hides", log_proof(forked_before), names.IN_LOG, "not the beginning"),
    Tampering(
        "no tree head before the entry",
        log_proof(lambda one: one.update(previous=None, consistency=[])),
        names.IN_LOG,
        "without the tree head before it",
    ),
]

KEYS_AND_TIMES = [
    Tampering("the key had stopped before it signed", key_with(exp=_A_DAY_EARLY), names.KEY_VALID, "had stopped"),
    Tampering(
        "the key was revoked before it signed",
        key_with(revoked={"revoked_at": _A_DAY_EARLY, "reason": "compromised"}),
        names.KEY_VALID,
        "revoked since",
    ),
    Tampering(
        "the keys of another site",
        lambda case: case.keys.update(OTHER.public_jwks()),
        names.SIGNED,
        "not among the trusted keys",
    ),
    Tampering(
        "the attestation of another trusted site",
        attested_by_another_site,
        names.ATTESTATION_SIGNED,
        "not among the trusted keys",
    ),
    Tampering("clock skew: generated in the future", published_as(state=later(days=36500)), names.TIMES, "before it was"),
    Tampering(
        "clock skew: attested in the future",
        published_as(attested_at=NOW + timedelta(days=36500)),
        names.TIMES,
        "still to come",
    ),
    Tampering(
        "attested before it was accepted",
        published_as(attested_at=NOW - timedelta(hours=1)),
        names.TIMES,
        "before it was accepted",
    ),
    Tampering(
        "approved before it was generated",
        published_as(state=lambda one: _approved_at(one, NOW - timedelta(hours=1))),
        names.TIMES,
        "approved",
    ),
]

PROV = [
    Tampering("the seed in the PROV document", prov(lambda text: text.replace('"vi:seed": "', '"vi:seed": "9')), names.PROV_JSON,
              "does not say"),
    Tampering(
        "another source in the PROV document",
        prov(lambda text: text.replace('"vi:digest": "sha256:c', '"vi:digest": "sha256:d')),
        names.PROV_JSON,
        "does not say",
    ),
    Tampering("a PROV document without activities", prov(lambda _: '{"activity": [1]}'), names.READABLE, "no PROV-JSON"),
    Tampering("the PROV document of another request", of_another(PROV_NAME), names.PROV_JSON, "does not say"),
    Tampering("an agent taken out of the PROV document", prov(lambda text: text.replace("vi:approver", "vi:nobody")),
              names.PROV_JSON, "lacks a part"),
]  # fmt: skip

RECALLED = [
    Tampering("a recall notice beside it", recall, names.NOT_RECALLED, "safety of patients"),
    Tampering("a Provenance that supersedes it", supersede, names.NOT_RECALLED, "wrong labels"),
    Tampering(
        "a forged recall in front of one that holds",
        lambda case: (unsigned_recall(case), supersede(case)),
        names.NOT_RECALLED,
        "wrong labels",
    ),
]

GROUPS = {
    "An instance": INSTANCE,
    "The private block": BLOCK,
    "The statement": STATEMENT,
    "A folder": FOLDER,
    "FHIR resources": FHIR,
    "The sidecar": SIDECAR,
    "The proof from the log": LOG,
    "Keys and times": KEYS_AND_TIMES,
    "PROV-JSON": PROV,
    "Recall": RECALLED,
}
TABLE = [row for rows in GROUPS.values() for row in rows]


def _approved_at(statement: object, at: object) -> object:
    from dataclasses import replace

    return replace(statement, approval=Approval("person", "radiologist-7", at))  # type: ignore[arg-type, type-var]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one request, with everything that it leaves behind; each row changes a copy of it, and it verifies."""
    case = publish_into(tmp_path_factory.mktemp("published") / "request-1")
    twin = _verified(case)
    assert twin.verdict, twin.to_json()
    return case.folder


def _verified(case: Case) -> VerificationReport:
    keys = case.folder.parent / "jwks.json"
    keys.write_text(json.dumps(case.keys), encoding="utf-8")
    return verify(case.folder, settings=_no_settings, keys=keys, offline=True)


def _no_settings() -> None:
    raise AssertionError("a verification with keys needs no settings")


@pytest.mark.requirement("PROV-TAMPER-001")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_each_tampering_is_told_by_its_claim_and_reason(row: Tampering, published: Path, tmp_path: Path) -> None:
    case = Case(Path(shutil.copytree(published, tmp_path / "request-1")), KEY.public_jwks())
    row.change(case)
    report = _verified(case)
    assert not report.verdict
    parts = report.parts or (report,)
    said = [claim.why for part in parts for claim in part.false if claim.name == row.claim]
    assert any(row.reason in why for why in said), {claim.name: claim.why for part in parts for claim in part.false}


@pytest.mark.requirement("PROV-TAMPER-001")
def test_the_table_is_long_enough_and_stands_in_the_docs() -> None:
    assert len(TABLE) >= 40
    assert len({row.what for row in TABLE}) == len(TABLE)
    text = DOCS.read_text(encoding="utf-8")
    missing = [row.what for row in TABLE if f"| {row.what} | `{row.claim}` |" not in text]
    assert missing == []


def test_the_untampered_folder_leaves_nothing_unsaid_but_recalls(published: Path, tmp_path: Path) -> None:
    report = _verified(Case(Path(shutil.copytree(published, tmp_path / "request-1")), KEY.public_jwks()))
    unsaid = {claim.name for claim in report.claims if claim.truth.value != "true"}
    assert unsaid == {names.NOT_RECALLED}
    assert BUNDLE in {path.name for path in published.iterdir()}


@pytest.mark.requirement("PROV-TAMPER-001")
def test_what_anybody_can_write_neither_takes_back_nor_says_that_nobody_did(published: Path, tmp_path: Path) -> None:
    for number, forged in enumerate((unsigned_recall, recall_of_another, broken_recall, recall_by_a_stopped_key)):
        case = Case(Path(shutil.copytree(published, tmp_path / str(number) / "request-1")), KEY.public_jwks())
        forged(case)
        report = _verified(case)
        assert report.verdict, [claim.why for claim in report.false]
        answer = next(claim for claim in report.claims if claim.name == names.NOT_RECALLED)
        assert answer.truth is Truth.NOT_CHECKABLE, answer.why
