"""A statement and its publication as FHIR R4 resources: deterministic, and without any reference to the real patient.

The resources hang together so that one signature covers them all:

    Provenance (signed) -> digest of the attestation -> digests of the resources below and of each instance
                        -> digest of the statement  -> which is the one embedded in each instance
"""

from __future__ import annotations

import base64
from datetime import datetime

from domain.attestation import ProvenanceStatement
from domain.generation import Publication
from domain.identifiers import derive_fhir_id
from domain.model_card import ModelCard
from domain.series import GeneratedSeries
from provenance import fhir_codes as codes
from provenance.canonical import canonical_json, instant, named_information, sha256_digest
from provenance.fhir_codes import Json, concept, marked, uid_identifier, uri_identifier
from provenance.model_card_text import to_markdown
from provenance.statement import to_claims

ATTESTATION_TITLE = "Attestation (compact JWS)"


def render_resources(statement: ProvenanceStatement, publication: Publication, card: ModelCard) -> list[Json]:
    """Return what the attestation covers: Patient, Device, model card, generation parameters, ImagingStudy.

    Each reference between them stands behind what it refers to, as a server that checks references needs it.

    Raises
    ------
    AttestationError
        As `statement.to_claims`.

    References
    ----------
    FHIR R4 Patient, Device, DocumentReference, ImagingStudy.
    """
    return [
        synthetic_patient(statement.request_id, publication.series),
        ai_device(statement),
        model_card_document(statement, card),
        parameters_document(statement),
        imaging_study(statement),
    ]


def reference_to(resource: Json) -> str:
    """Return ``Type/id``."""
    return f"{resource['resourceType']}/{resource['id']}"


def synthetic_patient(request_id: str, series: GeneratedSeries) -> Json:
    """Return the Patient that the series belongs to: ours, and nobody."""
    identifier = {"value": series.patient.value} | ({"system": series.patient.system} if series.patient.system else {})
    return marked(
        {
            "resourceType": "Patient",
            "id": derive_fhir_id(request_id, "Patient"),
            "identifier": [identifier],
            "active": True,
            "name": [{"text": "Synthetic patient (no real person)"}],
        }
    )


def ai_device(statement: ProvenanceStatement) -> Json:
    """Return the Device that is the generator, named by the digest of its weights."""
    model = statement.model
    return marked(
        {
            "resourceType": "Device",
            "id": derive_fhir_id(statement.request_id, "Device"),
            "identifier": [uri_identifier(named_information(model.weights_digest))],
            "status": "active",
            "manufacturer": "Veraicon",
            "deviceName": [{"name": model.name, "type": "model-name"}],
            "type": concept(codes.AI_DEVICE),
            "version": [
                {"type": {"text": "weights"}, "value": model.version},
                {"type": {"text": "software"}, "value": statement.software_version},
            ],
            "note": [{"text": f"Licence of the weights: {model.licence}. Not for clinical use."}],
        }
    )


def model_card_document(statement: ProvenanceStatement, card: ModelCard) -> Json:
    """Return the DocumentReference that holds the model card as Markdown."""
    return _document(
        statement,
        name="model-card",
        kind=codes.MODEL_CARD,
        content=to_markdown(card).encode(),
        media_type="text/markdown",
        title=f"Model card of {card.name} {card.version}",
    ) | {"category": [concept(codes.MODEL_CARD_MARKDOWN)]}


def parameters_document(statement: ProvenanceStatement) -> Json:
    """Return the DocumentReference that holds the statement's claims: what the generator was given, by kind, never by value."""
    return _document(
        statement,
        name="parameters",
        kind=codes.INPUT_PROMPT,
        content=canonical_json(to_claims(statement)),
        media_type="application/json",
        title="Generation parameters (Veraicon statement)",
    ) | {"subject": _reference(statement, "Patient")}


def attestation_document(statement: ProvenanceStatement, jws: str) -> Json:
    """Return the DocumentReference that holds the attestation, for whoever verifies without us."""
    return _document(
        statement,
        name="attestation",
        kind=codes.ATTESTATION_TYPE,
        content=jws.encode("ascii"),
        media_type=codes.SIGNATURE_FORMAT,
        title=ATTESTATION_TITLE,
    ) | {"subject": _reference(statement, "Patient"), "context": {"related": [_reference(statement, "ImagingStudy")]}}


def imaging_study(statement: ProvenanceStatement) -> Json:
    """Return the ImagingStudy of everything that was generated: images, segmentation, summary."""
    listed = [_listed_series(statement, series) for series in statement.all_series]
    return marked(
        {
            "resourceType": "ImagingStudy",
            "id": derive_fhir_id(statement.request_id, "ImagingStudy"),
            "identifier": [uid_identifier(statement.series.study_uid)],
            "status": "available",
            "modality": [series["modality"] for series in listed],
            "subject": _reference(statement, "Patient"),
            "started": instant(statement.generated_at),
            "numberOfSeries": len(listed),
            "numberOfInstances": sum(series["numberOfInstances"] for series in listed),
            "description": "Synthetic volume made by a generator: not for clinical use",
            "series": listed,
        }
    )


