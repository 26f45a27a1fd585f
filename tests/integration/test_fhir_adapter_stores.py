"""One contract, two stores: the embedded database and a real FHIR server behind the client."""

from __future__ import annotations

import socket
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs

import httpx
import pytest

from domain.errors import InputError, PeerRefused
from domain.identifiers import PatientIdentifier, SeriesUid, StudyUid
from domain.pairing import choose_patient
from domain.series import ImagingSeries
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.json_text import parse_json, write_json
from fhir_adapter.local.intake import prepare_intake
from fhir_adapter.local.store import LocalFhirStore
from fhir_adapter.search import identifier_token, of_patient
from fhir_adapter.server.client import FhirClient
from fhir_adapter.store import Search
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
    synthea_bundles,
    transaction,
)
from tests.peers.sekmet import running_sekmet

END_OF_DATA = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sekmet_url(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_sekmet(tmp_path_factory.mktemp("sekmet"), port) as url:
        yield url


@pytest.fixture(scope="module")
def client(sekmet_url):
    with FhirClient(sekmet_url) as client:
        yield client


@pytest.fixture(params=["embedded", "sekmet"])
def store(request, tmp_path):
    if request.param == "sekmet":
        yield request.getfixturevalue("client")
        return
    with embedded_engine(tmp_path) as engine:
        yield LocalFhirStore(engine)


@pytest.fixture
def name():
    """Return a name that no other test of this server uses."""
    return f"t{uuid.uuid4().hex[:12]}"


def references(resources):
    return sorted(resource.reference for resource in resources)


def test_what_is_written_is_read_back_with_version_and_time(store, name):
    assert store.transact(transaction(patient(name), observation(f"{name}-o", of=name))) == [
        f"Patient/{name}", f"Observation/{name}-o",
    ]  # fmt: skip
    read = store.read(f"Observation/{name}-o")
    assert read.body["meta"]["versionId"] == "1"
    assert "lastUpdated" in read.body["meta"]
    assert parse_json(read.wire) == read.body
    assert float(read.body["valueQuantity"]["value"]) == 27.5


def test_a_resource_that_is_not_there_is_refused_without_naming_it(store, name):
    with pytest.raises(PeerRefused) as caught:
        store.read(f"Patient/{name}")
    assert name not in str(caught.value)


@pytest.mark.requirement("FHIR-REST-002")
def test_a_search_by_identifier_finds_the_one_patient(store, name):
    store.transact(transaction(patient(name, mrn=f"{name}-mrn"), patient(f"{name}-b", mrn=f"{name}-other")))
    for token in (f"{MRN}|{name}-mrn", f"{name}-mrn"):
        assert references(store.search("Patient", {"identifier": token})) == [f"Patient/{name}"]
    assert references(store.search("Patient", {"identifier": f"urn:x|{name}-mrn"})) == []


@pytest.mark.requirement("FHIR-REST-002")
def test_a_search_gives_every_page_once(store, name):
    store.transact(transaction(patient(name), *(observation(f"{name}-{n}", of=name) for n in range(23))))
    found = references(store.search("Observation", {"patient": f"Patient/{name}", "_count": "5"}))
    assert found == sorted(f"Observation/{name}-{n}" for n in range(23))


def test_several_searches_give_the_same_as_one_after_the_other(store, name):
    resources = [patient(name), condition(f"{name}-c", of=name), *(observation(f"{name}-{n}", of=name) for n in range(7))]
    store.transact(transaction(*resources))
    searches = [Search(kind, {"patient": f"Patient/{name}", "_count": "3"}) for kind in ("Condition", "Observation", "Consent")]
    assert references(store.search_many(searches)) == sorted(f"{r['resourceType']}/{r['id']}" for r in resources[1:])


@pytest.mark.requirement("FHIR-REST-001")
def test_a_transaction_that_cannot_be_written_leaves_nothing(store, name):
    broken = transaction(patient(name))
    broken["entry"].append({"resource": patient(f"{name}-b"), "request": {"method": "PUT", "url": f"Patient/{name}-c"}})
    with pytest.raises((PeerRefused, InputError)):
        store.transact(broken)
    assert references(store.search("Patient", {"_id": name})) == []


@pytest.mark.requirement("FHIR-REST-001")
def test_posted_entries_refer_to_each_other(store, name):
    person, bmi = str(uuid.uuid4()), str(uuid.uuid4())
    posted = transaction(
        patient(person, mrn=name), observation(bmi, subject={"reference": f"urn:uuid:{person}"}), method="POST"
    )
    person_reference, bmi_reference = store.transact(posted)
    assert references(store.search("Observation", {"patient": person_reference})) == [bmi_reference]


@pytest.mark.requirement("FHIR-REST-001")
def test_a_publication_sent_twice_changes_nothing(store, name):
    resources = [observation(f"{name}-o", of=name), patient(name)]
    first = store.transact(publication_bundle(resources))
    before = {key: value for key, value in store.read(f"Patient/{name}").body.items() if key != "meta"}
    assert store.transact(publication_bundle(resources)) == first
    assert {key: value for key, value in store.read(f"Patient/{name}").body.items() if key != "meta"} == before
    assert references(store.search("Observation", {"patient": f"Patient/{name}"})) == [f"Observation/{name}-o"]


@pytest.mark.requirement("FHIR-REST-003")
def test_the_reader_gives_the_same_context_over_either_store(client, tmp_path, name):
    resources = [
        patient(name, mrn=f"{name}-mrn"), condition(f"{name}-c", of=name), observation(f"{name}-o", of=name),
        research_consent(f"{name}-k", of=name, provision={"type": "permit"}),
    ]  # fmt: skip
    contexts = []
    with embedded_engine(tmp_path) as engine:
        for store in (client, LocalFhirStore(engine)):
            store.transact(transaction(*resources))
            reader = EhrReader(store, salt=SALT)
            (candidate,) = reader.pairing_sources(series_of(f"{name}-mrn")).candidates
            contexts.append(reader.snapshot(candidate.reference, SCAN))
    remote, local = contexts
    assert remote.facts == local.facts
    assert (remote.consent, remote.left_out, remote.birth_date) == (local.consent, local.left_out, local.birth_date)


@pytest.mark.requirement("FHIR-PAIR-002")
def test_what_is_recorded_under_a_merged_patient_is_read_with_the_survivor(client, name):
    old, absolute = f"{name}-old", f"{client.base_url}/Patient/{name}"
    client.transact(transaction(patient(name, mrn=f"{name}-mrn"), observation(f"{name}-o", of=name)))
    client.transact(transaction(
        patient(old, mrn=f"{name}-2", active=False, link=[{"type": "replaced-by", "other": {"reference": absolute}}]),
        condition(f"{name}-c", of=old),
    ))  # fmt: skip
    reader = EhrReader(client, salt=SALT)
    (candidate,) = reader.pairing_sources(series_of(f"{name}-2")).candidates
    assert (candidate.reference, candidate.merged) == (f"Patient/{name}", (f"Patient/{old}",))
    context = reader.snapshot(candidate.reference, SCAN, candidate.merged)
    assert {fact.source_reference for fact in context.facts} == {f"Condition/{name}-c", f"Observation/{name}-o"}


@pytest.mark.requirement("FHIR-REST-004")
def test_a_small_patient_costs_two_round_trips_and_no_identifier_in_a_url(sekmet_url, name, monkeypatch):
    sent = []
    send = httpx.Client.send
    monkeypatch.setattr(httpx.Client, "send", lambda self, request, **more: sent.append(request) or send(self, request, **more))
    with FhirClient(sekmet_url) as client:
        client.transact(transaction(patient(name, mrn=f"{name}-mrn"), observation(f"{name}-o", of=name)))
        sent.clear()
        reader = EhrReader(client, salt=SALT)
        (found,) = client.search("Patient", {"identifier": identifier_token(PatientIdentifier(f"{name}-mrn", MRN))})
        assert len(sent) == 1
        reader.snapshot(found.reference, SCAN)
    assert len(sent) == 3  # the CapabilityStatement is read once, then everything is one batch
    assert not any(f"{name}-mrn" in str(request.url) for request in sent)
    assert parse_qs(sent[0].content.decode()) == {"identifier": [f"{MRN}|{name}-mrn"]}
    assert {request.headers["accept"] for request in sent} == {"application/fhir+json"}
    assert {request.headers["cache-control"] for request in sent} == {"no-cache"}


@pytest.mark.requirement("FHIR-CTX-004")
def test_a_patient_with_two_thousand_resources_is_paired_and_read_in_six_round_trips(sekmet_url, name, monkeypatch):
    sent = []
    send = httpx.Client.send
    monkeypatch.setattr(httpx.Client, "send", lambda self, request, **more: sent.append(request) or send(self, request, **more))
    identifier = PatientIdentifier(f"{name}-mrn", MRN)
    series = ImagingSeries(StudyUid("1.2.3"), SeriesUid("1.2.4"), identifier, "MR", SCAN, ())
    medication = {"resourceType": "Medication", "id": f"{name}-d", "code": {"text": "Aspirin"}}
    ordered = {"resourceType": "MedicationRequest", "id": f"{name}-r", "status": "active", "intent": "order",
               "subject": {"reference": f"Patient/{name}"}, "authoredOn": "2020-03-01",
               "medicationReference": {"reference": f"Medication/{name}-d"}}  # fmt: skip
    with FhirClient(sekmet_url) as client:
        client.transact(transaction(patient(name, mrn=f"{name}-mrn"), medication, ordered))
        client.transact(transaction(*(observation(f"{name}-{number}", of=name) for number in range(1999))))
        sent.clear()
        reader = EhrReader(client, salt=SALT)
        found = reader.pairing_sources(series)
        chosen, _ = choose_patient(series, found.candidates, found.pointers)
        context = reader.snapshot(chosen.reference, SCAN)
    assert len(context.facts) == 2000
    assert context.missing == ()
    assert len(sent) <= 6
    assert not any(f"{name}-mrn" in str(request.url) for request in sent)


@pytest.mark.requirement("FHIR-REST-003")
@pytest.mark.peer("synthea-r4")
def test_a_synthea_patient_reads_the_same_from_either_store(client, tmp_path, data_folder):
    bundle = synthea_bundles(data_folder("fhir/synthea-r4"))[0]
    prepared = prepare_intake(bundle)
    patient_reference = next(e["request"]["url"] for e in prepared["entry"] if e["resource"]["resourceType"] == "Patient")
    with embedded_engine(tmp_path) as engine:
        local = LocalFhirStore(engine)
        assert client.transact(prepared) == local.transact(prepared)
        remote_context, local_context = (
            EhrReader(store, salt=SALT).snapshot(patient_reference, END_OF_DATA) for store in (client, local)
        )
        assert len(local_context.facts) > 100
        assert remote_context.facts == local_context.facts
        everything = local.search_many([of_patient("Observation", patient_reference)])
        values = [resource.body.get("valueQuantity") for resource in everything]
    sent = [e["resource"].get("valueQuantity") for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation"]
    assert sorted(map(write_json, values)) == sorted(map(write_json, sent))
