"""Binds a statement to the digests of what was published, signs the whole, and has it entered in the transparency log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from domain.attestation import Attestation, ProvenanceStatement, ResourceDigest
from domain.errors import AttestationError, VerificationFailed
from domain.generation import Publication
from domain.model_card import ModelCard
from domain.series import GeneratedInstance
from provenance.as_fhir import (
    attestation_document,
    reference_to,
    render_resources,
    signature,
    unsigned_provenance,
)
from provenance.canonical import canonical_json, instant
from provenance.cards.card_json import card_digest
from provenance.digesting.series_tree import SeriesTree, instance_entry, instances_from
from provenance.digests import resource_content, resource_digest
from provenance.fhir_codes import Json
from provenance.log_proof import LogProof, proof_to_json
from provenance.signing import ATTESTATION_KIND, PROVENANCE_KIND, SigningKey, key_id_of, verify
from provenance.statement import from_claims, provenance_reference, to_claims

ATTESTATION_VERSION = "veraicon-attestation/2"
SIDECAR_VERSION = "veraicon-sidecar/2"
SIDECAR_NAME = "attestation.veraicon.json"
PROV_NAME = "provenance.prov.json"

_SIDECAR_NAMES = {"version", "jws", "log"}


def attest(
    statement: ProvenanceStatement,
    publication: Publication,
    card: ModelCard,
    key: SigningKey,
    *,
    now: datetime,
    organization: str,
    enter: Callable[[str], LogProof],
    wado_url: str = "",
) -> tuple[Attestation, list[Json]]:
    """Return the attestation and the FHIR resources to publish with it, in the order in which they refer to each other.

    The same arguments give the same bytes, so a repeat changes nothing: after a restart, give the `now` of the first attempt.

    Parameters
    ----------
    statement : ProvenanceStatement
        As it was signed into the instances.
    publication : Publication
        Who accepted them.
    card : ModelCard
        Card of the weights that the statement names.
    now : datetime
        Time of the attestation, aware.
    organization : str
        Name of the custodian.
    enter : callable
        Enters the JWS of the attestation in the log and returns the proof of it; a repeat must enter it once only.
    wado_url : str
        DICOMweb address of whoever holds the instances; empty where it is not known.

    Raises
    ------
    AttestationError
        If publication, card and statement are not about the same series, weights and card, or nobody accepted the whole
        series.
    """
    _require_agreement(statement, publication, card)
    resources = render_resources(statement, publication, card, wado_url=wado_url)
    digests = tuple(ResourceDigest(reference_to(one), resource_digest(one)) for one in resources)
    jws, proof = _entered(_payload(statement, publication, digests, now, organization), key, enter)
    provenance = unsigned_provenance(statement, jws, now=now, organization=organization)
    # Everything but `signature` and the narrative is signed; a server's own meta is not.
    detached = key.sign_detached(resource_content(provenance, without_signature=True), kind=PROVENANCE_KIND)
    provenance["signature"] = [signature(statement, detached, now=now)]
    attestation = Attestation(
        request_id=statement.request_id,
        series_uid=statement.series.series_uid,
        instances=tuple(one for series in statement.all_series for one in series.instances),
        provenance_reference=reference_to(provenance),
        resources=digests,
        jws=jws,
        attested_at=now,
        log=proof_to_json(proof),
    )
    document = attestation_document(statement, jws, canonical_json(sidecar(attestation)))
    return attestation, [*resources, document, provenance]


def _entered(payload: Mapping[str, Any], key: SigningKey, enter: Callable[[str], LogProof]) -> tuple[str, LogProof]:
    """Sign an attestation and enter it; a key that was replaced in between has its successor sign."""
    jws = key.sign(payload, kind=ATTESTATION_KIND)
    try:
        return jws, enter(jws)
    except VerificationFailed:
        if key.kid == key_id_of(jws):
            raise
    jws = key.sign(payload, kind=ATTESTATION_KIND)
    return jws, enter(jws)


def sidecar(attestation: Attestation) -> dict[str, Any]:
    """Return the content of the sidecar file: the JWS and its proof from the log; nothing beside them that is not signed."""
    return {"version": SIDECAR_VERSION, "jws": attestation.jws, "log": dict(attestation.log)}


def parse_sidecar(content: object, keys: Mapping[str, Any]) -> Attestation:
    """Return the attestation in a sidecar, if one of `keys` signed it.

    Raises
    ------
    VerificationFailed
        If the content is no sidecar, or its signature or payload does not hold.
    """
    payload = verified_attestation(content, keys)
    claims = from_claims(payload.get("statement"))
    try:
        return Attestation(
            request_id=claims.request_id,
            series_uid=claims.series.series_uid,
            instances=tuple(one for _, instances in attested_instances(payload) for one in instances),
            provenance_reference=str(payload["provenance"]),
            resources=tuple(ResourceDigest(str(one["reference"]), str(one["digest"])) for one in payload["resources"]),
            jws=sidecar_jws(content),
            attested_at=datetime.fromisoformat(payload["attestedAt"]),
            log=sidecar_proof(content),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _no_sidecar("an attestation that lacks its resources, Provenance or time") from error


def verified_attestation(content: object, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signed payload of a sidecar; its proof from the log is not looked at (`log_proof.require_logged`).

    Raises
    ------
    VerificationFailed
        If the content is no sidecar, or its signature does not hold, or the payload is of another version, or lists other
        instances than those of its statement.
    """
    payload = verify(sidecar_jws(content), keys, kind=ATTESTATION_KIND)
    if payload.get("version") != ATTESTATION_VERSION:
        raise _no_sidecar("an attestation of another version")
    stated = from_claims(payload.get("statement")).all_series
    listed = attested_instances(payload)
    trees = [(uid, SeriesTree(instances)) for uid, instances in listed]
    if [(uid, tree.count, tree.root) for uid, tree in trees] != [(one.series_uid, one.count, one.root) for one in stated]:
        raise _no_sidecar("an attestation whose list of instances is not the one that its statement is about")
    return payload


