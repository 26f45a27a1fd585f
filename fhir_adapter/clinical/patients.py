"""Reads which patients of the EHR the evidence about a series leads to: identifier, study, accession, order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from domain.errors import ConsentMissing, PeerAnswerInvalid
from domain.identifiers import PatientIdentifier
from domain.ordering import Order, OrderOrigin
from domain.pairing import ACCESSION, ORDER, STUDY_UID, PatientCandidate, Pointer
from domain.series import ImagingSeries
from fhir_adapter.clinical.consent import security_labels
from fhir_adapter.clinical.demographics import demographics
from fhir_adapter.clinical.patient_links import is_in_use, patient_identifiers, successor_of
from fhir_adapter.codes import RESTRICTING_LABELS
from fhir_adapter.search import escape, identifier_token
from fhir_adapter.store import FhirStore, RawResource, Search

_log = structlog.get_logger()

# A merge of a merge happens; a chain longer than this is a mistake or a loop.
_LONGEST_CHAIN = 5
_PATIENT = re.compile(r"(?:https?://.*/)?(Patient/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_DICOM_UID, _URI = "urn:dicom:uid", "urn:ietf:rfc:3986"
_FROM_THIS_SERVER = frozenset({OrderOrigin.FHIR, OrderOrigin.OPERATION})


@dataclass(frozen=True, slots=True)
class PairingSources:
    """Everything that the rule of `domain.pairing` decides by."""

    candidates: tuple[PatientCandidate, ...]
    pointers: tuple[Pointer, ...]
    survivors: tuple[PatientIdentifier, ...]


class PatientFinder:
    """Finds the patients that evidence leads to.

    Parameters
    ----------
    store : FhirStore
    accession_system : str
        Identifier system of accession numbers; empty: they are no evidence, since another hospital may use the same number.
    offers : callable
        Tells whether the server offers a resource type.
    survivors : callable
        What announced merges made of an identifier.
    """

    def __init__(
        self,
        store: FhirStore,
        *,
        accession_system: str = "",
        offers: Callable[[str], bool] = lambda _kind: True,
        survivors: Callable[[PatientIdentifier], tuple[PatientIdentifier, ...]] = lambda _identifier: (),
    ) -> None:
        self._store, self._accession_system, self._offers, self._survivors = store, accession_system, offers, survivors

    def sources(self, series: ImagingSeries, order: Order | None) -> PairingSources:
        """Return who carries the identifier, and whom study, accession and order name.

        One batch, one more where study or order name a patient who does not carry the identifier, and one read for each merge.

        Raises
        ------
        ConsentMissing
            If the series' own ImagingStudy carries a restricting label.
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            See `domain.errors`.
        """
        survivors = self._survivors(series.patient) if series.patient.value else ()
        named = list(self._store.search_many(self._searches(series, order, survivors)))
        people = {raw.reference: raw for raw in named if raw.resource_type == "Patient"}
        pointing = list(self._pointing(series, order, named))
        people |= self._others({reference for _, reference in pointing} - people.keys())
        settled = {reference: self._follow(raw, people) for reference, raw in people.items()}
        pointers = {Pointer(kind, settled[at][0].reference if at in settled else "") for kind, at in pointing}
        candidates = self._candidates(settled.values())
        pointers |= self._of_order_identifier(series, order, candidates)
        return PairingSources(tuple(candidates), tuple(sorted(pointers, key=lambda p: (p.kind, p.reference))), survivors)

    def carriers(self, identifier: PatientIdentifier) -> list[PatientCandidate]:
        """Return every Patient in use that carries the identifier, itself or by a merge."""
        found = {raw.reference: raw for raw in self._store.search("Patient", {"identifier": identifier_token(identifier)})}
        return self._candidates([self._follow(raw, found) for raw in found.values()])

    def _searches(self, series: ImagingSeries, order: Order | None, survivors: Iterable[PatientIdentifier]) -> list[Search]:
        identifiers = [series.patient, *survivors, *([order.patient] if order and order.patient else [])]
        tokens = ",".join(dict.fromkeys(identifier_token(one) for one in identifiers if one.value))
        searches = [Search("Patient", {"identifier": tokens})] if tokens else []
        uid = escape(str(series.study_uid))
        wanted = f"{_DICOM_UID}|urn:oid:{uid},{_URI}|urn:oid:{uid}"
        kinds = {"ImagingStudy": [wanted], "ServiceRequest": []}
        if self._accession_system and series.accession:
            accession = f"{escape(self._accession_system)}|{escape(str(series.accession))}"
            kinds = {"ImagingStudy": [wanted, accession], "ServiceRequest": [accession]}
        for kind, values in kinds.items():
            if values and self._offers(kind):
                searches.append(Search(kind, {"identifier": ",".join(values)}))
        return searches

    def _pointing(self, series: ImagingSeries, order: Order | None, named: Iterable[RawResource]) -> Iterable[tuple[str, str]]:
        """Yield kind of evidence and ``Patient/x``, before merges."""
        for raw in named:
            if raw.resource_type == "Patient" or raw.body.get("status") == "entered-in-error":
                continue
            carried = _identifiers(raw.body)
            subject = _patient_of(raw.body)
            uid = f"urn:oid:{series.study_uid}"
            is_study = raw.resource_type == "ImagingStudy" and bool({(_DICOM_UID, uid), (_URI, uid)} & carried)
            if is_study:
                _require_no_label(raw)
            if subject is not None and is_study:
                yield STUDY_UID, subject
            if subject is not None and (self._accession_system, str(series.accession or "")) in carried:
                yield ACCESSION, subject
        if order is not None and order.origin in _FROM_THIS_SERVER:
            matched = _PATIENT.fullmatch(order.subject_reference)
            if matched:
                yield ORDER, matched[1]

    def _of_order_identifier(
        self, series: ImagingSeries, order: Order | None, candidates: Sequence[PatientCandidate]
    ) -> set[Pointer]:
        """Return whom the identifier in an order names; a stranger of the series' own system speaks against everyone."""
        wanted = order.patient if order is not None else None
        if wanted is None or not wanted.value:
            return set()
        alike = {wanted, *self._survivors(wanted)}
        carrying = {
            candidate.reference
            for candidate in candidates
            for held in candidate.identifiers
            if any(held.value == one.value and one.system in ("", held.system) for one in alike)
        }
        if not carrying and wanted.system and wanted.system == series.patient.system and series.patient not in alike:
            return {Pointer(ORDER, "")}
        return {Pointer(ORDER, reference) for reference in carrying}

    def _others(self, references: Iterable[str]) -> dict[str, RawResource]:
        wanted = sorted(reference.removeprefix("Patient/") for reference in references if reference)
        if not wanted:
            return {}
        return {raw.reference: raw for raw in self._store.search_many([Search("Patient", {"_id": ",".join(wanted)})])}

    def _follow(
        self, patient: RawResource, held: Mapping[str, RawResource]
    ) -> tuple[RawResource, tuple[PatientIdentifier, ...]]:
        """Follow ``replaced-by`` to the Patient in use; collect the identifiers on the way."""
        identifiers = list(patient_identifiers(patient.body))
        visited = {patient.reference}
        while (successor := successor_of(patient, held.values())) is not None:
            patient = held.get(successor) or self._store.read(successor)
            if patient.reference in visited or len(visited) >= _LONGEST_CHAIN:
                raise _invalid("Patient links that run in a circle, or a chain too long")
            visited.add(patient.reference)
            identifiers += patient_identifiers(patient.body)
        return patient, tuple(dict.fromkeys(identifiers))

    def _candidates(self, settled: Iterable[tuple[RawResource, tuple[PatientIdentifier, ...]]]) -> list[PatientCandidate]:
        """Return each Patient in use once, with the identifiers of all that were merged into it."""
        found: dict[str, PatientCandidate] = {}
        for survivor, identifiers in settled:
            if not is_in_use(survivor.body):
                _log.info("inactive patient is no candidate")
                continue
            known = found[survivor.reference].identifiers if survivor.reference in found else ()
            merged = tuple(dict.fromkeys((*known, *identifiers)))
            found[survivor.reference] = PatientCandidate(survivor.reference, merged, *demographics(survivor.body))
        return list(found.values())


