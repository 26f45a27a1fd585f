"""One reader for each resource type that states clinical facts: resource -> what it states, and when. Pure.

A resource that cannot be used says why in `Stated.left_out`; one that is malformed raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from domain.clinical import Coding
from fhir_adapter.codes import (
    ACTIVE_CONDITION,
    CONDITION_CLINICAL,
    CONDITION_VERIFICATION,
    ORDERED,
    PAST_CONDITION,
    STATED,
    STATUSES,
    UCUM_ONE,
    VERIFICATION,
)
from fhir_adapter.elements import (
    codes_in,
    concept,
    flag,
    number,
    objects,
    optional_concept,
    optional_object,
    optional_text,
    quantity,
    required_text,
)
from fhir_adapter.moments import Moment, end_of_period, optional_moment, start_of_period

Value = float | str | bool | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Concept and value, without a time."""

    codings: tuple[Coding, ...]
    text: str
    value: Value = None
    unit: str = ""
    body_site: tuple[Coding, ...] = ()


@dataclass(frozen=True, slots=True)
class Stated:
    """What one resource states.

    Attributes
    ----------
    effective : Moment or None
        When it was true of the patient.
    recorded : Moment or None
        When the record knew it.
    abated : Moment or None
        When a Condition ended.
    past : str
        Clinical status of a Condition that is no longer active, else empty.
    left_out : tuple of str
        Why the resource, or a part of it, states nothing that can be used.
    """

    claims: tuple[Claim, ...] = ()
    effective: Moment | None = None
    recorded: Moment | None = None
    abated: Moment | None = None
    past: str = ""
    left_out: tuple[str, ...] = ()