def _listed_series(statement: ProvenanceStatement, series: GeneratedSeries) -> Json:
    instances = [
        {"uid": one.sop_instance_uid, "sopClass": {"system": codes.URI, "code": f"urn:oid:{one.sop_class_uid}"}}
        for one in series.instances
    ]
    return {
        "uid": series.series_uid,
        "modality": {"system": codes.MODALITY, "code": series.modality},
        "numberOfInstances": len(instances),
        "performer": [{"actor": _reference(statement, "Device")}],
        "instance": instances,
    }


def unsigned_provenance(statement: ProvenanceStatement, attestation_jws: str, *, now: datetime, organization: str) -> Json:
    """Return the Provenance of the series, still without its signature.

    References
    ----------
    FHIR R4 Provenance; IG profile AI-Provenance (agent type and role, reason, entities).
    """
    device = _reference(statement, "Device")
    digest = sha256_digest(attestation_jws.encode("ascii"))
    return marked(
        {
            "resourceType": "Provenance",
            "id": derive_fhir_id(statement.request_id, "Provenance"),
            "target": [
                _reference(statement, "ImagingStudy") | {"identifier": uid_identifier(statement.series.study_uid)},
                _document_reference(statement, "attestation") | {"identifier": uri_identifier(named_information(digest))},
            ],
            "occurredDateTime": instant(statement.generated_at),
            "recorded": instant(now),
            "reason": [concept(codes.AI_ASSERTED)],
            "activity": concept(codes.CREATE),
            "agent": [
                {"type": concept(codes.AUTHOR), "role": [concept(codes.AI_DEVICE)], "who": device},
                {"type": concept(codes.CUSTODIAN), "who": {"display": organization}},
            ],
            "entity": _entities(statement),
        }
    )


def signature(statement: ProvenanceStatement, detached_jws: str, *, now: datetime) -> Json:
    """Return the Signature element: base64 of a detached JWS over the canonical Provenance.

    References
    ----------
    FHIR R4 Signature.data and JSON format (canonical JSON); RFC 7515 appendix F.
    """
    return {
        "type": [dict(codes.AUTHORS_SIGNATURE)],
        "when": instant(now),
        "who": _reference(statement, "Device"),
        "targetFormat": codes.SIGNED_FORMAT,
        "sigFormat": codes.SIGNATURE_FORMAT,
        "data": _base64(detached_jws.encode("ascii")),
    }


def _entities(statement: ProvenanceStatement) -> list[Json]:
    """What went in. The real study is named by its UID and digest, never by a reference that leads to its patient."""
    claims_digest = sha256_digest(canonical_json(to_claims(statement)))
    study = {"type": "ImagingStudy", "identifier": uid_identifier(statement.source_study_uid), "display": "Source study"}
    return [
        {"role": "source", "what": study},
        {"role": "source", "what": _digest_reference(statement.source_digest, "Digest of the source series")},
        {"role": "source", "what": _digest_reference(statement.snapshot_digest, "Salted digest of the EHR snapshot")},
        {
            "role": "derivation",
            "what": _document_reference(statement, "model-card")
            | {"identifier": uri_identifier(named_information(statement.model.card_digest)), "display": "Model card"},
        },
        {
            "role": "derivation",
            "what": _document_reference(statement, "parameters")
            | {"identifier": uri_identifier(named_information(claims_digest)), "display": "Generation parameters"},
        },
    ]


def _document(statement: ProvenanceStatement, *, name: str, kind: Json, content: bytes, media_type: str, title: str) -> Json:
    attachment = {"contentType": media_type, "data": _base64(content), "size": len(content), "title": title}
    return marked(
        {
            "resourceType": "DocumentReference",
            "id": derive_fhir_id(statement.request_id, "DocumentReference", name),
            "status": "current",
            "docStatus": "final",
            "type": concept(kind),
            "date": instant(statement.generated_at),
            "content": [{"attachment": attachment}],
        }
    )


def _reference(statement: ProvenanceStatement, kind: str) -> Json:
    return {"reference": f"{kind}/{derive_fhir_id(statement.request_id, kind)}"}


def _document_reference(statement: ProvenanceStatement, name: str) -> Json:
    return {"reference": f"DocumentReference/{derive_fhir_id(statement.request_id, 'DocumentReference', name)}"}


def _digest_reference(digest: str, display: str) -> Json:
    return {"identifier": uri_identifier(named_information(digest)), "display": display}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