def _identifiers(body: Mapping[str, Any]) -> set[tuple[str, str]]:
    found = body.get("identifier")
    items = found if isinstance(found, list) else []
    return {(str(item.get("system", "")), str(item.get("value", ""))) for item in items if isinstance(item, Mapping)}


def _patient_of(body: Mapping[str, Any]) -> str | None:
    """Return ``Patient/x``; empty where the subject is no patient of this server, None where no reference is stated."""
    subject = body.get("subject")
    reference = subject.get("reference") if isinstance(subject, Mapping) else None
    if not isinstance(reference, str):
        return None
    matched = _PATIENT.fullmatch(reference)
    return matched[1] if matched else ""


def _require_no_label(study: RawResource) -> None:
    try:
        labels = security_labels(study.body) & RESTRICTING_LABELS
    except ValueError as error:
        raise _invalid("security labels of an ImagingStudy that are malformed") from error
    if labels:
        raise ConsentMissing(
            found=f"security label {', '.join(sorted(code for _, code in labels))} on the ImagingStudy of the series",
            allowed="no restricting security label",
            action="nothing was used; settle the patient's consent in the EHR before asking again",
        )


def _invalid(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=found,
        allowed="Patient resources as FHIR R4 defines them",
        action="correct the Patient on the FHIR server, then retry the job",
    )
