"""Which patients the evidence about a series leads to, over our own store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from domain.errors import ConsentMissing, PatientMismatch, PeerAnswerInvalid
from domain.identifiers import AccessionNumber, PatientIdentifier, SeriesUid, StudyUid
from domain.ordering import Order, OrderOrigin
from domain.pairing import choose_patient
from domain.series import ImagingSeries
from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.clinical.offering import searchable_types
from fhir_adapter.local.store import LocalFhirStore
from tests.builders_fhir import MRN, SALT, SCAN, concept, embedded_engine, observation, patient, transaction

ACSN = "http://hospital.example/accession"
SERIES = ImagingSeries(
    StudyUid("1.2.3"), SeriesUid("1.2.3.4"), PatientIdentifier("MRN-1", MRN), "MR", SCAN, (), accession=AccessionNumber("A7")
)
UNKNOWN = replace(SERIES, patient=PatientIdentifier("X-9", "http://other.example"))


@pytest.fixture
def store(tmp_path):
    with embedded_engine(tmp_path) as engine:
        yield LocalFhirStore(engine)


def study(of, *, uid="1.2.3", system="urn:dicom:uid", **more):
    return {"resourceType": "ImagingStudy", "id": "s1", "status": "available", "subject": {"reference": f"Patient/{of}"},
            "identifier": [{"system": system, "value": f"urn:oid:{uid}"}], **more}  # fmt: skip


def order(**more):
    return Order(OrderOrigin.FHIR, "ehr", "Task/1", "Task", datetime(2026, 1, 1, tzinfo=UTC), **more)


def pair(store, series=SERIES, placed=None, accept=(), **options):
    found = EhrReader(store, salt=SALT, **options).pairing_sources(series, placed)
    chosen, evidence = choose_patient(series, found.candidates, found.pointers, accept=accept, survivors=found.survivors)
    return chosen.reference, [item.kind for item in evidence]


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.parametrize("system", ["urn:dicom:uid", "urn:ietf:rfc:3986"])
def test_study_accession_and_order_support_the_identifier(store, system):
    accession = {"system": ACSN, "value": "A7", "type": concept("ACSN", "Accession", "x")}
    request = {"resourceType": "ServiceRequest", "id": "r1", "status": "active", "intent": "order",
               "subject": {"reference": "Patient/p1"}, "identifier": [accession]}  # fmt: skip
    store.transact(transaction(patient(), study("p1", system=system), request))
    placed = order(subject_reference="Patient/p1", patient=PatientIdentifier("MRN-1", MRN))
    assert pair(store, placed=placed, accession_system=ACSN) == (
        "Patient/p1",
        ["identifier", "accession", "order", "study-uid"],
    )


@pytest.mark.requirement("FHIR-PAIR-001")
def test_each_kind_of_evidence_for_somebody_else_is_a_contradiction(store):
    request = {"resourceType": "ServiceRequest", "id": "r1", "status": "active", "intent": "order",
               "subject": {"reference": "Patient/p2"}, "identifier": [{"system": ACSN, "value": "A7"}]}  # fmt: skip
    store.transact(transaction(patient(), patient("p2", mrn="MRN-2"), request))
    everything = ("study-uid", "accession", "order")
    assert pair(store)[0] == "Patient/p1"
    with pytest.raises(PatientMismatch, match="different patients, from the Patient ID, the accession number"):
        pair(store, accept=everything, accession_system=ACSN)
    for placed in (
        order(subject_reference="Patient/p2"),
        order(patient=PatientIdentifier("MRN-2", MRN)),
        order(patient=PatientIdentifier("nobody", MRN)),
    ):
        with pytest.raises(PatientMismatch, match="different patients, from the Patient ID, the order") as refused:
            pair(store, placed=placed, accept=everything)
        assert "MRN-" not in str(refused.value)
    store.transact(transaction(study("p2")))
    with pytest.raises(PatientMismatch, match="the study UID"):
        pair(store, accept=everything)


@pytest.mark.requirement("FHIR-PAIR-001")
def test_without_the_identifier_only_what_the_site_accepts_pairs(store):
    store.transact(transaction(patient(), study("p1")))
    with pytest.raises(PatientMismatch, match="the study UID lead to a patient, which alone does not pair"):
        pair(store, UNKNOWN)
    assert pair(store, UNKNOWN, accept=("study-uid",)) == ("Patient/p1", ["study-uid"])
    other_number = replace(SERIES, patient=PatientIdentifier("MRN-8", MRN))
    with pytest.raises(PatientMismatch, match="another identifier of the system"):
        pair(store, other_number, accept=("study-uid",))


@pytest.mark.requirement("FHIR-PAIR-002")
def test_merges_are_followed_by_links_in_both_directions_and_by_announcement(store):
    def linked(target, kind):
        return [{"type": kind, "other": {"reference": f"Patient/{target}"}}]

    store.transact(transaction(patient("old", active=False, link=linked("new", "replaced-by")), patient("new", mrn="MRN-2")))
    assert pair(store)[0] == "Patient/new"
    store.transact(transaction(patient("old", active=False), patient("new", mrn="MRN-2", link=linked("old", "replaces"))))
    assert pair(store, placed=order(subject_reference="Patient/new"))[0] == "Patient/new"
    store.transact(transaction(patient("old", mrn="MRN-9", active=False), patient("new", mrn="MRN-2")))
    merged = {PatientIdentifier("MRN-1", MRN): (PatientIdentifier("MRN-2", MRN),)}
    assert pair(store, survivors=lambda one: merged.get(one, ())) == ("Patient/new", ["merged-identifier"])


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.parametrize(
    "stranger",
    [PatientIdentifier("Q-5", "http://ris.example"), PatientIdentifier("Q-5"), PatientIdentifier("Q-5", MRN)],
)
@pytest.mark.parametrize("origin", [OrderOrigin.HL7V2, OrderOrigin.WEBHOOK, OrderOrigin.FHIR])
def test_an_order_for_somebody_who_is_not_shown_to_be_the_patient_is_a_contradiction(store, stranger, origin):
    store.transact(transaction(patient()))
    placed = replace(order(patient=stranger), origin=origin)
    with pytest.raises(PatientMismatch, match="different patients, from the Patient ID, the order"):
        pair(store, placed=placed, accept=("study-uid", "order"))


@pytest.mark.requirement("FHIR-PAIR-001")
def test_an_order_may_name_its_patient_by_reference_and_by_a_number_that_is_not_kept_here(store):
    store.transact(transaction(patient()))
    placed = order(subject_reference="Patient/p1", patient=PatientIdentifier("9", "http://ris.example"))
    assert pair(store, placed=placed) == ("Patient/p1", ["identifier", "order"])


@pytest.mark.requirement("FHIR-PAIR-001")
def test_a_patient_of_another_server_is_not_ours_though_the_id_is_the_same(store):
    theirs = "https://other.example/fhir/Patient/p1"
    store.transact(transaction(patient(), study("p1") | {"subject": {"reference": theirs}}))
    for series in (SERIES, UNKNOWN):
        with pytest.raises(PatientMismatch):
            pair(store, series, accept=("study-uid",))
    store.transact(transaction(study("p1")))
    for series in (SERIES, UNKNOWN):
        with pytest.raises(PatientMismatch):
            pair(store, series, order(subject_reference=theirs), accept=("order",))


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.parametrize("number", ["A7", ""])
def test_without_a_system_of_accession_numbers_none_is_evidence(store, number):
    nameless = {"resourceType": "ImagingStudy", "id": "s1", "status": "available", "subject": {"reference": "Patient/p1"},
                "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}, {"value": "A7"}, {"use": "usual"}]}  # fmt: skip
    store.transact(transaction(patient(), nameless))
    found = EhrReader(store, salt=SALT).pairing_sources(replace(SERIES, accession=AccessionNumber(number)))
    assert [pointer.kind for pointer in found.pointers] == ["study-uid"]


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.parametrize(
    "number",
    [
        {"system": "http://hl7.org/fhir/sid/us-ssn"},
        {"system": "urn:oid:2.16.840.1.113883.4.3.25"},
        {"type": concept("PPN", "Passport", "http://terminology.hl7.org/CodeSystem/v2-0203")},
    ],
)
def test_a_patient_id_without_an_issuer_is_no_social_security_licence_or_passport_number(store, number):
    store.transact(transaction(patient(identifier=[{"value": "123", **number}])))
    nameless = replace(SERIES, patient=PatientIdentifier("123"))
    with pytest.raises(PatientMismatch, match="no patient"):
        pair(store, nameless)
    store.transact(transaction(patient(mrn="123")))
    assert pair(store, nameless) == ("Patient/p1", ["identifier-value"])


@pytest.mark.requirement("FHIR-CTX-002")
def test_a_restricting_label_on_the_study_of_the_series_forbids_the_use(store):
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
    store.transact(transaction(patient(), study("p1", meta={"security": [label]})))
    with pytest.raises(ConsentMissing, match="ImagingStudy of the series"):
        pair(store)


class Server:
    """A store that describes itself, as a FHIR server does."""

    def __init__(self, store, *kinds):
        self._store, self.asked = store, 0
        resources = [{"type": kind, "interaction": [{"code": "search-type"}]} for kind in kinds]
        self._statement = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1",
                           "rest": [{"mode": "server", "resource": resources}]}  # fmt: skip

    def __getattr__(self, name):
        return getattr(self._store, name)

    def capabilities(self):
        self.asked += 1
        return self._statement

    def search_many(self, searches):
        self.searched = [search.resource_type for search in searches]
        return self._store.search_many(searches)


def test_a_type_that_the_server_does_not_offer_is_missing_and_is_not_asked_for(store):
    store.transact(transaction(patient(), observation()))
    server = Server(store, "Patient", "Observation", "Consent")
    reader = EhrReader(server, salt=SALT)
    context = reader.snapshot("Patient/p1", SCAN)
    assert server.searched == ["Patient", "Consent", "Observation"]
    assert len(context.facts) == 1
    assert "Condition: not offered by the server" in context.missing
    assert "Observation: not offered by the server" not in context.missing
    reader.pairing_sources(SERIES)
    assert (server.searched, server.asked) == (["Patient"], 1)


@pytest.mark.requirement("FHIR-CTX-002")
def test_a_server_that_offers_no_consent_is_enough_only_where_the_site_says_so(store):
    store.transact(transaction(patient(), observation()))
    server = Server(store, "Patient", "Observation")
    with pytest.raises(ConsentMissing, match="consent could not be checked"):
        EhrReader(server, salt=SALT).snapshot("Patient/p1", SCAN)
    allowed = EhrReader(server, salt=SALT, consent_elsewhere=True)
    assert allowed.snapshot("Patient/p1", SCAN).consent.startswith("consent could not be checked")
    store.transact(transaction(patient(meta={"security": [{"code": "R"}]})))
    with pytest.raises(ConsentMissing, match="label R"):
        allowed.snapshot("Patient/p1", SCAN)


def test_a_server_of_another_version_of_fhir_is_refused():
    with pytest.raises(PeerAnswerInvalid, match=r"FHIR version '5\.0\.0'"):
        searchable_types({"resourceType": "CapabilityStatement", "fhirVersion": "5.0.0"})


def test_a_medication_that_the_server_holds_is_read_by_its_reference(store):
    request = {"resourceType": "MedicationRequest", "id": "m1", "status": "active", "intent": "order", "authoredOn": "2020-03-01",
               "subject": {"reference": "Patient/p1"}, "medicationReference": {"reference": "Medication/aspirin"}}  # fmt: skip
    store.transact(transaction(patient(), request))
    before = EhrReader(store, salt=SALT).snapshot("Patient/p1", SCAN)
    assert [entry.reason for entry in before.left_out] == ["MedicationRequest: medication named only by reference"]
    store.transact(transaction({"resourceType": "Medication", "id": "aspirin", "code": concept("1191", "Aspirin")}))
    after = EhrReader(store, salt=SALT).snapshot("Patient/p1", SCAN)
    assert [(fact.text, fact.source_reference) for fact in after.facts] == [("Aspirin", "MedicationRequest/m1")]
