"""Readers of Condition and AllergyIntolerance: what is wrong with the patient, since when, and how sure that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from fhir_adapter.clinical.statements.claims import Claim, Stated, sites, states_none, states_nothing, unread
from fhir_adapter.codes import (
    ACTIVE_CONDITION,
    ALLERGY_CLINICAL,
    ALLERGY_VERIFICATION,
    CONDITION_CLINICAL,
    CONDITION_VERIFICATION,
    NO_DIAGNOSIS,
    PAST_CONDITION,
    VERIFICATION,
)
from fhir_adapter.elements import codes_in, concept, optional_object
from fhir_adapter.moments import Moment, end_of_period, optional_moment, start_of_period


def condition(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a Condition: present, or past with its clinical status as the value.

    One that is provisional, unconfirmed or a differential carries that word as its value: it is not read as present. Any
    abatement ends it; one without a date (an age, a text) counts as past at every imaging time. ``No current problems`` is the
    negation that it is.
    """
    if refused := unread(body) or _unclear(body, CONDITION_CLINICAL, CONDITION_VERIFICATION):
        return refused
    verification = _verification(body, CONDITION_VERIFICATION)
    status = codes_in(optional_object(body, "clinicalStatus"), CONDITION_CLINICAL)
    if status - ACTIVE_CONDITION - PAST_CONDITION:
        raise ValueError("clinicalStatus outside its value set")
    codings, text = concept(body.get("code"))
    if nothing := states_nothing(codings):
        return nothing
    abated = optional_moment(body, "abatementDateTime", zone)
    if abated is None and body.get("abatementPeriod") is not None:
        abated = end_of_period(body["abatementPeriod"], zone)
    ended = any(name.startswith("abatement") for name in body)
    none = states_none(codings)
    past = "" if none else next(iter(status & PAST_CONDITION), "resolved" if ended else "")
    claim = Claim(codings, text, False if none else _unsure(verification), body_site=sites(body), negated=none)
    return Stated(
        (claim,), _onset(body, zone), optional_moment(body, "recordedDate", zone), abated, past, verification=verification
    )


def allergy(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read an AllergyIntolerance; ``No known allergy`` is the negation that it is."""
    if refused := unread(body) or _unclear(body, ALLERGY_CLINICAL, ALLERGY_VERIFICATION):
        return refused
    verification = _verification(body, ALLERGY_VERIFICATION)
    status = codes_in(optional_object(body, "clinicalStatus"), ALLERGY_CLINICAL)
    if status - {"active", "inactive", "resolved"}:
        raise ValueError("clinicalStatus outside its value set")
    codings, text = concept(body.get("code"))
    if nothing := states_nothing(codings):
        return nothing
    none_known = states_none(codings)
    claim = Claim(codings, text, False if none_known else _unsure(verification), negated=none_known)
    past = "" if none_known else next(iter(status & PAST_CONDITION), "")
    return Stated(
        (claim,), _onset(body, zone), optional_moment(body, "recordedDate", zone), past=past, verification=verification
    )


def _unclear(body: Mapping[str, Any], clinical: str, verification: str) -> Stated | None:
    """Return why a record states nothing by its two statuses, or None where it does.

    Both are modifiers with a required binding: what is there without a code of its value set (as text, without a system, with
    that of another FHIR version) may be a denial, so the record is left out.
    """
    for name, system, words in (
        ("clinicalStatus", clinical, "clinical"),
        ("verificationStatus", verification, "verification"),
    ):
        stated = body.get(name)
        if stated is not None and (not isinstance(stated, Mapping) or not codes_in(stated, system)):
            return Stated(left_out=(f"{words} status without a code of its value set",))
    if (sure := _verification(body, verification)) in NO_DIAGNOSIS:
        return Stated(left_out=(f"verification status {sure}",))
    return None


def _verification(body: Mapping[str, Any], system: str) -> str:
    stated = codes_in(optional_object(body, "verificationStatus"), system)
    if stated - VERIFICATION or len(stated) > 1:
        raise ValueError("verificationStatus outside its value set")
    return next(iter(stated), "")


def _unsure(verification: str) -> str | None:
    return None if verification in ("", "confirmed") else verification


def _onset(body: Mapping[str, Any], zone: tzinfo | None) -> Moment | None:
    onset = optional_moment(body, "onsetDateTime", zone)
    if onset is None and body.get("onsetPeriod") is not None:
        return start_of_period(body["onsetPeriod"], zone)
    return onset
