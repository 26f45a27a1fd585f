"""A folder as it was published (images, segmentation, document, sidecar, Provenance, Bundle, PROV), and ways to tamper with it."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from domain.attestation import Approval
from domain.generation import Publication, Receipt
from fhir_adapter.bundles import publication_bundle
from provenance.as_dicom import PRIVATE_CREATOR, PRIVATE_GROUP, embed_series
from provenance.as_prov import to_prov_json
from provenance.attest import PROV_NAME, SIDECAR_NAME, attest, sidecar
from provenance.canonical import canonical_json, from_base64url, sha256_digest, to_base64url
from provenance.digests import pixel_digest, resource_content
from provenance.lineage import of_sidecar
from provenance.log_proof import RECALL_ENTRY, log_entry, proof_to_json
from provenance.recall_as_fhir import recall_provenance
from provenance.recall_notice import NOTICE_SUFFIX, RecalledOutput, RecallReason, sign_notice
from provenance.signing import ATTESTATION_KIND, PROVENANCE_KIND, STATEMENT_KIND, SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_objects import stated_objects, written_objects
from tests.builders_provenance import NOW, MemoryLog
from tests.builders_quality import make_card

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
PROVENANCE, BUNDLE = "provenance.json", "fhir-bundle.json"
IMAGES, SEGMENTATION, DOCUMENT = 6, 6, 7  # of the files by number: six slices, then one each


@dataclass
class Case:
    """A published folder, and the keys that its receiver trusts."""

    folder: Path
    keys: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        """The instances: slices, segmentation, document."""
        return sorted((self.folder / "series").glob("*.dcm"))

    def edit(self, number: int, change: Callable[[Dataset], object]) -> None:
        """Change an instance as any DICOM program could."""
        ds = dcmread(self.files[number])
        change(ds)
        self.files[number].write_bytes(to_part10(ds))

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def write(self, name: str, content: Any) -> None:
        (self.folder / name).write_text(json.dumps(content), encoding="utf-8")

    def edit_json(self, name: str, change: Callable[[Any], object]) -> None:
        content = self.json(name)
        change(content)
        self.write(name, content)


def publish_into(folder: Path, request_id: str = "request-1", **how: Any) -> Case:
    """Go the whole way of a request and put everything that it leaves behind into a folder.

    `how`: key, state (changes the statement before it is signed), attested_at, log, enter (changes the proof from the log).
    """
    key: SigningKey = how.get("key", KEY)
    written = written_objects(request_id=request_id)
    statement = how.get("state", lambda one: one)(stated_objects(written, request_id))
    jws, reference = sign_statement(statement, key), provenance_reference(request_id)
    (folder / "series").mkdir(parents=True)
    number = 0
    for instances, series in zip(written.values(), statement.all_series, strict=True):
        for ds in embed_series(instances, series, jws, reference):
            (folder / "series" / f"{number:05d}.dcm").write_bytes(to_part10(ds))
            number += 1
    publication = Publication(request_id, statement.series, (Receipt("pacs", "C-STORE", number, NOW),), statement.companions)
    at = how.get("attested_at", NOW)
    log: MemoryLog = how.get("log") or grown_log(key)
    attestation, resources = attest(
        statement,
        publication,
        make_card(),
        key,
        now=at,
        organization="Example Hospital",
        enter=lambda one: log.enter(one, at=at),
    )
    case = Case(folder, key.public_jwks())
    content = sidecar(attestation)
    case.write(SIDECAR_NAME, content)
    case.write(PROVENANCE, resources[-1])
    case.write(BUNDLE, publication_bundle(resources))
    (folder / PROV_NAME).write_text(to_prov_json(of_sidecar(content, case.keys)), encoding="utf-8")
    return case


def grown_log(key: SigningKey, log_id: str = "log-of-the-tests") -> MemoryLog:
    """Return a log in which others stand already."""
    log = MemoryLog(key, log_id)
    for name in ("a", "b", "c"):
        log.enter(name, at=NOW)
    return log


# Ways to change what stands in the private block.


def block(change: Callable[[Dataset], object], number: int = 0) -> Callable[[Case], None]:
    return lambda case: case.edit(number, change)


def element(number: int, change: Callable[[str], str], file: int = 0) -> Callable[[Case], None]:
    """Change one text of the private block."""

    def edit(ds: Dataset) -> None:
        found = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[number]
        found.value = change(str(found.value))

    return lambda case: case.edit(file, edit)


def statement_jws(change: Callable[[str], str]) -> Callable[[Case], None]:
    return element(0x02, change)


def proof(change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    def edit(text: str) -> str:
        content = json.loads(text)
        change(content)
        return canonical_json(content).decode()

    return element(0x05, edit)


def payload(jws: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(from_base64url(jws.split(".")[1]))
    return content


def with_payload(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """Change what is signed and keep the signature."""

    def edit(jws: str) -> str:
        header, _, signature = jws.split(".")
        content = payload(jws)
        change(content)
        return f"{header}.{to_base64url(canonical_json(content))}.{signature}"

    return edit


def with_header(**members: Any) -> Callable[[str], str]:
    """Change the protected header and keep the signature."""

    def edit(jws: str) -> str:
        header, content, signature = jws.split(".")
        changed = {**json.loads(from_base64url(header)), **members}
        return f"{to_base64url(canonical_json(changed))}.{content}.{signature}"

    return edit


def signed_again(kind: str, key: SigningKey = KEY, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Any:
    """Change what is signed and sign it: an insider, or a stranger with his own key."""

    def edit(jws: str) -> str:
        content = payload(jws)
        change(content)
        return key.sign(content, kind=kind)

    return edit


def with_key_id_of(key: SigningKey) -> Callable[[Case], None]:
    """Sign the statement by another key, everywhere and wholly: block, key id, every instance."""

    def edit(ds: Dataset) -> None:
        found = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        found[0x02].value = signed_again(STATEMENT_KIND, key)(str(found[0x02].value))
        found[0x04].value = key.kid

    return lambda case: [case.edit(number, edit) for number in range(len(case.files))] and None


# Ways to change what lies beside the instances.


def in_sidecar(change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    return lambda case: case.edit_json(SIDECAR_NAME, change)


def attestation(change: Callable[[str], str]) -> Callable[[Case], None]:
    return in_sidecar(lambda content: content.update(jws=change(content["jws"])))


def log_proof(change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    return in_sidecar(lambda content: change(content["log"]))


def in_provenance(change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    return lambda case: case.edit_json(PROVENANCE, change)


def provenance_signed(key: SigningKey, change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    """Change the Provenance and sign it again."""

    def edit(resource: dict[str, Any]) -> None:
        change(resource)
        detached = key.sign_detached(resource_content(resource, without_signature=True), kind=PROVENANCE_KIND)
        resource["signature"][0]["data"] = base64.b64encode(detached.encode()).decode()

    return in_provenance(edit)


def resource(kind: str, change: Callable[[dict[str, Any]], object], place: int = 0) -> Callable[[Case], None]:
    """Change a resource of the Bundle."""

    def edit(bundle: dict[str, Any]) -> None:
        change([one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == kind][place])

    return lambda case: case.edit_json(BUNDLE, edit)


def document(code: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    """Change the DocumentReference of a type in the Bundle."""

    def edit(bundle: dict[str, Any]) -> None:
        found = [one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "DocumentReference"]
        change(next(one for one in found if one["type"]["coding"][0]["code"] == code))

    return lambda case: case.edit_json(BUNDLE, edit)


def prov(change: Callable[[str], str]) -> Callable[[Case], None]:
    def edit(case: Case) -> None:
        path = case.folder / PROV_NAME
        before = path.read_text(encoding="utf-8")
        path.write_text(change(before), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != before

    return edit


def of_another(name: str) -> Callable[[Case], None]:
    """Put the same thing of another request in place of ours."""

    def edit(case: Case) -> None:
        other = publish_into(case.folder.parent / "other", "request-2")
        shutil.copy(other.folder / name, case.folder / name)

    return edit


def published_as(**how: Any) -> Callable[[Case], None]:
    """Publish it anew in a way in which it must not be; whatever is signed is signed by the trusted key."""

    def edit(case: Case) -> None:
        shutil.rmtree(case.folder)
        publish_into(case.folder, **how)

    return edit


# Single changes with more than one line.


def flip_pixel(ds: Dataset) -> None:
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def fit_proof_to_pixels(ds: Dataset) -> None:
    """Change a pixel, and write its new digest into the proof."""
    flip_pixel(ds)
    found = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x05]
    content = json.loads(found.value)
    content["entry"]["pixelDigest"] = pixel_digest(ds)
    found.value = canonical_json(content).decode()


def proof_of_another(case: Case) -> None:
    other = dcmread(case.files[1]).private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x05].value
    element(0x05, lambda _: other)(case)


def swap_companion(case: Case) -> None:
    """The segmentation of another request under the block of ours."""
    other = publish_into(case.folder.parent / "other", "request-2")
    theirs = dcmread(other.files[SEGMENTATION])
    ours = dcmread(case.files[SEGMENTATION]).private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    for number in range(1, 6):
        theirs.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[number].value = ours[number].value
    case.files[SEGMENTATION].write_bytes(to_part10(theirs))


def swap_series(case: Case) -> None:
    """The images of another request under our UIDs, with their own statement."""
    other = publish_into(case.folder.parent / "other", "request-2")
    for path, theirs in zip(case.files[:IMAGES], other.files, strict=False):
        ours, ds = dcmread(path), dcmread(theirs)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
            ours.StudyInstanceUID,
            ours.SeriesInstanceUID,
            ours.SOPInstanceUID,
        )
        ds.file_meta.MediaStorageSOPInstanceUID = ours.SOPInstanceUID
        path.write_bytes(to_part10(ds))


def foreign_instance(case: Case) -> None:
    """A slice of another request, put into our series with our statement."""
    other = publish_into(case.folder.parent / "other", "request-2")
    ours, ds = dcmread(case.files[0]), dcmread(other.files[0])
    ds.SeriesInstanceUID, ds.StudyInstanceUID = ours.SeriesInstanceUID, ours.StudyInstanceUID
    mine = ours.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    for number in range(1, 6):
        ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[number].value = mine[number].value
    (case.folder / "series" / "99999.dcm").write_bytes(to_part10(ds))


def fewer_stated(case: Case) -> None:
    """One instance gone, and the signed number of them lowered to fit."""
    case.files[IMAGES - 1].unlink()
    lowered = with_payload(lambda claims: claims["series"]["instances"].update(count=IMAGES - 1))
    for number in range(len(case.files)):
        element(0x02, lowered, number)(case)


def twin_before(kind: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Case], None]:
    """A changed copy of a resource in front of the true one."""

    def edit(bundle: dict[str, Any]) -> None:
        true = next(one for one in bundle["entry"] if one["resource"]["resourceType"] == kind)
        twin = json.loads(json.dumps(true))
        change(twin["resource"])
        bundle["entry"].insert(0, twin)

    return lambda case: case.edit_json(BUNDLE, edit)


def stranger_in_bundle(case: Case) -> None:
    stranger = {"resource": {"resourceType": "Observation", "id": "stranger", "status": "final"}}
    case.edit_json(BUNDLE, lambda bundle: bundle["entry"].append(stranger))


def member_twice(case: Case) -> None:
    """Of two members of one name, the first reader sees one and the second the other."""
    path = case.folder / PROVENANCE
    path.write_text(path.read_text(encoding="utf-8").replace("{", '{"activity":{"text":"a real scan"},', 1), encoding="utf-8")


def hide_in_signature(ds: Dataset) -> None:
    """A name in an item of an item, where the statement's digest does not look."""
    hidden, signed, parameters = Dataset(), Dataset(), Dataset()
    hidden.PatientName = "Real^Person"
    signed.DigitalSignaturePurposeCodeSequence = [hidden]
    ds.DigitalSignaturesSequence, ds.MACParametersSequence = [signed], [parameters]


