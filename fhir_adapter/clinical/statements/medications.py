"""Reader of MedicationRequest and MedicationStatement: what was ordered, and what is taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any

from domain.clinical import Coding
from fhir_adapter.clinical.statements.claims import Claim, Stated, is_negated, refusal
from fhir_adapter.codes import ORDERED
from fhir_adapter.elements import concept, objects, optional_concept, optional_object, optional_text, required_text
from fhir_adapter.moments import optional_moment, start_of_period
from fhir_adapter.store import RawResource

_KINDS = ("MedicationRequest", "MedicationStatement")


def medication(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a MedicationRequest that is an order, or a MedicationStatement; what is not to be given or not taken is negated."""
    if refused := refusal(body):
        return refused
    if body["resourceType"] == "MedicationStatement":
        start = optional_moment(body, "effectiveDateTime", zone)
        if start is None and body.get("effectivePeriod") is not None:
            start = start_of_period(body["effectivePeriod"], zone)
        recorded = optional_moment(body, "dateAsserted", zone)
    else:
        if required_text(body, "intent") not in ORDERED:
            return Stated(left_out=("no order",))
        start = recorded = optional_moment(body, "authoredOn", zone)
    found = _medication_concept(body)
    if found is None:
        return Stated(left_out=("medication named only by reference",))
    negated = is_negated(body)
    return Stated((Claim(*found, value=False if negated else None, negated=negated),), start, recorded)


def medications_named(resources: Iterable[RawResource]) -> list[str]:
    """Return ``Medication/x`` of every medication that is named by a reference to the server alone.

    Malformed resources name none: their reader says what is wrong with them.
    """
    found: dict[str, None] = {}
    for raw in resources:
        reference = raw.body.get("medicationReference") if raw.resource_type in _KINDS else None
        target = reference.get("reference") if isinstance(reference, Mapping) else None
        if isinstance(target, str) and target.startswith("Medication/"):
            found[target.split("/_history/", 1)[0]] = None
    return list(found)


def with_medication(raw: RawResource, held: Mapping[str, RawResource]) -> RawResource:
    """Return a resource with the Medication that it refers to inside it, where the server holds that one."""
    named = medications_named([raw])
    if not named or named[0] not in held:
        return raw
    code = held[named[0]].body.get("code")
    if not isinstance(code, Mapping):
        return raw
    body = {name: value for name, value in raw.body.items() if name != "medicationReference"}
    return RawResource({**body, "medicationCodeableConcept": code})


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
