"""The Provenance, the sidecar with its proof from the log, and the FHIR resources that were published with a series."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.identifiers import derive_fhir_id
from provenance.as_fhir import CARD_TITLE
from provenance.attest import sidecar_jws, sidecar_proof, verified_attestation
from provenance.canonical import canonical_json, named_information, sha256_digest
from provenance.checks.names import ATTESTATION_SIGNED, NOT_SIGNED
from provenance.digests import resource_content, resource_digest
from provenance.fhir_codes import uid_identifier, uri_identifier
from provenance.lineage import of_attestation
from provenance.log_proof import ATTESTATION_ENTRY, LogProof, require_logged
from provenance.report import Answer, Claim, judge, no, unknown, yes
from provenance.signing import PROVENANCE_KIND, key_id_of, verify_detached
from provenance.statement import SignedClaims, from_claims

Json = Mapping[str, Any]

_NO_SIDECAR = "no valid sidecar was given"
_NO_PROVENANCE = "no Provenance resource was given"


@dataclass(frozen=True, slots=True)
class Attested:
    """A sidecar whose signature holds.

    Attributes
    ----------
    digest : str
        Of the JWS, as the Provenance and the log name it.
    resources : dict
        Reference to digest.
    """

    statement: SignedClaims
    resources: dict[str, str]
    digest: str
    attested_at: datetime
    accepted_at: tuple[datetime, ...]
    kid: str
    payload: Json
    jws: str


def check_attestation(content: Json | None, keys: Json) -> tuple[Attested | None, Claim]:
    """Return what a sidecar attests to, and the claim about its signature."""
    held: list[Attested] = []

    def check() -> Answer:
        if content is None:
            return unknown("no sidecar was given")
        payload = verified_attestation(content, keys)
        jws = sidecar_jws(content)
        held.append(
            Attested(
                statement=from_claims(payload["statement"]),
                resources={str(one["reference"]): str(one["digest"]) for one in payload["resources"]},
                digest=sha256_digest(jws.encode("ascii")),
                attested_at=datetime.fromisoformat(payload["attestedAt"]),
                accepted_at=tuple(datetime.fromisoformat(one["acceptedAt"]) for one in payload["receipts"]),
                kid=key_id_of(jws),
                payload=payload,
                jws=jws,
            )
        )
        return yes(f"signed by the trusted key {key_id_of(jws)}")

    claim = judge(ATTESTATION_SIGNED, check)
    return (held[0] if held else None), claim


def check_logged(content: Json | None, attested: Attested | None, keys: Json, held: list[LogProof]) -> Answer:
    """Say whether the attestation stands in the log, under signed heads of a log that only grew; `held` takes the proof."""
    if attested is None or content is None:
        return unknown(_NO_SIDECAR)
    proof = require_logged(sidecar_proof(content), attested.digest, ATTESTATION_ENTRY, keys)
    held.append(proof)
    return yes(f"entry {proof.index} of the log {proof.head.log_id}, under a signed head of {proof.head.size} entries")


def check_provenance_signature(resource: Json | None, keys: Json) -> Answer:
    """Say whether a trusted key signed the Provenance as it stands."""
    if resource is None:
        return unknown(_NO_PROVENANCE)
    if resource.get("resourceType") != "Provenance":
        return no("the resource is no Provenance")
    content = resource_content(resource, without_signature=True)
    jws = provenance_jws(resource)
    if jws is None:
        return no("the Provenance carries no JWS")
    verify_detached(jws, content, keys, kind=PROVENANCE_KIND)
    ours = _signature_of(resource)
    if datetime.fromisoformat(ours["when"]) != datetime.fromisoformat(resource["recorded"]):
        return no("the time beside the signature is not the recorded one")
    if ours["who"].get("reference") != resource["agent"][0]["who"]["reference"]:
        return no("the signer beside the signature is not the author")
    return yes(f"signed by the trusted key {key_id_of(jws)}")


def provenance_jws(resource: Json) -> str | None:
    """Return the detached JWS of a Provenance, not verified; None where it has none."""
    ours = _signature_of(resource)
    return base64.b64decode(ours["data"], validate=True).decode("ascii") if ours else None


def _signature_of(resource: Json) -> dict[str, Any]:
    """Others may have signed beside us: the first JWS has to be ours, the rest is theirs to verify."""
    return next((one for one in resource.get("signature") or [] if one.get("sigFormat") == "application/jose"), {})


def check_about(resource: Json | None, signed: SignedClaims | None) -> Answer:
    """Say whether the Provenance is about the study and the statement of a series."""
    if resource is None:
        return unknown(_NO_PROVENANCE)
    if signed is None:
        return unknown(NOT_SIGNED)
    if resource["id"] != derive_fhir_id(signed.request_id, "Provenance"):
        return no("the Provenance belongs to another request")
    targets = [target.get("identifier") for target in resource["target"]]
    if uid_identifier(signed.series.study_uid) not in targets:
        return no("the Provenance has another study as its target")
    statement = uri_identifier(named_information(sha256_digest(canonical_json(signed.claims))))
    if statement not in [entity["what"].get("identifier") for entity in resource["entity"]]:
        return no("the Provenance does not name the digest of this statement")
    return yes("the Provenance names this study and the digest of this statement")


def check_names_attestation(resource: Json | None, attestation: Json | None) -> Answer:
    """Say whether the Provenance names the attestation by its digest."""
    if resource is None:
        return unknown(_NO_PROVENANCE)
    if attestation is None:
        return unknown("no sidecar was given")
    digest = named_information(sha256_digest(sidecar_jws(attestation).encode("ascii")))
    if uri_identifier(digest) not in [target.get("identifier") for target in resource["target"]]:
        return no("the Provenance names another attestation")
    return yes("the Provenance names the digest of this attestation")


def check_attestation_about(attested: Attested | None, signed: SignedClaims | None) -> Answer:
    """Say whether the attestation holds the statement that the instances carry."""
    if attested is None:
        return unknown(_NO_SIDECAR)
    if signed is None:
        return unknown(NOT_SIGNED)
    if attested.statement.claims != signed.claims:
        return no("the attestation holds another statement")
    return yes("the attestation holds this statement")


def check_resources(attested: Attested | None, resources: Sequence[Json]) -> Answer:
    """Say whether the resources are those whose digests the attestation holds."""
    if attested is None or not resources:
        return unknown("a valid sidecar and the resources are needed")
    given = [(f"{one['resourceType']}/{one['id']}", one) for one in resources]  # of each copy, not only of the last one
    covered = set(attested.resources) & {name for name, _ in given}
    changed = sorted({name for name, one in given if name in covered and resource_digest(one) != attested.resources[name]})
    if changed:
        return no(f"changed since publication: {', '.join(changed)}")
    missing = sorted(set(attested.resources) - covered)
    if missing:
        return unknown(f"not given: {', '.join(missing)}")
    return yes(f"all {len(covered)} attested resources are as they were published")


def check_prov(attested: Attested | None, prov: str | None) -> Answer:
    """Say whether a PROV-JSON document tells the lineage that the sidecar tells."""
    if prov is None:
        return unknown("no PROV-JSON document was given")
    if attested is None:
        return unknown(_NO_SIDECAR)
    from provenance.as_prov import from_prov_json  # its library is only needed where there is such a document

    if from_prov_json(prov) != of_attestation(attested.payload, attested.jws):
        return no("the PROV-JSON document does not say what the attestation says")
    return yes("the PROV-JSON document says what the attestation says")


def check_card(signed: SignedClaims | None, resources: Sequence[Json]) -> Answer:
    """Say whether the model card among the resources is the one whose digest the statement holds."""
    if signed is None:
        return unknown(NOT_SIGNED)
    reference = derive_fhir_id(signed.request_id, "DocumentReference", "model-card")
    documents = [one for one in resources if (one["resourceType"], one["id"]) == ("DocumentReference", reference)]
    if not documents:
        return unknown("no model card was given")
    for document in documents:
        attachments = [content["attachment"] for content in document["content"]]
        held = [one["data"] for one in attachments if one.get("title") == CARD_TITLE]
        if len(held) != 1 or sha256_digest(base64.b64decode(held[0], validate=True)) != signed.claims["model"]["cardDigest"]:
            return no("the model card is not the one that the statement names by its digest")
    return yes("the model card is the one that the statement names by its digest")