def of_another_file(content: bytes) -> bytes:
    """The SOP Instance UID stands in the file meta information first."""
    uid = str(dcmread(BytesIO(content)).SOPInstanceUID).encode()
    return content.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)


def preamble(content: bytes) -> bytes:
    return b"Real^Person".ljust(128) + content[128:]


def without_preamble(case: Case) -> None:
    (case.folder / "series" / "IM0099").write_bytes(case.files[0].read_bytes()[132:])


def attested_by_another_site(case: Case) -> None:
    """Two sites are trusted, and one of them attests to what the other one made."""
    case.keys["keys"] = [{**one, "site": site} for site, key in (("a", KEY), ("b", OTHER)) for one in key.public_jwks()["keys"]]
    attestation(signed_again(ATTESTATION_KIND, OTHER))(case)


def recall_by_a_stopped_key(case: Case) -> None:
    stopped = {"exp": int((NOW - timedelta(days=1)).timestamp())}
    case.keys["keys"] += [{**one, **stopped} for one in OTHER.public_jwks()["keys"]]
    notice = sign_notice(
        OTHER, recall_id="r-1", recalled_at=NOW, by="thief", reason=RecallReason.SAFETY, note="", selection={},
        recalled=[RecalledOutput("request-1", "1.2", ())],
    )  # fmt: skip
    (case.folder / f"r-1{NOTICE_SUFFIX}").write_text(notice, encoding="ascii")


