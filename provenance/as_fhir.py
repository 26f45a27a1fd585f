"""A statement and its publication as FHIR R4 resources: deterministic, and without any reference to the real patient.

The resources hang together so that one signature covers them all:

    Provenance (signed) -> digest of the attestation -> digests of the resources below and of each instance
                        -> digest of the statement  -> which is the one embedded in each instance
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

from domain.attestation import ProvenanceStatement
from domain.generation import Publication
from domain.identifiers import derive_fhir_id
from domain.model_card import ModelCard
from domain.series import GeneratedSeries
from provenance import fhir_codes as codes
from provenance.canonical import canonical_json, instant, named_information, sha256_digest
from provenance.cards.card_json import encode_card
from provenance.cards.chai_card import MEDIA_TYPE as CHAI_MEDIA_TYPE
from provenance.cards.chai_card import to_chai_xml
from provenance.cards.markdown_card import to_markdown
from provenance.fhir_codes import Json, concept, marked, uid_identifier, uri_identifier
from provenance.statement import to_claims

ATTESTATION_TITLE = "Attestation (compact JWS)"
SIDECAR_TITLE = "Sidecar: attestation and its proof from the transparency log"
PARAMETERS_TITLE = "Generation parameters (Veraicon statement)"
CARD_TITLE = "Model card as it is digested (card.json)"
# The documents that hold the model card, by the name that their ids derive from.
CARD_NAMES = ("model-card", "model-card-chai")
DOCUMENT_NAMES = (*CARD_NAMES, "parameters", "attestation")


def render_resources(
    statement: ProvenanceStatement, publication: Publication, card: ModelCard, *, wado_url: str = ""
) -> list[Json]:
    """Return what the attestation covers: Patient, Device, model card in both forms, generation parameters, ImagingStudy.

    Each reference between them stands behind what it refers to, as a server that checks references needs it.

    Parameters
    ----------
    wado_url : str
        Where the instances can be had by WADO-RS: an Endpoint says so. Empty: no Endpoint, since nothing is known of one.

    Raises
    ------
    AttestationError
        As `statement.to_claims`.

    References
    ----------
    FHIR R4 Patient, Device, DocumentReference, Endpoint, ImagingStudy.
    """
    endpoints = [wado_endpoint(statement, wado_url)] if wado_url else []
    return [
        synthetic_patient(statement.request_id, publication.series),
        ai_device(statement),
        model_card_document(statement, card),
        chai_card_document(statement, card),
        parameters_document(statement),
        *endpoints,
        imaging_study(statement, endpoints),
    ]


def reference_to(resource: Json) -> str:
    """Return ``Type/id``."""
    return f"{resource['resourceType']}/{resource['id']}"


def published_references(request_id: str) -> tuple[str, tuple[str, ...]]:
    """Return the references of the ImagingStudy and the DocumentReferences that an attested request has on the FHIR server."""
    documents = (derive_fhir_id(request_id, "DocumentReference", name) for name in DOCUMENT_NAMES)
    study = f"ImagingStudy/{derive_fhir_id(request_id, 'ImagingStudy')}"
    return study, tuple(f"DocumentReference/{identity}" for identity in documents)


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
    """Return the Device that is the generator, named by the digest of its weights; a note names its model card in each form.

    R4 has no element for the reference, and a server that does not know the extension of the IG refuses it; the documents refer
    to the Device as their subject.
    """
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
            "note": [
                {"text": f"Licence of the weights: {model.licence}. Not for clinical use."},
                {"text": _cards_of(statement)},
            ],
        }
    )


def model_card_document(statement: ProvenanceStatement, card: ModelCard) -> Json:
    """Return the DocumentReference that holds the model card: as Markdown, and as the file whose digest the statement holds."""
    title = f"Model card of {card.name} {card.version}"
    return _document(
        statement,
        name="model-card",
        kind=codes.MODEL_CARD,
        contents=[
            _attachment(to_markdown(card).encode(), "text/markdown", title),
            _attachment(encode_card(card), "application/json", CARD_TITLE),
        ],
    ) | {"category": [concept(codes.MODEL_CARD_MARKDOWN)], "subject": _reference(statement, "Device")}


def chai_card_document(statement: ProvenanceStatement, card: ModelCard) -> Json:
    """Return the DocumentReference that holds the model card as an Applied Model Card of the Coalition for Health AI."""
    title = f"Model card of {card.name} {card.version}, CHAI Applied Model Card"
    return _document(
        statement,
        name="model-card-chai",
        kind=codes.MODEL_CARD,
        contents=[_attachment(to_chai_xml(card), CHAI_MEDIA_TYPE, title)],
    ) | {"category": [concept(codes.MODEL_CARD_CHAI)], "subject": _reference(statement, "Device")}


def parameters_document(statement: ProvenanceStatement) -> Json:
    """Return the DocumentReference that holds the statement's claims: what the generator was given, by kind, never by value."""
    return _document(
        statement,
        name="parameters",
        kind=codes.INPUT_PROMPT,
        contents=[_attachment(canonical_json(to_claims(statement)), "application/json", PARAMETERS_TITLE)],
    ) | {"subject": _reference(statement, "Patient")}


