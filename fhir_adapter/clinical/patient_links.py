"""What a Patient resource says of its identifiers, of merges and of its own validity. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from domain.errors import PeerAnswerInvalid
from domain.identifiers import PatientIdentifier
from fhir_adapter.codes import IDENTIFIER_TYPES, LINK_REPLACED_BY, LINK_REPLACES, NO_RECORD_NUMBER, NO_RECORD_SYSTEMS
from fhir_adapter.elements import codes_in, flag, objects, optional_object, optional_text
from fhir_adapter.search import own_reference
from fhir_adapter.store import RawResource

# A merge of a merge happens; a chain longer than this is a mistake or a loop.
_LONGEST_CHAIN = 5


def patient_identifiers(patient: Mapping[str, Any]) -> tuple[PatientIdentifier, ...]:
    """Return the identifiers of a Patient that have a value and are not marked as old.

    Raises
    ------
    PeerAnswerInvalid
        If they are malformed.

    References
    ----------
    FHIR R4 Identifier.use: an identifier with use ``old`` is no longer valid, one with ``temp`` still is.
    """
    try:
        stated = [
            (optional_text(item, "value"), optional_text(item, "system") or "")
            for item in objects(patient, "identifier")
            if item.get("use") != "old"
        ]
    except ValueError as error:
        raise _invalid("a Patient.identifier that is malformed") from error
    return tuple(PatientIdentifier(value, system) for value, system in stated if value)


def not_of_record(patient: Mapping[str, Any]) -> frozenset[PatientIdentifier]:
    """Return the identifiers that number a person and no record, by type or by system: social security, licence, passport.

    Raises
    ------
    PeerAnswerInvalid
        If they are malformed.

    References
    ----------
    FHIR R4 Identifier.type (value set identifier-type); HL7 v2 table 0203.
    """
    try:
        stated = [(item, codes_in(optional_object(item, "type"), IDENTIFIER_TYPES)) for item in objects(patient, "identifier")]
        return frozenset(
            PatientIdentifier(str(item.get("value", "")), str(item.get("system") or ""))
            for item, types in stated
            if types & NO_RECORD_NUMBER or str(item.get("system", "")).startswith(NO_RECORD_SYSTEMS)
        )
    except ValueError as error:
        raise _invalid("a Patient.identifier that is malformed") from error


def replaced_by(patient: RawResource, base_url: str = "") -> str | None:
    """Return who stands for a Patient as it says itself, or None where it says nothing.

    Raises
    ------
    PeerAnswerInvalid
        If it names several, or one that cannot be read here: then nobody may be paired with it.
    """
    named = {own_reference(reference, base_url) for reference in _linked(patient.body, LINK_REPLACED_BY)}
    if None in named:
        raise _invalid("a Patient replaced by one that no reference on this server names")
    if len(named) > 1:
        raise _invalid("a Patient replaced by several others")
    return next(iter(named), None)


def replaces(patient: RawResource, base_url: str = "") -> frozenset[str]:
    """Return whom a Patient says it replaces, as far as they are on this server."""
    named = {own_reference(reference, base_url) for reference in _linked(patient.body, LINK_REPLACES)}
    return frozenset(reference for reference in named if reference is not None and reference != patient.reference)


def line_of(
    patient: RawResource, held: Mapping[str, RawResource], read: Callable[[str], RawResource], base_url: str = ""
) -> tuple[RawResource, ...]:
    """Return a Patient and, one after another, those who stand for it; the last one is replaced by nobody.

    A merge counts as the replaced Patient says it, or as one that we hold says it (``replaces``).

    Raises
    ------
    PeerAnswerInvalid
        If the links run in a circle, the chain is too long, or anything leads to another Patient than the rest.
    """
    line = [patient]
    while (successor := _successor(line[-1], held, base_url)) is not None:
        if successor in {one.reference for one in line} or len(line) >= _LONGEST_CHAIN:
            raise _invalid("Patient links that run in a circle, or a chain too long")
        line.append(held.get(successor) or read(successor))
    known = {one.reference for one in line}
    if any(known & replaces(other, base_url) for other in held.values() if other.reference not in known):
        raise _invalid("a Patient that several others replace")
    return tuple(line)


def _successor(patient: RawResource, held: Mapping[str, RawResource], base_url: str) -> str | None:
    stated = replaced_by(patient, base_url)
    if stated is not None:
        return stated
    replacing = {other.reference for other in held.values() if patient.reference in replaces(other, base_url)}
    if len(replacing) > 1:
        raise _invalid("a Patient that several others replace")
    return next(iter(replacing), None)


def _linked(patient: Mapping[str, Any], kind: str) -> list[str | None]:
    try:
        links = [link for link in objects(patient, "link") if link.get("type") == kind]
        return [optional_text(optional_object(link, "other") or {}, "reference") for link in links]
    except ValueError as error:
        raise _invalid("a Patient.link that is malformed") from error


def is_in_use(patient: Mapping[str, Any]) -> bool:
    """Tell whether a Patient may be used; one that does not say so is in use."""
    try:
        return flag(patient, "active") if "active" in patient else True
    except ValueError as error:
        raise _invalid("a Patient.active that is no boolean") from error


def _invalid(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=found,
        allowed="Patient resources as FHIR R4 defines them",
        action="correct the Patient on the FHIR server, then retry the job",
    )
