from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import PeerRefused, RequestInvalid
from fhir_adapter.bundles import amendment_bundle
from fhir_adapter.json_text import parse_json, write_json
from fhir_adapter.local.store import LocalFhirStore
from tests.builders_fhir import condition, embedded_engine, observation, patient, transaction

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Each look at it is a second later."""

    def __init__(self):
        self.now = START

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def store(tmp_path):
    with embedded_engine(tmp_path) as engine:
        yield LocalFhirStore(engine, clock=Clock())


def found(store, kind, **parameters):
    return [resource.reference for resource in store.search(kind, parameters)]


def test_the_store_sets_version_and_time_and_keeps_every_digit(store):
    store.transact(transaction(observation(meta={"versionId": "77", "tag": [{"code": "x"}]})))
    read = store.read("Observation/o1")
    assert read.body["meta"] == {"tag": [{"code": "x"}], "versionId": "1", "lastUpdated": "2026-01-01T00:00:01.000000+00:00"}
    assert b'"value":27.50' in read.wire
    assert parse_json(read.wire) == read.body


def test_the_same_content_makes_no_new_version_and_a_change_makes_one(store):
    store.transact(transaction(observation()))
    first = store.read("Observation/o1")
    store.transact(transaction({**first.body, "meta": {"versionId": "9"}}))
    assert store.read("Observation/o1").wire == first.wire
    store.transact(transaction(observation(status="amended", code={"coding": [{"system": "urn:x", "code": "new"}]})))
    assert store.read("Observation/o1").body["meta"]["versionId"] == "2"
    assert found(store, "Observation", code="new") == ["Observation/o1"]
    assert found(store, "Observation", code="39156-5") == []


def test_a_transaction_that_fails_in_its_last_entry_stores_nothing(store):
    broken = transaction(patient(), observation())
    broken["entry"].append({"resource": patient("p2"), "request": {"method": "DELETE", "url": "Patient/p2"}})
    with pytest.raises(RequestInvalid, match="entry 2"):
        store.transact(broken)
    late = transaction(patient(), observation(valueQuantity={"value": parse_json("1e999")}))
    with pytest.raises(RequestInvalid, match="cannot carry"):
        store.transact(late)
    assert found(store, "Patient") == []


@pytest.mark.parametrize(
    "entry",
    [
        {"resource": patient(), "request": {"method": "PUT", "url": "Patient/other"}},
        {"resource": patient(), "request": {"method": "PUT", "url": "Observation/p1"}},
        {"resource": patient(), "request": {"method": "POST", "url": "Observation"}},
        {"resource": patient(), "request": {"method": "PUT", "url": "Patient/p1", "ifMatch": "1"}},
        {"resource": patient(), "request": {"method": "PUT"}},
        {"resource": patient()},
        {"request": {"method": "PUT", "url": "Patient/p1"}},
        None,
    ],
)
def test_a_malformed_entry_is_refused(store, entry):
    with pytest.raises(RequestInvalid):
        store.transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})


def test_a_change_of_a_version_that_is_not_held_is_refused_as_a_whole(store):
    store.transact(transaction(patient()))
    store.transact(amendment_bundle([store.read("Patient/p1").body | {"gender": "male"}], []))
    stale = store.read("Patient/p1").body | {"meta": {"versionId": "1"}, "gender": "other"}
    with pytest.raises(PeerRefused, match="another version"):
        store.transact(amendment_bundle([stale], [observation(id="later")]))
    assert (store.read("Patient/p1").body["gender"], found(store, "Observation")) == ("male", [])


def test_one_resource_is_not_written_twice_in_a_transaction(store):
    with pytest.raises(RequestInvalid, match="same resource"):
        store.transact(transaction(patient(), patient(gender="male")))


def test_posted_resources_refer_to_each_other_by_their_new_ids(store):
    person, bmi = patient(), observation(subject={"reference": "urn:uuid:p1"}, note=[{"text": "urn:uuid:p1"}])
    person_reference, bmi_reference = store.transact(transaction(person, bmi, method="POST"))
    body = store.read(bmi_reference).body
    assert body["subject"]["reference"] == person_reference
    assert body["note"] == [{"text": "urn:uuid:p1"}]
    assert found(store, "Observation", patient=person_reference) == [bmi_reference]


def test_conditional_references_resolve_in_the_bundle_and_in_the_store_and_dangling_ones_stay(store):
    doctor = {"resourceType": "Practitioner", "id": "d1", "identifier": [{"system": "urn:npi", "value": "1"}]}
    store.transact(transaction(doctor))
    performers = [{"reference": f"{kind}?identifier={token}"} for kind, token in
                  (("Practitioner", "urn:npi|1"), ("Patient", "http://hospital.example/mrn|MRN-1"),
                   ("Organization", "urn:npi|404"))] + [{"reference": "http://elsewhere/fhir/Organization/1"}]  # fmt: skip
    store.transact(transaction(patient(), observation(performer=performers)))
    assert [item["reference"] for item in store.read("Observation/o1").body["performer"]] == [
        "Practitioner/d1", "Patient/p1", "Organization?identifier=urn:npi|404", "http://elsewhere/fhir/Organization/1",
    ]  # fmt: skip


def test_a_conditional_create_makes_one_resource_however_often_it_is_sent(store):
    doctor = {"resourceType": "Practitioner", "identifier": [{"system": "urn:npi", "value": "1"}]}
    request = {"method": "POST", "url": "Practitioner", "ifNoneExist": "identifier=urn:npi|1"}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": doctor, "request": request}]}
    assert store.transact(bundle) == store.transact(bundle)
    assert len(found(store, "Practitioner")) == 1


def test_a_condition_that_several_resources_match_is_refused_and_nothing_chosen(store):
    doctor = {"resourceType": "Practitioner", "identifier": [{"system": "urn:npi", "value": "1"}]}
    store.transact(transaction({**doctor, "id": "d1"}, {**doctor, "id": "d2"}))
    create = {"resource": doctor, "request": {"method": "POST", "url": "Practitioner", "ifNoneExist": "identifier=urn:npi|1"}}
    referring = transaction(observation(performer=[{"reference": "Practitioner?identifier=urn:npi|1"}]))
    for bundle in ({**referring, "entry": [create]}, referring):
        with pytest.raises(RequestInvalid, match="several matches"):
            store.transact(bundle)
    assert found(store, "Practitioner") == ["Practitioner/d1", "Practitioner/d2"]
    assert found(store, "Observation") == []


def test_writers_at_the_same_time_make_one_resource_and_count_every_version(store):
    doctor = {"resourceType": "Practitioner", "identifier": [{"system": "urn:npi", "value": "1"}]}
    request = {"method": "POST", "url": "Practitioner", "ifNoneExist": "identifier=urn:npi|1"}

    def write(number):
        bundle = transaction(patient(mrn=f"MRN-{number}"))
        bundle["entry"].append({"resource": doctor, "request": request})
        return store.transact(bundle)[1]

    with ThreadPoolExecutor(4) as threads:
        written = set(threads.map(write, range(40)))
    assert found(store, "Practitioner") == sorted(written)
    assert len(written) == 1
    assert store.read("Patient/p1").body["meta"]["versionId"] == "40"


def test_an_unknown_parameter_is_an_error_and_never_a_wider_answer(store):
    for kind, name in (("Patient", "patient"), ("Patient", "name"), ("Condition", "date"), ("Observation", "code:in")):
        with pytest.raises(RequestInvalid, match="does not know"):
            found(store, kind, **{name: "x"})


def test_searches_by_token_keep_system_and_value_together(store):
    two = patient(identifier=[{"system": "urn:a", "value": "1"}, {"system": "urn:b", "value": "2"}, {"value": "3"}])
    store.transact(transaction(two))
    hits = {
        "urn:a|1": True,
        "1": True,
        "urn:a|2": False,
        "urn:b|1": False,
        "|3": True,
        "|1": False,
        "9,urn:b|2": True,
        "urn:b|": True,
    }
    assert {token: bool(found(store, "Patient", identifier=token)) for token in hits} == hits


@pytest.mark.parametrize(
    ("stated", "query", "hit"),
    [
        ("2020-03-01T08:00:00Z", "2020-03-01", True),
        ("2020-03-01T08:00:00Z", "le2020-03-01", True),
        ("2020-03-01T08:00:00Z", "lt2020-03-01", False),
        ("2020-03-01T08:00:00Z", "ge2020-03-01T08:00:00Z", True),
        ("2020-03-01T08:00:00Z", "gt2020-03-01T08:00:00Z", False),
        ("2020-03-01T23:30:00-05:00", "2020-03-02", True),
        ("2020-03", "2020-03-01", False),
        ("2020-03", "gt2020-03-15", True),
        ("2020-03", "lt2020-03-15", True),
    ],
)
def test_searches_by_date_compare_spans(store, stated, query, hit):
    store.transact(transaction(observation(effectiveDateTime=stated)))
    assert bool(found(store, "Observation", date=query)) is hit


@pytest.mark.parametrize(
    ("end", "query", "hit"),
    [
        ("9999-12-31", "gt9999-12-30", True),
        ("9999-12-31", "2020-06", False),
        ("9999-12-31T23:59:59-12:00", "gt2020", True),
        ("9999", "lt2019", False),
    ],
)
def test_an_end_that_never_comes_is_after_everything(store, end, query, hit):
    period = {"start": "2020-06-01", "end": end}
    encounter = {"resourceType": "Encounter", "id": "e1", "status": "in-progress", "period": period}
    store.transact(transaction(encounter))
    assert bool(found(store, "Encounter", date=query)) is hit


def test_the_first_moment_of_the_calendar_can_be_stored_and_found(store):
    store.transact(transaction(observation(effectiveDateTime="0001-01-01T00:00:00+14:00")))
    assert found(store, "Observation", date="lt0002") == ["Observation/o1"]


def test_finds_what_changed_since_a_moment(store):
    store.transact(transaction(patient("early")))
    store.transact(transaction(patient("late")))
    assert found(store, "Patient", _lastUpdated="ge2026-01-01T00:00:02Z") == ["Patient/late"]
    assert found(store, "Patient", _lastUpdated="lt2026-01-01T00:00:02Z") == ["Patient/early"]


@pytest.mark.parametrize("query", ["yesterday", "ap2020", "2020-13", ""])
def test_a_date_that_cannot_be_read_is_refused(store, query):
    with pytest.raises(RequestInvalid, match="date parameter"):
        found(store, "Observation", date=query)


def test_a_resource_with_malformed_elements_is_kept_and_found_by_the_others(store):
    store.transact(transaction(condition(code="stroke", recordedDate=5), observation(effectiveDateTime="soon", code=None)))
    assert found(store, "Condition", patient="p1") == ["Condition/c1"]
    assert found(store, "Observation", subject="Patient/p1") == ["Observation/o1"]


def test_a_bundle_of_twenty_megabytes_is_stored_and_read_digit_by_digit(store):
    note = [{"text": "x" * 100_000}]
    value = parse_json('{"value": 0.2670, "system": "http://unitsofmeasure.org", "code": "mm"}')
    resources = [observation(f"o{number}", note=note, valueQuantity=value) for number in range(200)]
    sent = write_json(transaction(patient(), *resources)).encode()
    assert len(sent) > 20_000_000
    assert len(store.transact(parse_json(sent))) == 201
    assert '"value":0.2670' in store.read("Observation/o7").wire.decode()