def observation(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read value and components of an Observation; each component is a claim of its own, named with its parent.

    A component keeps only its own codings: with the parent's code it could be taken for the parent's value (a total score).
    """
    if refusal := _refusal(body):
        return refusal
    codings, text = concept(body.get("code"))
    site = optional_concept(body, "bodySite")
    found: list[Claim] = []
    left_out: list[str] = []
    for part, name, part_codings in _parts(body, text, codings):
        value = _value(part)
        if isinstance(value, str):
            left_out.append(value)
        else:
            found.append(Claim(part_codings, name, *value, body_site=site[0] if site else ()))
    if found:
        # A panel is no gap: its own value may be absent where components or members carry the values.
        left_out = [reason for reason in left_out if reason != "no value"]
    return Stated(tuple(found), _effective(body, zone), optional_moment(body, "issued", zone), left_out=tuple(left_out))


def condition(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a Condition: present, or past with its clinical status as the value."""
    if refusal := _modifier(body):
        return refusal
    verification = codes_in(optional_object(body, "verificationStatus"), CONDITION_VERIFICATION)
    if verification - VERIFICATION:
        raise ValueError("verificationStatus outside its value set")
    if verification - {"confirmed"}:
        return Stated(left_out=(f"verification status {min(verification - {'confirmed'})}",))
    status = codes_in(optional_object(body, "clinicalStatus"), CONDITION_CLINICAL)
    if status - ACTIVE_CONDITION - PAST_CONDITION:
        raise ValueError("clinicalStatus outside its value set")
    codings, text = concept(body.get("code"))
    onset = optional_moment(body, "onsetDateTime", zone)
    if onset is None and body.get("onsetPeriod") is not None:
        onset = start_of_period(body["onsetPeriod"], zone)
    abated = optional_moment(body, "abatementDateTime", zone)
    if abated is None and body.get("abatementPeriod") is not None:
        abated = end_of_period(body["abatementPeriod"], zone)
    past = next(iter(status & PAST_CONDITION), "resolved" if abated else "")
    claim = Claim(codings, text, body_site=_sites(body))
    return Stated((claim,), onset, optional_moment(body, "recordedDate", zone), abated, past)


def diagnostic_report(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read the conclusion of a DiagnosticReport, as text and as codes; its results are Observations of their own."""
    if refusal := _refusal(body):
        return refusal
    codings, text = concept(body.get("code"))
    conclusion = optional_text(body, "conclusion")
    claims = [Claim(codings, text, conclusion)] if conclusion else []
    claims += [Claim(codings, text, concept(code)[1]) for code in objects(body, "conclusionCode")]
    left_out = () if claims else ("no conclusion",)
    return Stated(tuple(claims), _effective(body, zone), optional_moment(body, "issued", zone), left_out=left_out)


def procedure(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a Procedure that was begun or done."""
    if refusal := _refusal(body):
        return refusal
    codings, text = concept(body.get("code"))
    performed = optional_moment(body, "performedDateTime", zone)
    if performed is None and body.get("performedPeriod") is not None:
        performed = end_of_period(body["performedPeriod"], zone)
    return Stated((Claim(codings, text, body_site=_sites(body)),), performed)


def medication(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a MedicationRequest that is an order, or a MedicationStatement."""
    if refusal := _refusal(body):
        return refusal
    found = _medication_concept(body)
    if body["resourceType"] == "MedicationStatement":
        start = optional_moment(body, "effectiveDateTime", zone)
        if start is None and body.get("effectivePeriod") is not None:
            start = start_of_period(body["effectivePeriod"], zone)
        recorded = optional_moment(body, "dateAsserted", zone)
    else:
        intent = required_text(body, "intent")
        if intent not in ORDERED:
            return Stated(left_out=("no order",))
        start = recorded = optional_moment(body, "authoredOn", zone)
    if found is None:
        return Stated(left_out=("medication named only by reference",))
    return Stated((Claim(*found),), start, recorded)


def service_request(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read the reasons of a ServiceRequest: what was asked about is not thereby true, and the value says so."""
    if refusal := _refusal(body):
        return refusal
    required_text(body, "intent")
    authored = optional_moment(body, "authoredOn", zone)
    sites = _sites(body)
    reasons = [concept(reason) for reason in objects(body, "reasonCode")]
    claims = tuple(Claim(codings, text, "reason for request", body_site=sites) for codings, text in reasons)
    return Stated(claims, authored, authored, left_out=() if claims else ("no reason",))


READERS: Mapping[str, Callable[[Mapping[str, Any], tzinfo | None], Stated]] = {
    "Observation": observation,
    "Condition": condition,
    "DiagnosticReport": diagnostic_report,
    "Procedure": procedure,
    "MedicationRequest": medication,
    "MedicationStatement": medication,
    "ServiceRequest": service_request,
}


def _refusal(body: Mapping[str, Any]) -> Stated | None:
    """Return why a resource with a status states nothing, or None where it does."""
    kind, status = str(body["resourceType"]), required_text(body, "status")
    if status not in STATUSES[kind]:
        raise ValueError("status outside its value set")
    if status not in STATED[kind]:
        return Stated(left_out=(f"status {status}",))
    if flag(body, "doNotPerform"):
        return Stated(left_out=("negated (doNotPerform)",))
    return _modifier(body)


def _modifier(body: Mapping[str, Any]) -> Stated | None:
    # FHIR R4 extensibility: a resource with a modifier extension that is not understood shall not be processed.
    return Stated(left_out=("modifier extension",)) if body.get("modifierExtension") or body.get("implicitRules") else None


def _parts(
    body: Mapping[str, Any], text: str, codings: tuple[Coding, ...]
) -> Iterator[tuple[Mapping[str, Any], str, tuple[Coding, ...]]]:
    yield body, text, codings
    for component in objects(body, "component"):
        part_codings, part_text = concept(component.get("code"))
        yield component, f"{text}: {part_text}", part_codings


def _value(part: Mapping[str, Any]) -> tuple[Value, str] | str:
    """Return value and unit of an Observation or a component, or the reason why there is none."""
    names = [name for name in part if name.startswith("value") and name[5:6].isupper()]
    if len(names) > 1:
        raise ValueError("more than one value[x]")
    if not names:
        return "value absent" if part.get("dataAbsentReason") is not None else "no value"
    read = _VALUE_READERS.get(names[0])
    if read is not None:
        return read(part[names[0]])
    if names[0] in _UNUSED_VALUES:
        return f"{names[0]} is not used"
    raise ValueError("a value[x] that Observation does not have")


def _text_value(value: object) -> tuple[Value, str]:
    return required_text({"value": value}, "value"), ""


def _truth_value(value: object) -> tuple[Value, str]:
    return flag({"value": value}, "value"), ""


def _integer_value(value: object) -> tuple[Value, str]:
    return number(value), UCUM_ONE


def _concept_value(value: object) -> tuple[Value, str]:
    return concept(value)[1], ""


_VALUE_READERS: Mapping[str, Callable[[object], tuple[Value, str] | str]] = {
    "valueQuantity": quantity,
    "valueInteger": _integer_value,
    "valueBoolean": _truth_value,
    "valueString": _text_value,
    "valueCodeableConcept": _concept_value,
}
# FHIR R4 Observation.value[x]: types that state no single number, code, text or truth.
_UNUSED_VALUES = frozenset(f"value{kind}" for kind in ("Range", "Ratio", "SampledData", "Time", "DateTime", "Period"))


def _effective(body: Mapping[str, Any], zone: tzinfo | None) -> Moment | None:
    for name in ("effectiveDateTime", "effectiveInstant"):
        if body.get(name) is not None:
            return optional_moment(body, name, zone)
    return end_of_period(body["effectivePeriod"], zone) if body.get("effectivePeriod") is not None else None


def _sites(body: Mapping[str, Any]) -> tuple[Coding, ...]:
    return tuple(coding for site in objects(body, "bodySite") for coding in concept(site)[0])


def _medication_concept(body: Mapping[str, Any]) -> tuple[tuple[Coding, ...], str] | None:
    if body.get("medicationCodeableConcept") is not None:
        return concept(body["medicationCodeableConcept"])
    reference = optional_object(body, "medicationReference")
    if reference is None:
        raise ValueError("medication[x] is missing")
    target = optional_text(reference, "reference") or ""
    for contained in objects(body, "contained"):
        if target == f"#{contained.get('id')}":
            return optional_concept(contained, "code")
    display = optional_text(reference, "display")
    return ((), display) if display else None