def attested_instances(payload: Mapping[str, Any]) -> list[tuple[str, tuple[GeneratedInstance, ...]]]:
    """Return Series Instance UID and instances of each series that an attestation lists, in the order of its statement.

    Raises
    ------
    VerificationFailed
        If the list has another form.
    """
    try:
        return [(str(one["seriesUid"]), instances_from(one["instances"])) for one in payload["instances"]]
    except (KeyError, TypeError) as error:
        raise _no_sidecar("an attestation without its list of instances") from error


def sidecar_jws(content: object) -> str:
    """Return the JWS of a sidecar, not verified.

    Raises
    ------
    VerificationFailed
        If the content is no sidecar.
    """
    return str(_require_sidecar(content)["jws"])


def sidecar_proof(content: object) -> dict[str, Any]:
    """Return the log proof of a sidecar, not verified.

    Raises
    ------
    VerificationFailed
        If the content is no sidecar.
    """
    proof = _require_sidecar(content)["log"]
    if not isinstance(proof, Mapping):
        raise _no_sidecar("a sidecar without a proof from the log")
    return dict(proof)


def _require_sidecar(content: object) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or content.get("version") != SIDECAR_VERSION or set(content) != _SIDECAR_NAMES:
        raise _no_sidecar("no sidecar of this version")
    return content


def _payload(
    statement: ProvenanceStatement,
    publication: Publication,
    digests: tuple[ResourceDigest, ...],
    now: datetime,
    organization: str,
) -> dict[str, Any]:
    """The statement holds the root over each series; here every instance is listed under it, in the same order."""
    return {
        "version": ATTESTATION_VERSION,
        "attestedAt": instant(now),
        "statement": to_claims(statement),
        "instances": [
            {"seriesUid": series.series_uid, "instances": [instance_entry(one) for one in series.instances]}
            for series in statement.all_series
        ],
        "custodian": organization,
        "provenance": provenance_reference(statement.request_id),
        "receipts": [
            {
                "destination": receipt.destination,
                "protocol": receipt.protocol,
                "instances": receipt.instances,
                "acceptedAt": instant(receipt.accepted_at),
                **({} if receipt.committed is None else {"committed": receipt.committed}),
            }
            for receipt in publication.receipts
        ],
        "resources": [{"reference": one.reference, "digest": one.digest} for one in digests],
    }


def _require_agreement(statement: ProvenanceStatement, publication: Publication, card: ModelCard) -> None:
    count = sum(len(series.instances) for series in statement.all_series)
    published = (publication.series, *publication.companions)
    if publication.request_id != statement.request_id or published != statement.all_series:
        found, allowed = "a publication of another series than the statement's", "the series that the statement names"
    elif not publication.receipts or any(receipt.instances != count for receipt in publication.receipts):
        found, allowed = "a publication that no destination accepted as a whole", f"receipts for all {count} instances"
    elif card.weights_digest != statement.model.weights_digest:
        found, allowed = "the card of other weights", "the card of the weights that the statement names"
    elif card_digest(card) != statement.model.card_digest:
        found, allowed = "another card of these weights", "the card whose digest the statement names"
    else:
        return
    raise AttestationError(found=found, allowed=allowed, action="publish the series as stated, then attest again")


def _no_sidecar(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed=f"a {SIDECAR_VERSION} object with a JWS and its proof from the log",
        action="ask for the sidecar as it was published",
    )
