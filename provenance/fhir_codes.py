"""Systems and codes of the resources that we publish, each once, with its source (FHIR R4 4.0.1).

"IG" is HL7 AI Transparency on FHIR, still a draft: what is taken from it stands here and nowhere else.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

# Our own labels: no standard code says "synthetic, made by a generator".
LABELS = "https://veraicon.dev/CodeSystem/label"
SYNTHETIC = {"system": LABELS, "code": "synthetic", "display": "Synthetic: made by a generator, belongs to no person"}
ATTESTATION_TYPE = {"system": LABELS, "code": "attestation", "display": "Signed attestation of a published synthetic series"}

# HL7 v3 ObservationValue and v3 ActReason.
AI_ASSERTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
TEST_DATA = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST", "display": "test health data"}

# IG: Device.type and the role of an AI agent.
AI_DEVICE = {
    "system": "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS",
    "code": "Artificial-Intelligence",
    "display": "All kinds of Artificial Intelligence",
}
# IG: DocumentReference.type and .category.
_AI_INPUTS = "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIinputsCS"
MODEL_CARD = {"system": _AI_INPUTS, "code": "AIModelCard", "display": "AI Model-Card"}
MODEL_CARD_MARKDOWN = {"system": _AI_INPUTS, "code": "AIModelCardMarkdownFormat", "display": "Markdown Format"}
MODEL_CARD_CHAI = {"system": _AI_INPUTS, "code": "AImodelCardCHAIformat", "display": "CHAI Format"}
INPUT_PROMPT = {"system": _AI_INPUTS, "code": "AIInputPrompt", "display": "AI Input Prompt"}

# Provenance.activity (extensible binding) and Provenance.agent.type.
CREATE = {"system": "http://terminology.hl7.org/CodeSystem/v3-DataOperation", "code": "CREATE", "display": "create"}
_PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
AUTHOR = {"system": _PARTICIPANT, "code": "author", "display": "Author"}
CUSTODIAN = {"system": _PARTICIPANT, "code": "custodian", "display": "Custodian"}
VERIFIER = {"system": _PARTICIPANT, "code": "verifier", "display": "Verifier"}

# Signature.type: ASTM E1762, an author's signature. Signature.targetFormat and .sigFormat.
AUTHORS_SIGNATURE = {
    "system": "urn:iso-astm:E1762-95:2013",
    "code": "1.2.840.10065.1.12.1.1",
    "display": "Author's Signature",
}
# The method without a fragment would keep the narrative (FHIR R4 JSON format, canonical JSON).
SIGNED_FORMAT = "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json#data"
SIGNATURE_FORMAT = "application/jose"

# ImagingStudy.identifier, modality and series.instance.sopClass.
DICOM_UID = "urn:dicom:uid"
URI = "urn:ietf:rfc:3986"
MODALITY = "http://dicom.nema.org/resources/ontology/DCM"
# Endpoint.connectionType.
WADO_RS = {
    "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
    "code": "dicom-wado-rs",
    "display": "DICOM WADO-RS",
}


def concept(coding: Json) -> Json:
    """Return a CodeableConcept with one coding."""
    return {"coding": [dict(coding)]}


def marked(resource: Json) -> Json:
    """Return `resource` with the labels that everything of ours carries, in the form that `digests.resource_content` signs."""
    labels = {"security": [_label(AI_ASSERTED), _label(TEST_DATA)], "tag": [_label(SYNTHETIC)]}
    return {"resourceType": resource["resourceType"], "id": resource["id"], "meta": labels} | resource


def uid_identifier(uid: str) -> Json:
    """Return the Identifier of a DICOM UID (FHIR R4 ImagingStudy.identifier)."""
    return {"system": DICOM_UID, "value": f"urn:oid:{uid}"}


def uri_identifier(uri: str) -> Json:
    """Return the Identifier that a URI is."""
    return {"system": URI, "value": uri}


def _label(coding: Json) -> Json:
    """A coding without its display: a server may keep its own."""
    return {name: value for name, value in coding.items() if name != "display"}