def attestation_document(statement: ProvenanceStatement, jws: str, sidecar: bytes) -> Json:
    """Return the DocumentReference that holds the attestation, and its sidecar with the proof from the log.

    Parameters
    ----------
    sidecar : bytes
        Canonical JSON of the sidecar file: whoever verifies without us takes it as it is.
    """
    return _document(
        statement,
        name="attestation",
        kind=codes.ATTESTATION_TYPE,
        contents=[
            _attachment(jws.encode("ascii"), codes.SIGNATURE_FORMAT, ATTESTATION_TITLE),
            _attachment(sidecar, "application/json", SIDECAR_TITLE),
        ],
    ) | {"subject": _reference(statement, "Patient"), "context": {"related": [_reference(statement, "ImagingStudy")]}}


def wado_endpoint(statement: ProvenanceStatement, address: str) -> Json:
    """Return the Endpoint where the study's instances can be had.

    References
    ----------
    FHIR R4 Endpoint; PS3.18 chapter 10 (the address is the base URI of the DICOMweb service).
    """
    return marked(
        {
            "resourceType": "Endpoint",
            "id": derive_fhir_id(statement.request_id, "Endpoint"),
            "status": "active",
            "connectionType": dict(codes.WADO_RS),
            "name": "Synthetic images (DICOMweb)",
            "payloadType": [{"text": "DICOM instances"}],
            "payloadMimeType": ["application/dicom"],
            "address": address,
        }
    )


def imaging_study(statement: ProvenanceStatement, endpoints: Sequence[Json] = ()) -> Json:
    """Return the ImagingStudy of everything that was generated: images, segmentation, summary.

    It is of the synthetic patient and says nothing of an order: ``basedOn`` would lead from it to the real patient.
    """
    listed = [_listed_series(statement, series) for series in statement.all_series]
    modalities = {series["modality"]["code"]: series["modality"] for series in listed}
    reached = {"endpoint": [{"reference": reference_to(one)} for one in endpoints]} if endpoints else {}
    return marked(
        {
            "resourceType": "ImagingStudy",
            "id": derive_fhir_id(statement.request_id, "ImagingStudy"),
            "identifier": [uid_identifier(statement.series.study_uid)],
            "status": "available",
            "modality": list(modalities.values()),
            "subject": _reference(statement, "Patient"),
            "started": instant(statement.generated_at),
            "numberOfSeries": len(listed),
            "numberOfInstances": sum(series["numberOfInstances"] for series in listed),
            "description": "Synthetic volume made by a generator: not for clinical use",
            "series": listed,
        }
        | reached
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
                *_approvers(statement),
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


def _approvers(statement: ProvenanceStatement) -> list[Json]:
    """The person who approved, as the agent that verified; the gates' own approval names nobody."""
    if statement.approval.kind != "person":
        return []
    return [{"type": concept(codes.VERIFIER), "who": {"display": statement.approval.by}}]


def _cards_of(statement: ProvenanceStatement) -> str:
    named = " and ".join(str(_document_reference(statement, name)["reference"]) for name in CARD_NAMES)
    return f"Model card {named_information(statement.model.card_digest)}: {named}."


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


def _attachment(content: bytes, media_type: str, title: str) -> Json:
    return {"contentType": media_type, "data": _base64(content), "size": len(content), "title": title}


def _document(statement: ProvenanceStatement, *, name: str, kind: Json, contents: list[Json]) -> Json:
    return marked(
        {
            "resourceType": "DocumentReference",
            "id": derive_fhir_id(statement.request_id, "DocumentReference", name),
            "status": "current",
            "docStatus": "final",
            "type": concept(kind),
            "date": instant(statement.generated_at),
            "content": [{"attachment": attachment} for attachment in contents],
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
