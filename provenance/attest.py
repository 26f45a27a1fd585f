"""Binds a statement to the digests of what was published, and signs the whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.attestation import Attestation, ProvenanceStatement, ResourceDigest
from domain.errors import AttestationError, VerificationFailed
from domain.generation import Publication
from domain.model_card import ModelCard
from provenance.as_fhir import (
    attestation_document,
    reference_to,
    render_resources,
    signature,
    unsigned_provenance,
)
from provenance.canonical import instant
from provenance.digests import resource_content, resource_digest
from provenance.fhir_codes import Json
from provenance.signing import ATTESTATION_KIND, PROVENANCE_KIND, SigningKey, verify
from provenance.statement import from_claims, provenance_reference, to_claims

ATTESTATION_VERSION = "veraicon-attestation/1"
SIDECAR_VERSION = "veraicon-sidecar/1"


def attest(
    statement: ProvenanceStatement,
    publication: Publication,
    card: ModelCard,
    key: SigningKey,
    *,
    now: datetime,
    organization: str,
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

    Raises
    ------
    AttestationError
        If publication, card and statement are not about the same series and weights, or nobody accepted the whole series.
    """
    _require_agreement(statement, publication, card)
    resources = render_resources(statement, publication, card)
    digests = tuple(ResourceDigest(reference_to(one), resource_digest(one)) for one in resources)
    jws = key.sign(_payload(statement, publication, digests, now), kind=ATTESTATION_KIND)
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
    )
    return attestation, [*resources, attestation_document(statement, jws), provenance]


def sidecar(attestation: Attestation) -> dict[str, Any]:
    """Return the content of the sidecar file: the JWS, and nothing beside it that is not signed."""
    return {"version": SIDECAR_VERSION, "jws": attestation.jws}


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
            instances=claims.instances,
            provenance_reference=str(payload["provenance"]),
            resources=tuple(ResourceDigest(str(one["reference"]), str(one["digest"])) for one in payload["resources"]),
            jws=sidecar_jws(content),
            attested_at=datetime.fromisoformat(payload["attestedAt"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _no_sidecar("an attestation that lacks its resources, Provenance or time") from error


def verified_attestation(content: object, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the signed payload of a sidecar.

    Raises
    ------
    VerificationFailed
        If the content is no sidecar, or its signature does not hold, or the payload is of another version.
    """
    payload = verify(sidecar_jws(content), keys, kind=ATTESTATION_KIND)
    if payload.get("version") != ATTESTATION_VERSION:
        raise _no_sidecar("an attestation of another version")
    return payload


def sidecar_jws(content: object) -> str:
    """Return the JWS of a sidecar, not verified.

    Raises
    ------
    VerificationFailed
        If the content is no sidecar.
    """
    if not isinstance(content, Mapping) or content.get("version") != SIDECAR_VERSION or set(content) != {"version", "jws"}:
        raise _no_sidecar("no sidecar of this version")
    return str(content["jws"])


def _payload(
    statement: ProvenanceStatement, publication: Publication, digests: tuple[ResourceDigest, ...], now: datetime
) -> dict[str, Any]:
    """The digests of the instances are those in the statement: `_require_agreement` has compared them with the publication."""
    return {
        "version": ATTESTATION_VERSION,
        "attestedAt": instant(now),
        "statement": to_claims(statement),
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
    else:
        return
    raise AttestationError(found=found, allowed=allowed, action="publish the series as stated, then attest again")


def _no_sidecar(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found, allowed=f"a {SIDECAR_VERSION} object with one JWS", action="ask for the sidecar as it was published"
    )