def not_canonical(jws: str) -> str:
    return KEY.sign(json.dumps(payload(jws), indent=1).encode(), kind=STATEMENT_KIND)


def head_of(key: SigningKey, log_id: str, which: str) -> Callable[[dict[str, Any]], None]:
    """Put a tree head over the same root in place, of another key or another log."""

    def edit(content: dict[str, Any]) -> None:
        told = payload(content[which])
        content[which] = key.sign({**told, "logId": log_id}, kind="veraicon-tree-head+json")

    return edit


def forked_before(content: dict[str, Any]) -> None:
    """The head before ours is that of a log with another past."""
    fork = MemoryLog(KEY)
    for name in ("x", "y", "z"):
        fork.enter(name, at=NOW)
    content["previous"] = fork.head(3).jws


def entry_of_another(content: dict[str, Any]) -> None:
    """A whole and valid proof, of something else."""
    log = grown_log(KEY)
    content.update(proof_to_json(log.prove(1, 3)))


def entered_as_recall(case: Case) -> None:
    """The attestation is in the log, as another kind of thing."""
    content = case.json(SIDECAR_NAME)
    log = grown_log(KEY)
    log.entries.append(log_entry(RECALL_ENTRY, sha256_digest(content["jws"].encode()), NOW))
    content["log"] = proof_to_json(log.prove(3, 4))
    case.write(SIDECAR_NAME, content)


