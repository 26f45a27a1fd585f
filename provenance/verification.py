"""Verifies published objects offline: with the public keys of the installation and nothing else.

Nothing here raises on a broken or hostile object (see `report.judge`), and nothing here trusts what is not signed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pydicom.dataset import Dataset

from domain.identifiers import derive_fhir_id
from domain.series import GeneratedInstance
from provenance.as_dicom import EmbeddedStatement, extract
from provenance.attest import sidecar_jws, verified_attestation
from provenance.canonical import canonical_json, named_information, sha256_digest
from provenance.digests import can_decode, dataset_digest, has_pixels, pixel_digest, resource_content, resource_digest
from provenance.fhir_codes import uid_identifier, uri_identifier
from provenance.report import Answer, Claim, Truth, VerificationReport, judge, no, summarise, unknown, yes
from provenance.signing import PROVENANCE_KIND, STATEMENT_KIND, key_id_of, verify, verify_detached
from provenance.statement import SignedClaims, from_claims, provenance_reference

Json = Mapping[str, Any]

PRESENT = "statement-present"
SIGNED = "statement-signed"
NAMED = "statement-names-instance"
PIXELS = "pixel-data"
ATTRIBUTES = "attributes"
MARKS = "marks"
COMPLETE = "series-complete"
PROVENANCE_SIGNED = "provenance-signed"
PROVENANCE_ABOUT = "provenance-about-series"
PROVENANCE_ATTESTED = "provenance-names-attestation"
ATTESTATION_SIGNED = "attestation-signed"
ATTESTATION_ABOUT = "attestation-about-series"
RESOURCES = "resources"

_INSTANCE_CLAIMS = (PRESENT, SIGNED, NAMED, PIXELS, ATTRIBUTES, MARKS)
_NOT_SIGNED = "no statement with a valid signature says what it should be"


def verify_instance(
    ds: Dataset, keys: Json, provenance: Json | None = None, attestation: Json | None = None
) -> VerificationReport:
    """Verify one instance; with the Provenance resource and the sidecar of its series where they are at hand.

    Parameters
    ----------
    ds : Dataset
        As a PACS gave it back, with its file meta information.
    keys : mapping
        JWK Set of the trusted public keys.
    provenance : mapping, optional
        FHIR Provenance resource.
    attestation : mapping, optional
        Content of the sidecar file (`attest.sidecar`).
    """
    claims, signed = _instance_claims(ds, keys)
    complete = Claim(COMPLETE, Truth.NOT_CHECKABLE, "one instance cannot show that its series is whole: give all of them")
    companions = _companion_claims(signed, keys, provenance, attestation)
    return VerificationReport("instance", (*claims, complete, *companions), frozenset({SIGNED, PIXELS}))


def verify_series(
    datasets: Iterable[Dataset], keys: Json, provenance: Json | None = None, attestation: Json | None = None
) -> VerificationReport:
    """Verify all instances of a series, and that none is missing, doubled or added. Instances are read one after the other."""
    per_claim: dict[str, list[Claim]] = {name: [] for name in _INSTANCE_CLAIMS}
    uids: list[str] = []
    statements: list[SignedClaims | None] = []
    for ds in datasets:
        claims, signed = _instance_claims(ds, keys)
        for claim in claims:
            per_claim[claim.name].append(claim)
        statements.append(signed)
        uids.append(_uid_of(ds))
    summary = [summarise(name, members) for name, members in per_claim.items()]
    first = next((one for one in statements if one is not None), None)
    complete = judge(COMPLETE, partial(_check_complete, statements, uids))
    companions = _companion_claims(first, keys, provenance, attestation)
    return VerificationReport("series", (*summary, complete, *companions), frozenset({SIGNED, PIXELS}))


def verify_provenance(
    resource: Json, keys: Json, attestation: Json | None = None, resources: Sequence[Json] = ()
) -> VerificationReport:
    """Verify a Provenance resource, and with the sidecar also what it is about and the resources published with it."""
    attested, attestation_claim = _attested(attestation, keys)
    about = partial(_check_about, resource, attested.statement) if attested else partial(unknown, "no valid sidecar was given")
    claims = (
        judge(PROVENANCE_SIGNED, partial(_check_provenance_signature, resource, keys)),
        judge(PROVENANCE_ABOUT, about),
        judge(PROVENANCE_ATTESTED, partial(_check_names_attestation, resource, attestation)),
        attestation_claim,
        judge(RESOURCES, partial(_check_resources, attested, resources)),
    )
    return VerificationReport("Provenance", claims, frozenset({PROVENANCE_SIGNED}))


def verify_sidecar(content: Json, keys: Json, resources: Sequence[Json] = ()) -> VerificationReport:
    """Verify the sidecar of a series, and the FHIR resources that were published with it where they are given."""
    attested, claim = _attested(content, keys)
    claims = (claim, judge(RESOURCES, partial(_check_resources, attested, resources)))
    return VerificationReport("sidecar", claims, frozenset({ATTESTATION_SIGNED}))


@dataclass(frozen=True, slots=True)
class _Attested:
    """A sidecar whose signature holds."""

    statement: SignedClaims
    resources: dict[str, str]


def _instance_claims(ds: Dataset, keys: Json) -> tuple[list[Claim], SignedClaims | None]:
    held: list[SignedClaims] = []
    embedded: list[EmbeddedStatement] = []
    claims = [
        judge(PRESENT, partial(_check_present, ds, embedded)),
        judge(SIGNED, partial(_check_signed, embedded, keys, held)),
    ]
    signed = held[0] if held else None
    claims += [
        judge(NAMED, partial(_check_named, ds, signed)),
        judge(PIXELS, partial(_check_digest, ds, signed, "pixel")),
        judge(ATTRIBUTES, partial(_check_digest, ds, signed, "dataset")),
        judge(MARKS, partial(_check_marks, ds)),
    ]
    return claims, signed


def _check_present(ds: Dataset, embedded: list[EmbeddedStatement]) -> Answer:
    found = extract(ds)
    if found is None:
        return no("the instance carries no statement: it is not ours, or the statement was taken out")
    embedded.append(found)
    return yes("the instance carries a statement")


def _check_signed(embedded: list[EmbeddedStatement], keys: Json, held: list[SignedClaims]) -> Answer:
    """Verify the signature; what stands beside the JWS in the block has to agree with it."""
    if not embedded:
        return unknown("there is no statement to verify")
    block = embedded[0]
    signed = from_claims(verify(block.jws, keys, kind=STATEMENT_KIND))
    if block.key_id != key_id_of(block.jws):
        return no("the block names another key than the signature")
    reference = provenance_reference(signed.request_id)
    if block.provenance_reference != reference and not block.provenance_reference.endswith(f"/{reference}"):
        return no("the block names the Provenance of another request")
    held.append(signed)
    return yes(f"signed by the trusted key {block.key_id}")


def _check_named(ds: Dataset, signed: SignedClaims | None) -> Answer:
    if signed is None:
        return unknown(_NOT_SIGNED)
    series = signed.series_of(ds.SeriesInstanceUID)
    if series is None or ds.StudyInstanceUID != series.study_uid:
        return no("the statement is about another series")
    instance = signed.instance(ds.SOPInstanceUID)
    if instance is None or instance not in series.instances or instance.sop_class_uid != ds.SOPClassUID:
        return no("the statement names no such instance in this series")
    return yes("the statement names this instance, series and study")


def _check_digest(ds: Dataset, signed: SignedClaims | None, kind: str) -> Answer:
    if signed is None:
        return unknown(_NOT_SIGNED)
    instance = signed.instance(ds.SOPInstanceUID)
    if instance is None:
        return no("the statement holds no digest for this SOP Instance UID")
    if kind == "pixel":
        if instance.pixel_digest is None or not has_pixels(ds):
            return _without_pixels(ds, instance)
        if not can_decode(ds):
            return unknown("no decoder for the transfer syntax of these pixels is installed here")
        same, what = pixel_digest(ds) == instance.pixel_digest, "pixel values"
    else:
        same, what = dataset_digest(ds) == instance.dataset_digest, "attributes beside the pixels"
    return yes(f"the {what} are as they were published") if same else no(f"the {what} are not those that were published")


def _without_pixels(ds: Dataset, instance: GeneratedInstance) -> Answer:
    """A document has none, by the statement and by itself; its content is among the attributes."""
    if instance.pixel_digest is not None:
        return no("the pixels that were published are gone")
    if has_pixels(ds):
        return no("pixels in an object that was published without any")
    return yes("published as a document, without pixels: its content is among the attributes")


def _check_marks(ds: Dataset) -> Answer:
    image_type = ds.get("ImageType") or ["" if has_pixels(ds) else "DERIVED"]  # a document has no Image Type
    lacking = [
        name
        for name, kept in (
            ("Synthetic Data YES", ds.get("SyntheticData") == "YES"),
            ("Content Qualification RESEARCH", ds.get("ContentQualification") == "RESEARCH"),
            ("Image Type DERIVED", (image_type if isinstance(image_type, str) else image_type[0]) == "DERIVED"),
        )
        if not kept
    ]
    return no(f"missing: {', '.join(lacking)}") if lacking else yes("marked as synthetic, for research and derived")


def _check_complete(statements: list[SignedClaims | None], uids: list[str]) -> Answer:
    """Each series of which an instance was given has to be whole; a series that was not given at all is told."""
    signed = [one for one in statements if one is not None]
    if not signed or len(signed) != len(statements):
        return unknown(_NOT_SIGNED)
    if any(one.claims != signed[0].claims for one in signed[1:]):
        return no("the instances carry different statements")
    if len(set(uids)) != len(uids):
        return no("an instance was given twice")
    given = [series for series in signed[0].all_series if {i.sop_instance_uid for i in series.instances} & set(uids)]
    stated = {str(instance.sop_instance_uid) for series in given or [signed[0].series] for instance in series.instances}
    if set(uids) != stated:
        return no(f"{len(stated - set(uids))} of {len(stated)} instances are missing, {len(set(uids) - stated)} are not stated")
    others = [series.modality for series in signed[0].all_series if series not in given]
    beside = f"; not given: the series of {', '.join(others)}" if others else ""
    return yes(f"all {len(stated)} instances of {len(given)} series of the statement are there, and no other{beside}")


def _companion_claims(
    signed: SignedClaims | None, keys: Json, provenance: Json | None, attestation: Json | None
) -> list[Claim]:
    """Claims about the Provenance and the sidecar that came with an instance or a series."""
    attested, attestation_claim = _attested(attestation, keys)
    return [
        judge(PROVENANCE_SIGNED, partial(_check_provenance_signature, provenance, keys)),
        judge(PROVENANCE_ABOUT, partial(_check_about, provenance, signed)),
        attestation_claim,
        judge(ATTESTATION_ABOUT, partial(_check_attestation_about, attested, signed)),
    ]


def _attested(content: Json | None, keys: Json) -> tuple[_Attested | None, Claim]:
    held: list[_Attested] = []

    def check() -> Answer:
        if content is None:
            return unknown("no sidecar was given")
        payload = verified_attestation(content, keys)
        digests = {str(one["reference"]): str(one["digest"]) for one in payload["resources"]}
        held.append(_Attested(from_claims(payload["statement"]), digests))
        return yes(f"signed by the trusted key {key_id_of(sidecar_jws(content))}")

    claim = judge(ATTESTATION_SIGNED, check)
    return (held[0] if held else None), claim


def _check_provenance_signature(resource: Json | None, keys: Json) -> Answer:
    if resource is None:
        return unknown("no Provenance resource was given")
    if resource.get("resourceType") != "Provenance":
        return no("the resource is no Provenance")
    content = resource_content(resource, without_signature=True)
    signatures = [one for one in resource.get("signature") or [] if one.get("sigFormat") == "application/jose"]
    if not signatures:
        return no("the Provenance carries no JWS")
    # Others may have signed beside us: the first JWS has to be ours, the rest is theirs to verify.
    ours = signatures[0]
    jws = base64.b64decode(ours["data"], validate=True).decode("ascii")
    verify_detached(jws, content, keys, kind=PROVENANCE_KIND)
    if datetime.fromisoformat(ours["when"]) != datetime.fromisoformat(resource["recorded"]):
        return no("the time beside the signature is not the recorded one")
    if ours["who"].get("reference") != resource["agent"][0]["who"]["reference"]:
        return no("the signer beside the signature is not the author")
    return yes(f"signed by the trusted key {key_id_of(jws)}")


def _check_about(resource: Json | None, signed: SignedClaims | None) -> Answer:
    if resource is None:
        return unknown("no Provenance resource was given")
    if signed is None:
        return unknown(_NOT_SIGNED)
    if resource["id"] != derive_fhir_id(signed.request_id, "Provenance"):
        return no("the Provenance belongs to another request")
    targets = [target.get("identifier") for target in resource["target"]]
    if uid_identifier(signed.series.study_uid) not in targets:
        return no("the Provenance has another study as its target")
    statement = uri_identifier(named_information(sha256_digest(canonical_json(signed.claims))))
    if statement not in [entity["what"].get("identifier") for entity in resource["entity"]]:
        return no("the Provenance does not name the digest of this statement")
    return yes("the Provenance names this study and the digest of this statement")


def _check_names_attestation(resource: Json, attestation: Json | None) -> Answer:
    if attestation is None:
        return unknown("no sidecar was given")
    digest = named_information(sha256_digest(sidecar_jws(attestation).encode("ascii")))
    if uri_identifier(digest) not in [target.get("identifier") for target in resource["target"]]:
        return no("the Provenance names another attestation")
    return yes("the Provenance names the digest of this attestation")


def _check_attestation_about(attested: _Attested | None, signed: SignedClaims | None) -> Answer:
    if attested is None:
        return unknown("no valid sidecar was given")
    if signed is None:
        return unknown(_NOT_SIGNED)
    if attested.statement.claims != signed.claims:
        return no("the attestation holds another statement")
    return yes("the attestation holds this statement")


def _check_resources(attested: _Attested | None, resources: Sequence[Json]) -> Answer:
    if attested is None or not resources:
        return unknown("a valid sidecar and the resources are needed")
    given = {f"{one['resourceType']}/{one['id']}": one for one in resources}
    covered = set(attested.resources) & set(given)
    changed = [name for name in sorted(covered) if resource_digest(given[name]) != attested.resources[name]]
    if changed:
        return no(f"changed since publication: {', '.join(changed)}")
    missing = sorted(set(attested.resources) - covered)
    if missing:
        return unknown(f"not given: {', '.join(missing)}")
    return yes(f"all {len(covered)} attested resources are as they were published")


def _uid_of(ds: Dataset) -> str:
    """SOP Instance UID, or nothing where the object has none: then the series is not complete."""
    value = ds.get("SOPInstanceUID") if isinstance(ds, Dataset) else None
    return str(value or "")
