"""What a reader returns, and what all readers ask first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.clinical import Coding
from fhir_adapter.codes import NEGATING, NONE_OF_ITS_KIND, NOTHING_KNOWN, R5_ONLY, STATED, STATUSES
from fhir_adapter.elements import concept, flag, objects, required_text
from fhir_adapter.moments import Moment

Value = float | str | bool | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Concept and value, without a time; see `domain.clinical.ClinicalFact` for what the members mean."""

    codings: tuple[Coding, ...]
    text: str
    value: Value = None
    unit: str = ""
    body_site: tuple[Coding, ...] = ()
    value_codings: tuple[Coding, ...] = ()
    interpretation: tuple[Coding, ...] = ()
    negated: bool = False


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
        When a Condition, or the taking of a medication, ended.
    past : str
        Status of a Condition, or of a medication taken, that is no longer active, else empty.
    verification : str
        How sure the record is, as it says.
    left_out : tuple of str
        Why the resource, or a part of it, states nothing that can be used.
    """

    claims: tuple[Claim, ...] = ()
    effective: Moment | None = None
    recorded: Moment | None = None
    abated: Moment | None = None
    past: str = ""
    verification: str = ""
    left_out: tuple[str, ...] = ()


def refusal(body: Mapping[str, Any]) -> Stated | None:
    """Return why a resource with a status states nothing, or None where it does."""
    kind, status = str(body["resourceType"]), required_text(body, "status")
    if found := unread(body):
        return found
    if status not in STATUSES[kind]:
        raise ValueError("status outside its value set")
    if status not in STATED[kind] and status != NEGATING.get(kind):
        return Stated(left_out=(f"status {status}",))
    return None


def unread(body: Mapping[str, Any]) -> Stated | None:
    """Return why a resource is not to be read at all, or None where it may be."""
    # FHIR R4 extensibility: a resource with a modifier extension that is not understood shall not be processed.
    if body.get("modifierExtension") or body.get("implicitRules"):
        return Stated(left_out=("modifier extension",))
    # A newer version reads like this one and may mean something else.
    if R5_ONLY[str(body["resourceType"])] & body.keys():
        return Stated(left_out=("written as FHIR R5",))
    return None


def is_negated(body: Mapping[str, Any]) -> bool:
    """Tell whether a resource states the opposite: by its status, or by ``doNotPerform``."""
    return body.get("status") == NEGATING.get(str(body["resourceType"]), "") or flag(body, "doNotPerform")


def states_none(codings: tuple[Coding, ...]) -> bool:
    """Tell whether a concept says that there is nothing of its kind, as ``No known allergy`` does."""
    return any((coding.system, coding.code) in NONE_OF_ITS_KIND for coding in codings)


def states_nothing(codings: tuple[Coding, ...]) -> Stated | None:
    """Return why a concept that says that nothing is known states nothing, or None where it is no such concept."""
    if any((coding.system, coding.code) in NOTHING_KNOWN for coding in codings):
        return Stated(left_out=("nothing is known",))
    return None


def sites(body: Mapping[str, Any]) -> tuple[Coding, ...]:
    """Return all body sites; see `site`."""
    return tuple(coding for item in objects(body, "bodySite") for coding in site(item))


def site(item: object) -> tuple[Coding, ...]:
    """Return the codings of a body site, and its text as one without a code where no coding says the same.

    Many systems write the side as text alone, or beside a code for the organ.
    """
    codings, text = concept(item)
    said = {words for coding in codings for words in (coding.display, coding.code)}
    return codings if text in said else (*codings, Coding("", "", text))


def codings_of(body: Mapping[str, Any], name: str) -> tuple[Coding, ...]:
    """Return the codings of all concepts in a repeating element."""
    return tuple(coding for item in objects(body, name) for coding in concept(item)[0])
