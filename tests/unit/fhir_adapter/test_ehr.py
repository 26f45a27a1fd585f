from __future__ import annotations

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from domain.errors import ConsentMissing, PeerAnswerInvalid, PeerRefused, PeerUnreachable
from domain.identifiers import PatientIdentifier
from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.local.store import LocalFhirStore
from tests.builders_fhir import (
    MRN,
    SALT,
    SCAN,
    condition,
    embedded_engine,
    observation,
    patient,
    research_consent,
    series_of,
    transaction,
)


@pytest.fixture
def store(tmp_path):
    with embedded_engine(tmp_path) as engine:
        yield LocalFhirStore(engine)


@pytest.fixture
def reader(store):
    return EhrReader(store, salt=SALT, clock=lambda: datetime(2026, 6, 1, tzinfo=UTC))


def find(reader, value="MRN-1", system=MRN):
    return list(reader.pairing_sources(series_of(value, system)).candidates)


def link(target, kind="replaced-by"):
    return [{"type": kind, "other": {"reference": target}}]


def test_a_patient_is_found_by_identifier_with_and_without_its_system(store, reader):
    store.transact(transaction(patient(), patient("p2", mrn="MRN-2")))
    (candidate,) = find(reader)
    assert candidate == find(reader, system="")[0]
    assert (candidate.reference, candidate.birth_date, candidate.sex) == ("Patient/p1", "1950-02-03", "female")
    assert candidate.identifiers == (PatientIdentifier("MRN-1", MRN),)
    assert find(reader, system="urn:other") == []


def test_a_merged_patient_leads_to_the_survivor_who_carries_both_identifiers(store, reader):
    old = patient("old", active=False, link=link("Patient/mid"))
    mid = patient("mid", mrn="MRN-2", active=False, link=link("Patient/new"))
    new = patient("new", mrn="MRN-3", link=link("Patient/mid", "replaces"))
    store.transact(transaction(old, mid, new))
    (candidate,) = find(reader)
    assert candidate.reference == "Patient/new"
    assert {identifier.value for identifier in candidate.identifiers} == {"MRN-1", "MRN-2", "MRN-3"}


def test_the_survivor_and_the_replaced_patient_are_one_candidate(store, reader):
    store.transact(transaction(patient("old", active=False, link=link("Patient/new")), patient("new")))
    assert [candidate.reference for candidate in find(reader)] == ["Patient/new"]


def test_an_inactive_patient_without_a_successor_is_no_candidate(store, reader):
    store.transact(transaction(patient(active=False)))
    assert find(reader) == []


def test_an_old_identifier_is_not_carried(store, reader):
    store.transact(transaction(patient(identifier=[{"use": "old", "system": MRN, "value": "MRN-1"}])))
    assert find(reader)[0].identifiers == ()


def test_links_in_a_circle_or_to_nowhere_stop_the_search(store, reader):
    store.transact(transaction(patient("a", link=link("Patient/b")), patient("b", mrn="x", link=link("Patient/a"))))
    with pytest.raises(PeerAnswerInvalid, match="circle"):
        find(reader)
    store.transact(transaction(patient("a", link=link("Patient/gone"))))
    with pytest.raises(PeerRefused):
        find(reader)


@pytest.mark.parametrize("change", [{"active": "no"}, {"link": {}}, {"gender": "F"}, {"gender": ["female"]}])
def test_a_malformed_patient_stops_the_search(store, reader, change):
    store.transact(transaction(patient(**change)))
    with pytest.raises(PeerAnswerInvalid, match="Patient"):
        find(reader)


def test_a_snapshot_holds_the_facts_of_this_patient_and_the_consent_check(store, reader):
    store.transact(transaction(patient(), patient("p2"), observation(), condition(), observation("o2", of="p2")))
    context = reader.snapshot("Patient/p1", SCAN)
    assert [fact.source_reference for fact in context.facts] == ["Condition/c1", "Observation/o1"]
    assert (context.patient_reference, context.as_of) == ("Patient/p1", SCAN)
    assert context.consent.startswith("no restriction found")
    assert context == reader.snapshot("Patient/p1", SCAN)


