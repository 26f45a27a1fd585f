"""What a Patient resource says of its identifiers, of merges and of its own validity. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from domain.errors import PeerAnswerInvalid
from domain.identifiers import PatientIdentifier
from fhir_adapter.codes import LINK_REPLACED_BY
from fhir_adapter.elements import flag, objects, optional_object, optional_text
from fhir_adapter.store import RawResource


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


def successor_of(patient: RawResource, others: Iterable[RawResource]) -> str | None:
    """Return who stands for a Patient: as it says itself, or as another that we hold says of it (``replaces``)."""
    stated = _linked(patient.body, LINK_REPLACED_BY)
    if stated:
        return stated[0]
    replacing = {other.reference for other in others if patient.reference in _linked(other.body, "replaces")}
    if len(replacing) > 1:
        raise _invalid("a Patient that several others replace")
    return next(iter(replacing - {patient.reference}), None)


def _linked(patient: Mapping[str, Any], kind: str) -> list[str]:
    try:
        links = [link for link in objects(patient, "link") if link.get("type") == kind]
        named = [optional_text(optional_object(link, "other") or {}, "reference") for link in links]
    except ValueError as error:
        raise _invalid("a Patient.link that is malformed") from error
    return [reference for reference in named if reference]


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
