"""Reads the clinical half of a pair from a `FhirStore`: who is meant, and what was known at the imaging time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import structlog

from domain.clinical import ClinicalContext
from domain.errors import PeerAnswerInvalid, PeerRefused
from domain.identifiers import PatientIdentifier
from domain.ordering import Order
from domain.pairing import PatientCandidate
from domain.series import ImagingSeries
from fhir_adapter.clinical.consent import require_consent
from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.clinical.offering import Offering
from fhir_adapter.clinical.patients import PairingSources, PatientFinder
from fhir_adapter.clinical.statements import READERS, medications_named
from fhir_adapter.search import split_reference
from fhir_adapter.store import FhirStore, RawResource, Search

_log = structlog.get_logger()

# A patient with 2,000 resources comes in one answer where the server allows it; others give shorter pages.
_PAGE_SIZE = 2_000
# Ids in one search: a batch entry is a URL, and servers cap those at 8 kB.
_IDS = 50


class EhrReader:
    """The EHR side of pairing and conditioning.

    Parameters
    ----------
    store : FhirStore
        FHIR server or embedded store.
    salt : bytes
        Secret of this site for snapshot digests, 16 bytes or more.
    resource_types : sequence of str
        Types that are searched for facts; empty: those that the server says it offers.
    accession_system : str
        Identifier system of accession numbers; empty: they are no evidence.
    survivors : callable
        What announced merges made of an identifier.
    clock : callable
        Time of use, at which consent is judged.
    """

    def __init__(
        self,
        store: FhirStore,
        *,
        salt: bytes,
        resource_types: Sequence[str] = (),
        accession_system: str = "",
        survivors: Callable[[PatientIdentifier], tuple[PatientIdentifier, ...]] = lambda _identifier: (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._salt, self._clock = store, salt, clock
        self._offering = Offering(store, tuple(resource_types))
        self._finder = PatientFinder(
            store, accession_system=accession_system, offers=self._offering.offers, survivors=survivors
        )

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
        return self._finder.carriers(identifier)

    def pairing_sources(self, series: ImagingSeries, order: Order | None = None) -> PairingSources:
        """Return what `domain.pairing.choose_patient` decides by; see `.patients.PatientFinder.sources`."""
        return self._finder.sources(series, order)

    def snapshot(self, patient_reference: str, as_of: datetime) -> ClinicalContext:
        """Return what the EHR knew about a patient at the imaging time.

        One batch for the Patient and everything else, one more where medication is named by reference, plus one request for
        each further page: a store that stops in the middle raises, and no half snapshot is ever returned. A type that the
        server does not offer is recorded as missing.

        Raises
        ------
        ConsentMissing
            If a security label or a Consent forbids the use.
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the store does not answer in full.
        """
        kind, identity = split_reference(patient_reference)
        offered = [one for one in READERS if self._offering.offers(one)]
        searched = ["Consent", *offered] if self._offering.offers("Consent") else offered
        searches = [Search(kind, {"_id": identity})]
        searches += [Search(one, {"patient": patient_reference, "_count": str(_PAGE_SIZE)}) for one in searched]
        read = list(self._store.search_many(searches))
        patient = _the_patient(read, patient_reference)
        resources = [one for one in read if one.resource_type not in ("Patient", "Consent")]
        consents = [one for one in read if one.resource_type == "Consent"]
        consent = require_consent(patient, consents, now=self._clock())
        context = clinical_context(
            patient,
            resources,
            as_of=as_of,
            salt=self._salt,
            consent=consent,
            consents=consents,
            medications=self._medications(resources),
            not_offered=[one for one in ("Consent", *READERS) if one not in searched],
        )
        _log.info(
            "snapshot taken",
            resources=len(resources),
            facts=len(context.facts),
            left_out=sum(entry.count for entry in context.left_out),
        )
        return context

    def _medications(self, resources: Iterable[RawResource]) -> dict[str, RawResource]:
        """Return the Medications that resources name by reference, as far as the server holds them."""
        names = [name.removeprefix("Medication/") for name in medications_named(resources)]
        if not names or not self._offering.offers("Medication"):
            return {}
        searches = [Search("Medication", {"_id": ",".join(ids), "_count": str(_IDS)}) for ids in _chunks(names)]
        return {raw.reference: raw for raw in self._store.search_many(searches)}


def _the_patient(read: Iterable[RawResource], reference: str) -> RawResource:
    found = [raw for raw in read if raw.resource_type == "Patient"]
    if not found:
        raise PeerRefused(
            found="no Patient under the reference that was paired",
            allowed="the reference of a patient that the FHIR server holds",
            action="load the patient's resources, or look at the FHIR server, then retry the job",
        )
    if [raw.reference for raw in found] != [reference]:
        raise PeerAnswerInvalid(
            found=f"{len(found)} patients from the FHIR server for one id",
            allowed="the Patient that was asked for",
            action="check that the FHIR server still holds the patient, then retry the job",
        )
    return found[0]


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _IDS):
        yield names[start : start + _IDS]
