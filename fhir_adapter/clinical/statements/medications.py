"""Reader of MedicationRequest and MedicationStatement: what was ordered, and what is taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo
from typing import Any

from domain.clinical import Coding
from fhir_adapter.clinical.consent import security_labels
from fhir_adapter.clinical.statements.claims import Claim, Stated, is_negated, refusal, states_none, states_nothing
from fhir_adapter.codes import ORDERED, PAST_TAKING, RESTRICTING_LABELS
from fhir_adapter.elements import concept, objects, optional_concept, optional_object, optional_text, required_text
from fhir_adapter.moments import Moment, optional_moment, start_of_period
from fhir_adapter.store import RawResource

# An id that no server gives (FHIR R4 id has no underscore): nothing in ``contained`` can have it.
_HELD = "held_medication"
_KINDS = ("MedicationRequest", "MedicationStatement")


def medication(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a MedicationRequest that is an order, or a MedicationStatement; what is not to be given or not taken is negated.

    What was taken until before the imaging time is past: its status, ``completed`` or ``stopped``, is the value.
    """
    if refused := refusal(body):
        return refused
    end: Moment | None = None
    past = ""
    if body["resourceType"] == "MedicationStatement":
        start = optional_moment(body, "effectiveDateTime", zone)
        if start is None and body.get("effectivePeriod") is not None:
            start = start_of_period(body["effectivePeriod"], zone)
            end = optional_moment(body["effectivePeriod"], "end", zone)
        past = str(body["status"]) if body["status"] in PAST_TAKING else "completed" if end else ""
        recorded = optional_moment(body, "dateAsserted", zone)
    else:
        if required_text(body, "intent") not in ORDERED:
            return Stated(left_out=("no order",))
        start = recorded = optional_moment(body, "authoredOn", zone)
    found = _medication_concept(body)
    if not isinstance(found, tuple):
        return found
    if nothing := states_nothing(found[0]):
        return nothing
    negated = is_negated(body) or states_none(found[0])
    claim = Claim(*found, value=False if negated else None, negated=negated)
    return Stated((claim,), start, recorded, end, past="" if negated else past)


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
    """Return a resource with the Medication that it refers to contained in it, where the server holds that one.

    The whole Medication, not its code alone: its status and its labels decide whether it may be read.
    """
    named = medications_named([raw])
    if not named or named[0] not in held:
        return raw
    kept = raw.body.get("contained")
    contained = [*(kept if isinstance(kept, list) else []), {**held[named[0]].body, "id": _HELD}]
    body = {**raw.body, "medicationReference": {**raw.body["medicationReference"], "reference": f"#{_HELD}"}}
    return RawResource({**body, "contained": contained})


def _medication_concept(body: Mapping[str, Any]) -> tuple[tuple[Coding, ...], str] | Stated:
    """Return what the medication is, or why that cannot be used."""
    if body.get("medicationCodeableConcept") is not None:
        return concept(body["medicationCodeableConcept"])
    reference = optional_object(body, "medicationReference")
    if reference is None:
        raise ValueError("medication[x] is missing")
    target = optional_text(reference, "reference") or ""
    for contained in objects(body, "contained"):
        if target == f"#{contained.get('id')}":
            return _of_medication(contained, reference)
    return _by_name(reference)


def _of_medication(held: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[tuple[Coding, ...], str] | Stated:
    if security_labels(held) & RESTRICTING_LABELS:
        return Stated(left_out=("security label of the medication",))
    if held.get("status") == "entered-in-error":
        return Stated(left_out=("medication entered in error",))
    if held.get("modifierExtension") or held.get("implicitRules"):
        return Stated(left_out=("modifier extension",))
    return optional_concept(held, "code") or _by_name(reference)


def _by_name(reference: Mapping[str, Any]) -> tuple[tuple[Coding, ...], str] | Stated:
    display = optional_text(reference, "display")
    return ((), display) if display else Stated(left_out=("medication named only by reference",))