def test_a_denial_stops_the_snapshot_and_a_permission_is_part_of_its_digest(store, reader):
    store.transact(transaction(patient(), observation()))
    before = reader.snapshot("Patient/p1", SCAN)
    store.transact(transaction(research_consent()))
    permitted = reader.snapshot("Patient/p1", SCAN)
    assert permitted.consent.startswith("research permitted")
    assert permitted.snapshot_digest != before.snapshot_digest
    store.transact(transaction(research_consent("k2", provision={"type": "deny"})))
    with pytest.raises(ConsentMissing):
        reader.snapshot("Patient/p1", SCAN)


@pytest.mark.requirement("FHIR-PAIR-002")
def test_facts_denials_and_labels_of_a_merged_patient_are_those_of_the_survivor(store, reader):
    """Also where the survivor alone tells of the merge, and where it is a merge of a merge."""
    store.transact(transaction(
        patient("new", mrn="MRN-3", link=link("Patient/mid", "replaces")),
        patient("mid", mrn="MRN-2", active=False, link=link("Patient/old", "replaces")),
        patient("old", active=False), observation(of="old"), condition(of="new"),
    ))  # fmt: skip
    context = reader.snapshot("Patient/new", SCAN)
    assert [fact.source_reference for fact in context.facts] == ["Condition/c1", "Observation/o1"]
    store.transact(transaction(research_consent(of="old", provision={"type": "deny"})))
    with pytest.raises(ConsentMissing, match="denies research"):
        reader.snapshot("Patient/new", SCAN)
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
    store.transact(transaction(research_consent(of="old"), patient("old", active=False, meta={"security": [label]})))
    with pytest.raises(ConsentMissing, match="label R"):
        reader.snapshot("Patient/new", SCAN)
    store.transact(transaction(patient("old", link=link("Patient/else"))))
    with pytest.raises(PeerAnswerInvalid, match="another than the one paired"):
        reader.snapshot("Patient/new", SCAN)


@pytest.mark.parametrize(
    "links",
    [
        [*link("Patient/b"), *link("Patient/c")],
        [{"type": "replaced-by", "other": {"identifier": {"system": MRN, "value": "MRN-2"}}}],
        link("http://elsewhere.example/fhir/Patient/b"),
    ],
)
def test_a_patient_replaced_by_several_or_by_nobody_we_can_read_is_never_used(store, reader, links):
    store.transact(transaction(patient(link=links), patient("b", mrn="MRN-2"), patient("c", mrn="MRN-3")))
    with pytest.raises(PeerAnswerInvalid, match="replaced by"):
        find(reader)


def test_a_patient_whom_one_names_as_replaced_and_another_claims_is_never_used(store, reader):
    store.transact(transaction(
        patient(link=link("Patient/b")), patient("b", mrn="MRN-2"), patient("c", link=link("Patient/p1", "replaces")),
    ))  # fmt: skip
    with pytest.raises(PeerAnswerInvalid, match="several others replace"):
        find(reader)


class StopsInTheMiddle:
    """A store that answers so many resources and then no more."""

    def __init__(self, store, answers):
        self._store, self._answers = store, answers

    def __getattr__(self, name):
        return getattr(self._store, name)

    def search_many(self, searches):
        for number, resource in enumerate(self._store.search_many(searches)):
            if number == self._answers:
                raise PeerUnreachable("silence", allowed="an answer", action="wait")
            yield resource


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_store_that_stops_in_the_middle_gives_no_half_snapshot(store, answers):
    store.transact(transaction(patient(), condition(), observation(), observation("o2")))
    with pytest.raises(PeerUnreachable):
        EhrReader(StopsInTheMiddle(store, answers), salt=SALT).snapshot("Patient/p1", SCAN)


@pytest.mark.requirement("FHIR-REST-004")
def test_logs_and_errors_hold_no_patient_data(store, reader):
    canary = "ZYXWVU-CANARY"
    person = patient(mrn=canary, name=[{"family": canary}], active=False, birthDate="1911-11-11")
    store.transact(transaction(person, observation(valueQuantity=None, valueString=canary), condition(status=canary)))
    with capture_logs() as logs:
        find(reader, canary)
        context = reader.snapshot("Patient/p1", SCAN)
        store.transact(transaction(patient(mrn=canary, gender=canary)))
        with pytest.raises(PeerAnswerInvalid) as caught:
            reader.snapshot("Patient/p1", SCAN)
    assert logs
    assert canary not in repr(logs) + str(caught.value) + repr(context.left_out) + repr(store.read("Patient/p1"))
