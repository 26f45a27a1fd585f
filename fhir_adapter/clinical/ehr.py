"""Reads the clinical half of a pair from a `FhirStore`: who is meant, and what was known at the imaging time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import structlog

from domain.clinical import ClinicalContext
from domain.errors import PeerAnswerInvalid, PeerRefused
from domain.identifiers import PatientIdentifier
from domain.ordering import Order
from domain.series import ImagingSeries
from fhir_adapter.clinical.consent import consent_unchecked, require_consent
from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.clinical.offering import Offering
from fhir_adapter.clinical.patient_links import replaced_by, replaces
from fhir_adapter.clinical.patients import PairingSources, PatientFinder
from fhir_adapter.clinical.statements import READERS, medications_named
from fhir_adapter.search import split_reference
from fhir_adapter.store import FhirStore, RawResource, Search, base_url_of

_log = structlog.get_logger()

# A patient with 2,000 resources comes in one answer where the server allows it; others give shorter pages.
_PAGE_SIZE = 2_000
# Ids in one search: a batch entry is a URL, and servers cap those at 8 kB.
_IDS = 50
# Merges of one person; more than this is a mistake or a loop.
_MOST_MERGED = 20


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
    consent_elsewhere : bool
        Whether the site answers for consent where the server does not offer Consent.
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
        consent_elsewhere: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._salt, self._clock, self._base_url = store, salt, clock, base_url_of(store)
        self._consent_elsewhere = consent_elsewhere
        self._offering = Offering(store, tuple(resource_types))
        self._finder = PatientFinder(
            store, accession_system=accession_system, offers=self._offering.offers, survivors=survivors
        )

    def pairing_sources(self, series: ImagingSeries, order: Order | None = None) -> PairingSources:
        """Return what `domain.pairing.choose_patient` decides by; see `.patients.PatientFinder.sources`."""
        return self._finder.sources(series, order)

    def snapshot(self, patient_reference: str, as_of: datetime, merged: Sequence[str] = ()) -> ClinicalContext:
        """Return what the EHR knew about a patient at the imaging time.

        One batch for the Patient and everything else, one more where medication is named by reference, plus one request for
        each further page: a store that stops in the middle raises, and no half snapshot is ever returned. What is recorded
        under a Patient that was merged into this one is this patient's too: facts, Consents and labels. A type that the server
        does not offer is recorded as missing.

        Parameters
        ----------
        patient_reference : str
            ``Patient/abc``.
        as_of : datetime
            Imaging time; aware.
        merged : sequence of str
            Patients that were merged into it (`domain.pairing.PatientCandidate.merged`); those that it names itself are found.

        Raises
        ------
        ConsentMissing
            If a security label or a Consent forbids the use, or the server offers no Consent and the site does not allow that.
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the store does not answer in full.
        """
        offered = [one for one in ("Consent", *READERS) if self._offering.offers(one)]
        read = self._of_person((patient_reference, *merged), offered)
        patient, others = _the_patient(read, patient_reference, self._base_url)
        resources = [one for one in read if one.resource_type not in ("Patient", "Consent")]
        consents = [one for one in read if one.resource_type == "Consent"]
        if "Consent" in offered:
            consent = require_consent(patient, consents, now=self._clock(), merged=others)
        else:
            consent = consent_unchecked(patient, now=self._clock(), allowed=self._consent_elsewhere, merged=others)
        context = clinical_context(
            patient,
            resources,
            as_of=as_of,
            salt=self._salt,
            consent=consent,
            consents=consents,
            medications=self._medications(resources),
            not_offered=[one for one in ("Consent", *READERS) if one not in offered],
            merged=others,
            base_url=self._base_url,
        )
        _log.info(
            "snapshot taken",
            resources=len(resources),
            facts=len(context.facts),
            left_out=sum(entry.count for entry in context.left_out),
        )
        return context

    def _of_person(self, references: Sequence[str], kinds: Sequence[str]) -> list[RawResource]:
        """Return the Patients and all that is recorded of them; whom one of them says it replaces is read too."""
        asked: set[str] = set()
        read: dict[str, RawResource] = {}
        wanted = set(references)
        while more := sorted(wanted - asked):
            if len(asked | wanted) > _MOST_MERGED:
                raise _invalid(f"more than {_MOST_MERGED} Patients merged into one", "merges that end")
            searches = [Search("Patient", {"_id": ",".join(split_reference(one)[1] for one in more)})]
            searches += [Search(kind, {"patient": ",".join(more), "_count": str(_PAGE_SIZE)}) for kind in kinds]
            read |= {raw.reference: raw for raw in self._store.search_many(searches)}
            asked |= set(more)
            patients = [raw for raw in read.values() if raw.resource_type == "Patient"]
            wanted |= {one for raw in patients for one in replaces(raw, self._base_url)}
        return list(read.values())

    def _medications(self, resources: Iterable[RawResource]) -> dict[str, RawResource]:
        """Return the Medications that resources name by reference, as far as the server holds them."""
        names = [name.removeprefix("Medication/") for name in medications_named(resources)]
        if not names or not self._offering.offers("Medication"):
            return {}
        searches = [Search("Medication", {"_id": ",".join(ids), "_count": str(_IDS)}) for ids in _chunks(names)]
        return {raw.reference: raw for raw in self._store.search_many(searches)}


def _the_patient(read: Iterable[RawResource], reference: str, base_url: str) -> tuple[RawResource, list[RawResource]]:
    """Return the Patient that was asked for, and those merged into it."""
    found = {raw.reference: raw for raw in read if raw.resource_type == "Patient"}
    if reference not in found:
        raise PeerRefused(
            found="no Patient under the reference that was paired",
            allowed="the reference of a patient that the FHIR server holds",
            action="load the patient's resources, or look at the FHIR server, then retry the job",
        )
    for raw in found.values():
        # A merge that was undone or done again since the pairing: then this is not one person any more.
        if (successor := replaced_by(raw, base_url)) is not None and (raw.reference == reference or successor not in found):
            raise _invalid("a Patient that is replaced by another than the one paired", "merges that lead to one Patient")
    return found[reference], [raw for name, raw in found.items() if name != reference]


def _invalid(found: str, allowed: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=found,
        allowed=allowed,
        action="check the patient's links on the FHIR server, then retry the job",
    )


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _IDS):
        yield names[start : start + _IDS]
