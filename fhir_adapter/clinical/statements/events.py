"""Readers of Procedure, Encounter, ServiceRequest and ImagingStudy: what was done, where, and what was asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Any

from domain.clinical import Coding
from fhir_adapter.clinical.statements.claims import Claim, Stated, is_negated, refusal, sites, states_none, states_nothing
from fhir_adapter.elements import concept, objects, optional_concept, optional_object, optional_text, required_text
from fhir_adapter.moments import end_of_period, optional_moment, start_of_period


def procedure(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read a Procedure that was begun or done, or, negated, one that was not done."""
    if refused := refusal(body):
        return refused
    codings, text = concept(body.get("code"))
    if nothing := states_nothing(codings):
        return nothing
    performed = optional_moment(body, "performedDateTime", zone)
    if performed is None and body.get("performedPeriod") is not None:
        performed = end_of_period(body["performedPeriod"], zone)
    negated = is_negated(body) or states_none(codings)
    return Stated((Claim(codings, text, False if negated else None, body_site=sites(body), negated=negated),), performed)


def encounter(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read kind and reasons of an Encounter; it counts from its start, for it may go on while images are taken."""
    if refused := refusal(body):
        return refused
    setting = _single_coding(body, "class")
    if setting is None:
        raise ValueError("class is missing")
    kinds = [concept(kind) for kind in objects(body, "type")] or [((setting,), setting.display or setting.code)]
    claims = [Claim(codings, text, "encounter", value_codings=(setting,)) for codings, text in kinds]
    claims += _reasons(body, "reason for encounter", ())
    period = body.get("period")
    return Stated(tuple(claims), start_of_period(period, zone) if period is not None else None)


def service_request(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read what a ServiceRequest asks for and why: what was asked about is not thereby true, and the value says so."""
    if refused := refusal(body):
        return refused
    required_text(body, "intent")
    authored = optional_moment(body, "authoredOn", zone)
    where, negated = sites(body), is_negated(body)
    claims = [] if negated else _reasons(body, "reason for request", where)
    if (asked := optional_concept(body, "code")) is not None:
        claims.append(Claim(*asked, value=False if negated else "requested", body_site=where, negated=negated))
    return Stated(tuple(claims), authored, authored, left_out=() if claims else ("no code and no reason",))


def imaging_study(body: Mapping[str, Any], zone: tzinfo | None) -> Stated:
    """Read which images were taken and why; the modalities are the codes of the value."""
    if refused := refusal(body):
        return refused
    modalities = tuple(dict.fromkeys(_modalities(body)))
    done = [concept(code) for code in objects(body, "procedureCode")]
    if not done:
        words = optional_text(body, "description") or " ".join(coding.code for coding in modalities)
        done = [(modalities, words)] if words else []
    claims = [Claim(codings, text, "imaging study", value_codings=modalities) for codings, text in done]
    claims += _reasons(body, "reason for imaging", ())
    left_out = () if claims else ("no modality, procedure and reason",)
    return Stated(tuple(claims), optional_moment(body, "started", zone), left_out=left_out)


def _reasons(body: Mapping[str, Any], value: str, where: tuple[Coding, ...]) -> list[Claim]:
    reasons = [concept(reason) for reason in objects(body, "reasonCode")]
    return [Claim(codings, text, value, body_site=where) for codings, text in reasons]


def _modalities(body: Mapping[str, Any]) -> list[Coding]:
    stated = [_coding(item) for item in objects(body, "modality")]
    found = [_single_coding(series, "modality") for series in objects(body, "series")]
    return [coding for coding in [*stated, *found] if coding is not None]


def _single_coding(body: Mapping[str, Any], name: str) -> Coding | None:
    value = optional_object(body, name)
    return None if value is None else _coding(value)


def _coding(item: Mapping[str, Any]) -> Coding | None:
    found = concept({"coding": [item]})[0]
    return found[0] if found else None
