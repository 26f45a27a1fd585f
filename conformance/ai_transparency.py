"""The rules of HL7 AI Transparency on FHIR (R4, draft of 2026-08) that we keep, as checks of published resources.

The draft has no validator package for R4 yet: what is checked here are the codes and shapes that it names, pinned. A rule is a
function from all resources of one publication to the sentences that they break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Resource = Mapping[str, Any]

_IG = "http://hl7.org/fhir/uv/aitransparency/CodeSystem"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
AI_ASSERTED = (f"{_TERMINOLOGY}/v3-ObservationValue", "AIAST")
TEST_DATA = (f"{_TERMINOLOGY}/v3-ActReason", "HTEST")
AI_DEVICE = (f"{_IG}/AIdeviceTypeCS", "Artificial-Intelligence")
MODEL_CARD = (f"{_IG}/AIinputsCS", "AIModelCard")
PROMPT = (f"{_IG}/AIinputsCS", "AIInputPrompt")
CARD_FORMATS = {(f"{_IG}/AIinputsCS", "AIModelCardMarkdownFormat"), (f"{_IG}/AIinputsCS", "AImodelCardCHAIformat")}
CREATE = (f"{_TERMINOLOGY}/v3-DataOperation", "CREATE")
AUTHOR = (f"{_TERMINOLOGY}/provenance-participant-type", "author")
WADO_RS = (f"{_TERMINOLOGY}/endpoint-connection-type", "dicom-wado-rs")
JWS_OF_JSON = "application/fhir+json;canonicalization=http://hl7.org/fhir/canonicalization/json"


def broken_rules(resources: Sequence[Resource]) -> list[str]:
    """Return one sentence for each rule that a publication breaks; empty where it keeps all."""
    rules = (_labels, _device, _documents, _study, _provenance, _entities, _signature, _links)
    return [sentence for rule in rules for sentence in rule(resources)]


def _labels(resources: Sequence[Resource]) -> Iterator[str]:
    for one in resources:
        labels = {(label.get("system"), label.get("code")) for label in one.get("meta", {}).get("security", [])}
        if not {AI_ASSERTED, TEST_DATA} <= labels:
            yield f"{one['resourceType']} lacks the label AIAST or HTEST"
        if "synthetic" not in {tag.get("code") for tag in one.get("meta", {}).get("tag", [])}:
            yield f"{one['resourceType']} lacks the tag synthetic"
        if str(one.get("id", "")).isdigit():
            yield f"{one['resourceType']} has an id of digits only"


def _device(resources: Sequence[Resource]) -> Iterator[str]:
    devices = _of("Device", resources)
    if len(devices) != 1:
        yield f"{len(devices)} Devices, where one AI device made the content"
    for device in devices:
        if _codes(device.get("type")) != [AI_DEVICE]:
            yield "Device.type is not Artificial-Intelligence alone"


def _documents(resources: Sequence[Resource]) -> Iterator[str]:
    documents = _of("DocumentReference", resources)
    cards = [one for one in documents if MODEL_CARD in _codes(one.get("type"))]
    if not cards:
        yield "no DocumentReference is a model card"
    for card in cards:
        formats = {code for category in card.get("category", []) for code in _codes(category)}
        if len(formats & CARD_FORMATS) != 1:
            yield "a model card does not say its one format"
        if not str(card.get("subject", {}).get("reference", "")).startswith("Device/"):
            yield "a model card is about no Device"
    if not any(PROMPT in _codes(one.get("type")) for one in documents):
        yield "no DocumentReference holds the generation parameters"


def _study(resources: Sequence[Resource]) -> Iterator[str]:
    for study in _of("ImagingStudy", resources):
        series = study.get("series", [])
        modalities = [one.get("code") for one in study.get("modality", [])]
        if sorted(modalities) != sorted({one["modality"]["code"] for one in series}):
            yield "ImagingStudy.modality is not the union over its series"
        if any(one.get("numberOfInstances") != len(one.get("instance", [])) for one in series):
            yield "a series counts other instances than it lists"
        if study.get("numberOfSeries") != len(series):
            yield "ImagingStudy.numberOfSeries is not the number of its series"
        if study.get("numberOfInstances") != sum(one.get("numberOfInstances", 0) for one in series):
            yield "ImagingStudy.numberOfInstances is not the sum over its series"
        named = [one for one in study.get("identifier", []) if one.get("system") == "urn:dicom:uid"]
        if not named or not all(str(one.get("value", "")).startswith("urn:oid:") for one in named):
            yield "ImagingStudy.identifier is no DICOM UID as urn:oid"
        accessions = [one for one in study.get("identifier", []) if one not in named]
        if any(("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN") not in _codes(one.get("type")) for one in accessions):
            yield "an accession number without the type ACSN"
    for endpoint in _of("Endpoint", resources):
        if (endpoint["connectionType"].get("system"), endpoint["connectionType"].get("code")) != WADO_RS:
            yield "Endpoint.connectionType is not dicom-wado-rs"


def _provenance(resources: Sequence[Resource]) -> Iterator[str]:
    for one in _of("Provenance", resources):
        if AI_ASSERTED not in [code for reason in one.get("reason", []) for code in _codes(reason)]:
            yield "Provenance.reason is not AIAST"
        if _codes(one.get("activity")) != [CREATE]:
            yield "Provenance.activity is not CREATE"
        if not any(str(target.get("reference", "")).startswith("ImagingStudy/") for target in one.get("target", [])):
            yield "Provenance.target names no ImagingStudy"
        yield from _agents(one)


def _agents(provenance: Resource) -> Iterator[str]:
    machines = [one for one in provenance.get("agent", []) if str(one["who"].get("reference", "")).startswith("Device/")]
    if len(machines) != 1:
        yield f"{len(machines)} agents are Devices, where one AI made the content"
    for agent in machines:
        if _codes(agent.get("type")) != [AUTHOR]:
            yield "the AI agent has not exactly the one type author"
        if AI_DEVICE not in [code for role in agent.get("role", []) for code in _codes(role)]:
            yield "the AI agent has not the role Artificial-Intelligence"


def _entities(resources: Sequence[Resource]) -> Iterator[str]:
    documents = {f"DocumentReference/{one['id']}" for one in _of("DocumentReference", resources)}
    for one in _of("Provenance", resources):
        roles = [(entity.get("role"), entity.get("what", {}).get("reference")) for entity in one.get("entity", [])]
        derivations = {reference for role, reference in roles if role == "derivation"}
        if len(derivations & documents) < 2:
            yield "model card and generation parameters are not both entities with role derivation"
        if "source" not in {role for role, _ in roles}:
            yield "no entity with role source: what the content was made from"
        if any(role == "source" and reference for role, reference in roles):
            yield "a source entity leads to a resource, and so to the real patient"


def _signature(resources: Sequence[Resource]) -> Iterator[str]:
    for one in _of("Provenance", resources):
        if not one.get("signature"):
            yield "Provenance is not signed"
        for signature in one.get("signature", []):
            if str(signature.get("targetFormat", "")).split("#")[0] != JWS_OF_JSON:
                yield "Signature.targetFormat is not canonical FHIR JSON"
            if signature.get("sigFormat") != "application/jose":
                yield "Signature.sigFormat is not application/jose"
            if [kind.get("code") for kind in signature.get("type", [])] != ["1.2.840.10065.1.12.1.1"]:
                yield "Signature.type is not an author's signature"


def _links(resources: Sequence[Resource]) -> Iterator[str]:
    here = {f"{one['resourceType']}/{one['id']}" for one in resources}
    for one in resources:
        for reference in _references(one):
            if reference not in here:
                yield f"{one['resourceType']} refers to a {reference.split('/')[0]} outside the publication"


def _of(kind: str, resources: Sequence[Resource]) -> list[Resource]:
    return [one for one in resources if one["resourceType"] == kind]


def _codes(concept: Mapping[str, Any] | None) -> list[tuple[Any, Any]]:
    return [(one.get("system"), one.get("code")) for one in (concept or {}).get("coding", [])]


def _references(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for member in value.values():
            yield from _references(member)
    elif isinstance(value, list):
        for member in value:
            yield from _references(member)
