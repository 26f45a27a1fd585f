"""Which search parameters the embedded store knows, and what they find in a resource. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fhir_adapter.local.values import span
from fhir_adapter.moments import parse_moment

# Where `date` looks (FHIR R4 search parameters of each resource).
_DATES = {
    "Observation": "effective",
    "DiagnosticReport": "effective",
    "Procedure": "performed",
    "Encounter": "period",
    "Immunization": "occurrence",
    "Consent": "dateTime",
    "CarePlan": "period",
    "AllergyIntolerance": "recordedDate",
}
_CODES = {
    **dict.fromkeys(
        ("Observation", "Condition", "Procedure", "DiagnosticReport", "ServiceRequest", "AllergyIntolerance"), "code"
    ),
    "MedicationRequest": "medicationCodeableConcept",
    "MedicationStatement": "medicationCodeableConcept",
}
_CODES["Task"] = "code"
# Types whose `status` is searched for: what is watched for orders, and what we publish.
_WITH_STATUS = frozenset({"Task", "ServiceRequest", "ImagingStudy", "DocumentReference", "Device"})
# Reference parameters beside the patient, by type: parameter and element.
_REFERENCES = {
    "Provenance": {"target": "target"},
    "Task": {"focus": "focus", "based-on": "basedOn"},
    "DocumentReference": {"related": "context.related"},
    "ServiceRequest": {"based-on": "basedOn"},
    "ImagingStudy": {"basedon": "basedOn"},
    "Observation": {"based-on": "basedOn", "encounter": "encounter"},
    "DiagnosticReport": {"based-on": "basedOn", "result": "result"},
}
_LONGEST_VALUE = 512


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One value of one search parameter in a resource."""

    parameter: str
    system: str = ""
    value: str = ""
    starts_at: datetime | None = None
    ends_at: datetime | None = None


def known_parameters(resource_type: str) -> frozenset[str]:
    """Return the search parameters that the embedded store answers for a type."""
    known = {"_id", "_lastUpdated", "_count", "identifier"}
    if resource_type in _DATES:
        known.add("date")
    if resource_type in _CODES:
        known.add("code")
    if resource_type in _WITH_STATUS:
        known.add("status")
    known |= reference_parameters(resource_type)
    return frozenset(known | {"patient", "subject"} if resource_type != "Patient" else known)


def parameter_kind(parameter: str) -> str:
    """Return the type of a search parameter: token, date or reference."""
    if parameter in ("_lastUpdated", "date"):
        return "date"
    return "token" if parameter in ("_id", "identifier", "code", "status") else "reference"


def reference_parameters(resource_type: str) -> frozenset[str]:
    """Return the search parameters of a type, beside its patient, that name other resources."""
    return frozenset(_REFERENCES.get(resource_type, ()))


def index_entries(resource: Mapping[str, Any]) -> Iterator[IndexEntry]:
    """Yield every value under which a resource is found; what is malformed is not found, and not refused either."""
    kind = str(resource.get("resourceType"))
    yield from _identifiers(resource.get("identifier"))
    for name in ("subject", "patient", "beneficiary", *(["for"] if kind == "Task" else [])):
        yield from _subject(resource.get(name))
    for coding in _list(_mapping(resource.get(_CODES.get(kind, ""))).get("coding")):
        yield IndexEntry("code", _text(coding.get("system")), _text(coding.get("code")))
    if kind in _WITH_STATUS and _text(resource.get("status")):
        yield IndexEntry("status", value=_text(resource.get("status")))
    for parameter, element in _REFERENCES.get(kind, {}).items():
        *path, last = element.split(".")
        holder: Mapping[str, Any] = resource
        for step in path:
            holder = _mapping(holder.get(step))
        yield from _referenced(parameter, holder.get(last))
    if kind in _DATES:
        yield from _dates(resource, _DATES[kind])


def _identifiers(value: object) -> Iterator[IndexEntry]:
    # Bundle and QuestionnaireResponse hold one identifier, not a list.
    for item in _list(value) or [_mapping(value)]:
        if item.get("value") is not None:
            yield IndexEntry("identifier", _text(item.get("system")), _text(item["value"]))


def _subject(value: object) -> Iterator[IndexEntry]:
    # Whole, whatever its type: an absolute reference is another server's patient, never ours of the same id.
    if reference := _reference(_mapping(value)):
        yield IndexEntry("patient", value=reference)


def _referenced(parameter: str, value: object) -> Iterator[IndexEntry]:
    for item in _list(value) if isinstance(value, list) else [_mapping(value)]:
        if reference := _reference(item):
            yield IndexEntry(parameter, value=reference)


def _dates(resource: Mapping[str, Any], stem: str) -> Iterator[IndexEntry]:
    period = _mapping(resource.get("period" if stem == "period" else f"{stem}Period"))
    stated = (resource.get(stem), resource.get(f"{stem}DateTime"), resource.get(f"{stem}Instant"))
    texts = [text for text in stated if isinstance(text, str)]
    try:
        for text in texts:
            yield IndexEntry("date", "", "", *span(parse_moment(text, UTC)))
        if period:
            start = span(parse_moment(period["start"], UTC))[0] if period.get("start") else datetime.min
            end = span(parse_moment(period["end"], UTC))[1] if period.get("end") else datetime.max
            yield IndexEntry("date", "", "", start, end)
    except ValueError:
        return


def _reference(value: Mapping[str, Any]) -> str:
    return _text(value.get("reference")).split("/_history/", 1)[0]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str:
    # PostgreSQL stores no NUL, and FHIR strings hold none.
    return value[:_LONGEST_VALUE] if isinstance(value, str) and "\0" not in value else ""
