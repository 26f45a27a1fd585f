"""Reads the clinical half of a pair from a `FhirStore`: who carries an identifier, and what was known at the imaging time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from domain.clinical import ClinicalContext
from domain.errors import PeerAnswerInvalid
from domain.identifiers import PatientIdentifier
from domain.pairing import PatientCandidate
from fhir_adapter.clinical_context import clinical_context, demographics
from fhir_adapter.codes import LINK_REPLACED_BY
from fhir_adapter.consent import require_consent
from fhir_adapter.elements import flag, objects, optional_object, optional_text
from fhir_adapter.search import identifier_token, of_patient
from fhir_adapter.statements import READERS
from fhir_adapter.store import FhirStore, RawResource

_log = structlog.get_logger()

# A merge of a merge happens; a chain longer than this is a mistake or a loop.
_LONGEST_CHAIN = 5


class EhrReader:
    """The EHR side of pairing and conditioning.

    Parameters
    ----------
    store : FhirStore
        FHIR server or embedded store.
    salt : bytes
        Secret of this site for snapshot digests, 16 bytes or more.
    resource_types : sequence of str
        Types that are searched for facts; a site names fewer where its server knows fewer.
    clock : callable
        Time of use, at which consent is judged.
    """

    def __init__(
        self,
        store: FhirStore,
        *,
        salt: bytes,
        resource_types: Sequence[str] = tuple(READERS),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._salt, self._clock = store, salt, clock
        self._resource_types = tuple(resource_types)

    def find_patients(self, identifier: PatientIdentifier) -> list[PatientCandidate]:
        """Return every Patient in use that carries the identifier.

        A Patient that was replaced by another stands for it: the surviving Patient is returned with the identifiers of both. An
        inactive Patient that names no successor is no candidate.

        Raises
        ------
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            See `domain.errors`.

        References
        ----------
        FHIR R4 Patient.link, Patient.active; search type token.
        """
        found: dict[str, PatientCandidate] = {}
        for patient in self._store.search("Patient", {"identifier": identifier_token(identifier)}):
            survivor, identifiers = self._follow(patient)
            if not _in_use(survivor.body):
                _log.info("inactive patient is no candidate")
                continue
            known = found[survivor.reference].identifiers if survivor.reference in found else ()
            birth_date, sex = demographics(survivor.body)
            merged = tuple(dict.fromkeys((*known, *identifiers)))
            found[survivor.reference] = PatientCandidate(survivor.reference, merged, birth_date, sex)
        return list(found.values())

    def snapshot(self, patient_reference: str, as_of: datetime) -> ClinicalContext:
        """Return what the EHR knew about a patient at the imaging time.

        One request for the Patient and one batch for everything else, plus one for each further page: a store that stops in the
        middle raises, and no half snapshot is ever returned.

        Raises
        ------
        ConsentMissing
            If a security label or a Consent forbids the use.
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the store does not answer in full.
        """
        patient = self._store.read(patient_reference)
        searches = [of_patient(kind, patient.reference) for kind in ("Consent", *self._resource_types)]
        resources = list(self._store.search_many(searches))
        consents = [resource for resource in resources if resource.resource_type == "Consent"]
        consent = require_consent(patient, consents, now=self._clock())
        context = clinical_context(
            patient,
            (resource for resource in resources if resource.resource_type != "Consent"),
            as_of=as_of,
            salt=self._salt,
            consent=consent,
            consents=consents,
        )
        _log.info(
            "snapshot taken",
            resources=len(resources),
            facts=len(context.facts),
            left_out=sum(entry.count for entry in context.left_out),
        )
        return context

    def _follow(self, patient: RawResource) -> tuple[RawResource, tuple[PatientIdentifier, ...]]:
        """Follow ``replaced-by`` to the Patient in use; collect the identifiers on the way."""
        identifiers = list(patient_identifiers(patient.body))
        visited = {patient.reference}
        while (successor := _successor(patient.body)) is not None:
            patient = self._store.read(successor)
            if patient.reference in visited or len(visited) >= _LONGEST_CHAIN:
                raise _invalid("Patient links that run in a circle, or a chain too long")
            visited.add(patient.reference)
            identifiers += patient_identifiers(patient.body)
        return patient, tuple(dict.fromkeys(identifiers))


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


def _successor(patient: Mapping[str, Any]) -> str | None:
    try:
        for link in objects(patient, "link"):
            if link.get("type") == LINK_REPLACED_BY:
                return optional_text(optional_object(link, "other") or {}, "reference")
    except ValueError as error:
        raise _invalid("a Patient.link that is malformed") from error
    return None


def _in_use(patient: Mapping[str, Any]) -> bool:
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