def key_with(**members: Any) -> Callable[[Case], None]:
    return lambda case: case.keys["keys"][0].update(members)


def recall(case: Case) -> None:
    notice = sign_notice(
        KEY, recall_id="r-1", recalled_at=NOW, by="custodian", reason=RecallReason.SAFETY, note="wrong labels", selection={},
        recalled=[RecalledOutput("request-1", str(dcmread(case.files[0]).StudyInstanceUID), ())],
    )  # fmt: skip
    (case.folder / f"r-1{NOTICE_SUFFIX}").write_text(notice, encoding="ascii")


def supersede(case: Case) -> None:
    resource = recall_provenance(
        KEY, recall_id="r-1", request_id="request-1", recalled_at=NOW, by="custodian", organization="Example Hospital",
        reason=RecallReason.SAFETY, note="wrong labels", notice_jws="x", targets=["ImagingStudy/1"],
        superseded=provenance_reference("request-1"),
    )  # fmt: skip
    case.write("superseding.json", resource)


def unsigned_recall(case: Case) -> None:
    """What anybody can write: it takes nothing back, and must not hide who does."""
    supersede(case)
    resource = case.json("superseding.json")
    (case.folder / "superseding.json").unlink()
    case.write("a-forgery.json", {**resource, "id": "forged", "signature": []})


def recall_of_another(case: Case) -> None:
    """It lies in the folder, and no server was asked for more of its kind."""
    unsigned_recall(case)
    resource = case.json("a-forgery.json")
    resource["entity"][0]["what"]["reference"] = "Provenance/another"
    case.write("a-forgery.json", resource)


def broken_recall(case: Case) -> None:
    unsigned_recall(case)
    case.write("a-forgery.json", {**case.json("a-forgery.json"), "entity": "text", "signature": [{"data": 7}]})


def other_card(found: dict[str, Any]) -> None:
    attachment = found["content"][1]["attachment"]
    card = json.loads(base64.b64decode(attachment["data"]))
    attachment["data"] = base64.b64encode(json.dumps({**card, "licence": "none"}).encode()).decode()


def set_value(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds, keyword, value)


def later(**delta: Any) -> Callable[[Any], Any]:
    return lambda one: replace(one, generated_at=one.generated_at + timedelta(**delta), approval=_approved(one, **delta))


def _approved(one: Any, **delta: Any) -> Approval:
    return replace(one.approval, at=one.approval.at + timedelta(**delta))


def stated(jws: str) -> str:
    """An attestation in place of a statement: signed by the right key, for something else."""
    return KEY.sign(payload(jws), kind=ATTESTATION_KIND)


def write_file(number: int, content: Callable[[bytes], bytes]) -> Callable[[Case], None]:
    return lambda case: case.files[number].write_bytes(content(case.files[number].read_bytes())) and None
