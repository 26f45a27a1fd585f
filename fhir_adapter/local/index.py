"""Which search parameters the embedded store knows, what they find in a resource, and how a search value reads. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from domain.errors import RequestInvalid
from fhir_adapter.moments import Moment, parse_moment
from fhir_adapter.search import split_escaped, unescape

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
_PREFIXED = re.compile(r"(eq|ge|gt|le|lt)?(\d.*)")
_LONGEST_VALUE = 512


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One value of one search parameter in a resource."""

    parameter: str
    system: str = ""
    value: str = ""
    starts_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token to look for; a system of None means any."""

    value: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class DateBound:
    """A date to compare with: prefix, first moment, first moment after it; UTC without a zone."""

    prefix: str
    starts_at: datetime
    ends_at: datetime


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


def tokens(value: str) -> list[Token]:
    r"""Return the alternatives of a token parameter.

    References
    ----------
    FHIR R4 search, "token": ``code``, ``system|code``, ``|code``; alternatives by comma.

    Examples
    --------
    >>> tokens("urn:a|1,2,|3")
    [Token(value='1', system='urn:a'), Token(value='2', system=None), Token(value='3', system='')]
    """
    return [_token(alternative) for alternative in split_escaped(value, ",")]


def any_references(value: str) -> list[str]:
    """Return the alternatives of a reference parameter as ``Type/id``.

    Examples
    --------
    >>> any_references("ServiceRequest/a,http://server/fhir/Task/b/_history/2")
    ['ServiceRequest/a', 'Task/b']
    """
    bare = [unescape(alternative).split("/_history/", 1)[0] for alternative in split_escaped(value, ",")]
    return ["/".join(one.split("/")[-2:]) for one in bare]


def references(value: str) -> list[str]:
    """Return the alternatives of a patient parameter as ``Patient/id``.

    Examples
    --------
    >>> references("a,Patient/b,http://server/fhir/Patient/c")
    ['Patient/a', 'Patient/b', 'Patient/c']
    """
    return [f"Patient/{unescape(alternative).rsplit('/', 1)[-1]}" for alternative in split_escaped(value, ",")]


def date_bound(value: str) -> DateBound:
    """Return what a date parameter compares with; partial dates are read as UTC.

    Raises
    ------
    RequestInvalid
        If it is no date, or has a prefix that is not supported.
    """
    matched = _PREFIXED.fullmatch(value)
    try:
        if matched is None:
            raise ValueError("no date with a prefix")
        starts_at, ends_at = _span(parse_moment(matched[2], UTC))
    except ValueError as error:
        raise RequestInvalid(
            found="a date parameter that cannot be read",
            allowed="eq, ge, gt, le or lt and a FHIR date or dateTime",
            action="correct the search",
        ) from error
    return DateBound(matched[1] or "eq", starts_at, ends_at)


def naive_utc(moment: datetime) -> datetime:
    """Return a time in UTC without a zone, as it is stored; what lies outside the calendar becomes its first or last moment."""
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return datetime.min if moment.year == 1 else datetime.max


def _span(moment: Moment) -> tuple[datetime, datetime]:
    start = naive_utc(moment.start)
    if moment.last_day is None:
        return start, _later(start, timedelta(microseconds=1))
    return start, _later(datetime.combine(moment.last_day, datetime.min.time()), timedelta(days=1))


def _later(moment: datetime, step: timedelta) -> datetime:
    # Records write 9999-12-31 for an end that never comes; the calendar has no day after it.
    return moment + step if moment <= datetime.max - step else datetime.max


def _token(text: str) -> Token:
    parts = [unescape(part) for part in split_escaped(text, "|")]
    return Token(parts[0]) if len(parts) == 1 else Token("|".join(parts[1:]), parts[0])


def _identifiers(value: object) -> Iterator[IndexEntry]:
    # Bundle and QuestionnaireResponse hold one identifier, not a list.
    for item in _list(value) or [_mapping(value)]:
        if item.get("value") is not None:
            yield IndexEntry("identifier", _text(item.get("system")), _text(item["value"]))


def _subject(value: object) -> Iterator[IndexEntry]:
    reference = _text(_mapping(value).get("reference"))
    kind, _, identity = reference.split("/_history/", 1)[0].rpartition("/")
    if identity and kind.rsplit("/", 1)[-1] == "Patient":
        yield IndexEntry("patient", value=f"Patient/{identity}")


def _referenced(parameter: str, value: object) -> Iterator[IndexEntry]:
    for item in _list(value) if isinstance(value, list) else [_mapping(value)]:
        if reference := _text(item.get("reference")):
            yield IndexEntry(parameter, value=any_references(reference)[0])


def _dates(resource: Mapping[str, Any], stem: str) -> Iterator[IndexEntry]:
    period = _mapping(resource.get("period" if stem == "period" else f"{stem}Period"))
    stated = (resource.get(stem), resource.get(f"{stem}DateTime"), resource.get(f"{stem}Instant"))
    texts = [text for text in stated if isinstance(text, str)]
    try:
        for text in texts:
            yield IndexEntry("date", "", "", *_span(parse_moment(text, UTC)))
        if period:
            start = _span(parse_moment(period["start"], UTC))[0] if period.get("start") else datetime.min
            end = _span(parse_moment(period["end"], UTC))[1] if period.get("end") else datetime.max
            yield IndexEntry("date", "", "", start, end)
    except ValueError:
        return


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _text(value: object) -> str:
    # PostgreSQL stores no NUL, and FHIR strings hold none.
    return value[:_LONGEST_VALUE] if isinstance(value, str) and "\0" not in value else ""
