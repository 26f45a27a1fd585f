"""Reads which patients of the EHR the evidence about a series leads to: identifier, study, accession, order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import structlog

from domain.errors import ConsentMissing, PeerAnswerInvalid
from domain.identifiers import PatientIdentifier
from domain.ordering import Order, OrderOrigin
from domain.pairing import ACCESSION, ORDER, STUDY_UID, PatientCandidate, Pointer, carries
from domain.series import ImagingSeries
from fhir_adapter.clinical.consent import security_labels
from fhir_adapter.clinical.demographics import demographics
from fhir_adapter.clinical.patient_links import is_in_use, line_of, not_of_record, patient_identifiers, replaced_by, replaces
from fhir_adapter.codes import RESTRICTING_LABELS
from fhir_adapter.search import escape, identifier_token, own_reference
from fhir_adapter.store import FhirStore, RawResource, Search, base_url_of

_log = structlog.get_logger()

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
        self._base_url = base_url_of(store)

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
        lines = {reference: line_of(raw, people, self._store.read, self._base_url) for reference, raw in people.items()}
        pointers = {Pointer(kind, lines[at][-1].reference if at in lines else "") for kind, at in pointing}
        replaced = {one for raw in people.values() for one in replaces(raw, self._base_url)} - people.keys()
        candidates = self._candidates(lines.values(), people | self._others(replaced))
        pointers |= self._of_order_identifier(series, order, candidates)
        return PairingSources(tuple(candidates), tuple(sorted(pointers, key=lambda p: (p.kind, p.reference))), survivors)

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
            subject = self._subject_of(raw.body)
            carried = _identifiers(raw.body)
            uid = f"urn:oid:{series.study_uid}"
            is_study = raw.resource_type == "ImagingStudy" and bool({(_DICOM_UID, uid), (_URI, uid)} & carried)
            if is_study:
                _require_no_label(raw)
            if subject is not None and is_study:
                yield STUDY_UID, subject
            number = (self._accession_system, str(series.accession or ""))
            if subject is not None and all(number) and number in carried:
                yield ACCESSION, subject
        if _has_subject(order):
            yield ORDER, self._patient_at(order.subject_reference)

    def _of_order_identifier(
        self, series: ImagingSeries, order: Order | None, candidates: Sequence[PatientCandidate]
    ) -> set[Pointer]:
        """Return whom the identifier in an order names; one who is not shown to be anybody here speaks against everyone.

        Only an order whose subject is known by reference may carry an identifier that nobody has here, and even that not under
        the series' own system.
        """
        wanted = order.patient if order is not None else None
        if wanted is None or not wanted.value:
            return set()
        alike = {wanted, *self._survivors(wanted)}
        carrying = {one.reference for one in candidates if any(carries(one, name) for name in alike)}
        if carrying or series.patient in alike:
            return {Pointer(ORDER, reference) for reference in carrying}
        if _has_subject(order) and not (wanted.system and wanted.system == series.patient.system):
            return set()
        return {Pointer(ORDER, "")}

    def _others(self, references: Iterable[str]) -> dict[str, RawResource]:
        wanted = sorted(reference.removeprefix("Patient/") for reference in references if reference)
        if not wanted:
            return {}
        return {raw.reference: raw for raw in self._store.search_many([Search("Patient", {"_id": ",".join(wanted)})])}

    def _candidates(self, lines: Iterable[tuple[RawResource, ...]], known: Mapping[str, RawResource]) -> list[PatientCandidate]:
        """Return each Patient in use once, with the identifiers of all that were merged into it."""
        people: dict[str, dict[str, RawResource]] = defaultdict(dict)
        for line in lines:
            people[line[-1].reference].update({one.reference: one for one in line})
        found = []
        for reference, merged in people.items():
            survivor = merged[reference]
            if not is_in_use(survivor.body):
                _log.info("inactive patient is no candidate")
                continue
            names = {name for one in merged.values() for name in (one.reference, *replaces(one, self._base_url))}
            for name in names & known.keys():
                if (replaced_by(known[name], self._base_url) or reference) not in names:
                    raise _invalid("a Patient that two others are said to stand for")
            found.append(
                PatientCandidate(
                    reference,
                    tuple(dict.fromkeys(name for one in merged.values() for name in patient_identifiers(one.body))),
                    *demographics(survivor.body),
                    frozenset[PatientIdentifier]().union(*(not_of_record(one.body) for one in merged.values())),
                    tuple(sorted(names - {reference})),
                )
            )
        return found

    def _subject_of(self, body: Mapping[str, Any]) -> str | None:
        """Return ``Patient/x``; empty where the subject is no patient of this server, None where no reference is stated."""
        subject = body.get("subject")
        reference = subject.get("reference") if isinstance(subject, Mapping) else None
        return self._patient_at(reference) if isinstance(reference, str) else None

    def _patient_at(self, reference: str) -> str:
        named = own_reference(reference, self._base_url) or ""
        return named if named.startswith("Patient/") else ""


def _has_subject(order: Order | None) -> TypeGuard[Order]:
    return order is not None and order.origin in _FROM_THIS_SERVER and bool(order.subject_reference)


def _identifiers(body: Mapping[str, Any]) -> set[tuple[str, str]]:
    found = body.get("identifier")
    items = found if isinstance(found, list) else []
    return {(str(item.get("system", "")), str(item.get("value", ""))) for item in items if isinstance(item, Mapping)}


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
