from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.clinical import Coding
from domain.errors import ConfigurationError, PeerAnswerInvalid, RequestInvalid
from fhir_adapter.clinical.context import clinical_context, snapshot_digest
from fhir_adapter.clinical.demographics import demographics
from tests.builders_fhir import (
    LOINC,
    SALT,
    SCAN,
    SNOMED,
    UCUM,
    concept,
    condition,
    observation,
    patient,
    raw,
    research_consent,
)


def context_of(*resources, as_of=SCAN):
    return clinical_context(raw(patient())[0], raw(*resources), as_of=as_of, salt=SALT, consent="checked")


def reasons_of(*resources, as_of=SCAN):
    return {entry.reason: entry.count for entry in context_of(*resources, as_of=as_of).left_out}


def only_fact(*resources):
    (fact,) = context_of(*resources).facts
    return fact


def test_an_observation_becomes_a_number_with_its_ucum_unit_code_and_time():
    fact = only_fact(observation(bodySite=concept("7771000", "Left", SNOMED)))
    assert fact.codings == (Coding(LOINC, "39156-5", "Body mass index"),)
    assert (fact.value, fact.unit) == (27.5, "kg/m2")
    assert fact.effective_at == datetime(2020, 3, 1, 8, tzinfo=UTC)
    assert fact.source_reference == "Observation/o1"
    assert fact.body_site == (Coding(SNOMED, "7771000", "Left"),)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("valueString", "no haemorrhage", ("no haemorrhage", "")),
        ("valueBoolean", False, (False, "")),
        ("valueInteger", 4, (4.0, "1")),
        ("valueCodeableConcept", concept("LA1", "Moderate"), ("Moderate", "")),
        ("valueQuantity", {"value": 3}, (3.0, "1")),
        ("valueQuantity", {"value": 10, "unit": "mg/dL", "system": UCUM}, (10.0, "mg/dL")),
    ],
)
def test_each_value_type_keeps_its_kind(name, value, expected):
    fact = only_fact(observation(valueQuantity=None) | {name: value})
    assert (fact.value, fact.unit) == expected
    assert type(fact.value) is type(expected[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "entered-in-error"}, "Observation: status entered-in-error"),
        ({"status": "cancelled"}, "Observation: status cancelled"),
        ({"valueQuantity": None}, "Observation: no value"),
        ({"valueQuantity": None, "dataAbsentReason": {"text": "refused"}}, "Observation: value absent"),
        ({"valueQuantity": {"value": 5, "comparator": "<"}}, "Observation: value is only a bound"),
        ({"valueQuantity": {"value": 5, "unit": "stone"}}, "Observation: unit is not UCUM"),
        ({"valueQuantity": None, "valueSampledData": {}}, "Observation: valueSampledData is not used"),
        ({"modifierExtension": [{"url": "http://x", "valueBoolean": True}]}, "Observation: modifier extension"),
        ({"meta": {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "V"}]}},
         "Observation: security label"),
        ({"effectiveDateTime": "2020-03-15T09:30:01Z"}, "Observation: after the imaging time"),
        ({"issued": "2020-03-15T09:30:01Z"}, "Observation: recorded after the imaging time"),
        ({"effectiveDateTime": None, "issued": None}, "Observation: no time"),
        ({"effectiveDateTime": None, "issued": None, "meta": {"lastUpdated": "2021-01-01T00:00:00Z"}},
         "Observation: recorded after the imaging time"),
        ({"status": "completed"}, "invalid Observation"),
        ({"code": None}, "invalid Observation"),
        ({"code": []}, "invalid Observation"),
        ({"valueString": "two values"}, "invalid Observation"),
        ({"valueQuantity": {"value": "27"}}, "invalid Observation"),
        ({"valueQuantity": {"value": True}}, "invalid Observation"),
        ({"effectiveDateTime": "last week"}, "invalid Observation"),
        ({"effectiveDateTime": "2019-02-29"}, "Observation: impossible date"),
        ({"effectiveDateTime": "1950-02-02"}, "Observation: before the patient's birth"),
        ({"triggeredBy": []}, "Observation: written as FHIR R5"),
        ({"valueQuantity": {"value": 5, "unit": "mEq", "system": "http://local.example", "code": "mmHg"}},
         "Observation: unit is not UCUM"),
        ({"component": "none"}, "invalid Observation"),
        ({"meta": {"security": "R"}}, "invalid Observation"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_left_out_and_counted(change, reason):
    good, bad = observation("good"), observation("bad", **change)
    context = context_of(good, bad)
    assert [fact.source_reference for fact in context.facts] == ["Observation/good"]
    assert [(entry.reason, entry.count) for entry in context.left_out] == [(reason, 1)]


def test_a_fact_without_its_own_time_counts_by_its_record_time_and_states_none():
    for known in ({"issued": "2020-03-01T00:00:00Z"}, {"issued": None, "meta": {"lastUpdated": "2020-03-01T00:00:00Z"}}):
        assert only_fact(observation(effectiveDateTime=None, **known)).effective_at is None


def test_components_are_facts_of_their_own_that_cannot_be_taken_for_the_total():
    total = observation(
        code=concept("70184-7", "NIHSS total"),
        valueQuantity={"value": 9},
        component=[
            {"code": concept("72089-6", "Total score item 1a"), "valueInteger": 2},
            {"code": concept("70184-8", "Item 2"), "dataAbsentReason": {"text": "not tested"}},
        ],
    )
    context = context_of(total)
    assert [(fact.text, fact.value) for fact in context.facts] == [
        ("NIHSS total", 9.0),
        ("NIHSS total: Total score item 1a", 2.0),
    ]
    assert [fact.value for fact in context.facts if "70184-7" in {c.code for c in fact.codings}] == [9.0]
    assert reasons_of(total) == {"Observation: value absent": 1}


def test_a_panel_without_a_value_of_its_own_is_no_gap():
    panel = observation(valueQuantity=None, component=[{"code": concept("8480-6", "Systolic"), "valueInteger": 120}])
    assert reasons_of(panel) == {}


@pytest.mark.parametrize("status", ["refuted", "entered-in-error"])
def test_a_condition_that_was_refuted_or_taken_back_is_left_out_by_name(status):
    ruled_out = condition(verificationStatus=concept(status, "", "http://terminology.hl7.org/CodeSystem/condition-ver-status"))
    ruled_out["verificationStatus"]["coding"][0].pop("display")
    assert reasons_of(ruled_out) == {f"Condition: verification status {status}": 1}


def test_a_condition_that_ended_before_the_scan_is_past_and_one_that_ended_later_was_active():
    resolved = concept("resolved", "Resolved", "http://terminology.hl7.org/CodeSystem/condition-clinical")
    before = condition("before", clinicalStatus=resolved, abatementDateTime="2020-03-10")
    after = condition("after", clinicalStatus=resolved, abatementDateTime="2020-06-10")
    values = {fact.source_reference: fact.value for fact in context_of(before, after, condition("now")).facts}
    assert values == {"Condition/before": "resolved", "Condition/after": None, "Condition/now": None}


@pytest.mark.requirement("FHIR-CTX-001")
def test_a_condition_recorded_after_the_scan_is_not_used_though_it_began_before():
    assert reasons_of(condition(recordedDate="2020-04-01")) == {"Condition: recorded after the imaging time": 1}


def base(kind, **more):
    return {"resourceType": kind, "id": "x1", "subject": {"reference": "Patient/p1"}, **more}


def test_reports_procedures_medication_and_reasons_become_facts():
    facts = context_of(
        base("DiagnosticReport", status="final", code=concept("24558-9", "MR brain"), issued="2020-03-01T00:00:00Z",
             conclusion="No acute infarct.", conclusionCode=[concept("1", "Normal", SNOMED)]),
        base("Procedure", status="completed", code=concept("2", "Thrombectomy", SNOMED),
             performedPeriod={"start": "2020-02-01"}),
        base("MedicationRequest", status="active", intent="order", authoredOn="2020-02-02",
             medicationReference={"reference": "#m"}, contained=[{"resourceType": "Medication", "id": "m",
                                                                  "code": concept("3", "Aspirin")}]),
        base("MedicationStatement", status="active", medicationCodeableConcept=concept("4", "Warfarin"),
             effectivePeriod={"start": "2020-02-03"}),
        base("ServiceRequest", status="active", intent="order", authoredOn="2020-02-04",
             reasonCode=[concept("5", "Suspected stroke", SNOMED)]),
    ).facts  # fmt: skip
    assert {(fact.text, fact.value) for fact in facts} == {
        ("MR brain", "No acute infarct."), ("MR brain", "Normal"), ("Thrombectomy", None), ("Aspirin", None),
        ("Warfarin", None), ("Suspected stroke", "reason for request"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (base("Procedure", status="completed", code=concept("2", "x"), occurrenceDateTime="2020-01-01"),
         "Procedure: written as FHIR R5"),
        (base("MedicationRequest", status="active", intent="proposal", medicationCodeableConcept=concept("1", "x")),
         "MedicationRequest: no order"),
        (base("MedicationRequest", status="active", intent="order", medicationReference={"reference": "Medication/1"}),
         "MedicationRequest: medication named only by reference"),
        (base("MedicationRequest", status="active", intent="order", medication={"concept": {}}),
         "MedicationRequest: written as FHIR R5"),
        (base("DiagnosticReport", status="final", code=concept("1", "x")), "DiagnosticReport: no conclusion"),
        (base("Encounter", status="finished"), "invalid Encounter"),
        (base("Claim", status="active"), "Claim: no clinical facts"),
        (base("12 Baker Street"), "invalid resource"),
    ],
)  # fmt: skip
def test_what_states_no_fact_says_why(resource, reason):
    assert reasons_of(resource) == {reason: 1}


def test_a_resource_of_another_patient_stops_the_snapshot():
    with pytest.raises(PeerAnswerInvalid, match="another subject"):
        context_of(observation(of="p2"))


@pytest.mark.requirement("FHIR-PAIR-001")
def test_an_absolute_reference_is_the_patient_of_this_server_alone():
    ours = observation(subject={"reference": "https://ehr.example/fhir/Patient/p1/_history/3"})
    theirs = observation("o2", subject={"reference": "https://other.example/fhir/Patient/p1"})
    more = {"as_of": SCAN, "salt": SALT, "consent": "checked", "base_url": "https://ehr.example/fhir"}
    context = clinical_context(*raw(patient()), raw(ours, theirs), **more)
    assert [fact.source_reference for fact in context.facts] == ["Observation/o1"]
    assert [(one.reason, one.count) for one in context.left_out] == [("Observation: subject on another server", 1)]
    stranger = research_consent(patient={"reference": "https://other.example/fhir/Patient/p1"})
    with pytest.raises(PeerAnswerInvalid, match="Consent of another subject"):
        clinical_context(*raw(patient()), [], consents=raw(stranger), **more)


def test_needs_an_aware_imaging_time_and_a_long_salt():
    with pytest.raises(RequestInvalid):
        context_of(as_of=datetime(2020, 1, 1))
    with pytest.raises(ConfigurationError, match="snapshot salt of 5 bytes"):
        snapshot_digest([], salt=b"short")


@pytest.mark.requirement("FHIR-CTX-001")
@given(st.lists(st.tuples(st.integers(-900, 900), st.integers(-900, 900) | st.none()), max_size=12), st.randoms())
def test_no_fact_from_the_future_is_ever_used_and_none_of_the_past_is_lost(times, rng):
    """Every observation is either used, with both its times at or before the scan, or counted as left out."""
    resources = []
    for number, (effective, issued) in enumerate(times):
        at = SCAN + timedelta(hours=effective)
        known = (SCAN + timedelta(hours=issued)).isoformat() if issued is not None else None
        resources.append(observation(f"o{number}", effectiveDateTime=at.isoformat(), issued=known))
    context = context_of(*resources)
    expected = {f"Observation/o{n}" for n, (e, i) in enumerate(times) if e <= 0 and (i is None or i <= 0)}
    assert {fact.source_reference for fact in context.facts} == expected
    assert all(fact.effective_at <= SCAN for fact in context.facts)
    assert len(context.facts) + sum(entry.count for entry in context.left_out) == len(times)
    rng.shuffle(resources)
    assert context_of(*resources) == context


def test_digest_shows_a_change_and_ignores_what_was_not_used():
    one = context_of(observation()).snapshot_digest
    changed = observation(valueQuantity={"value": 28, "system": UCUM, "code": "kg/m2"})
    assert one.startswith("sha256:")
    assert context_of(observation(), base("Encounter", status="finished")).snapshot_digest == one
    assert context_of(changed).snapshot_digest != one
    assert context_of(observation(), observation("o2")).snapshot_digest != one


def test_digest_cannot_be_made_without_the_secret_of_the_site():
    assert snapshot_digest(raw(patient()), salt=SALT) != snapshot_digest(raw(patient()), salt=SALT[::-1])


def test_digest_does_not_depend_on_how_the_server_wrote_the_json():
    resources = [observation(f"o{n}") for n in range(5)]
    rewritten = [json.loads(json.dumps(resource, default=float, indent=1)) for resource in resources]
    random.Random(1).shuffle(rewritten)
    assert context_of(*resources).snapshot_digest == context_of(*rewritten).snapshot_digest


def test_demographics_that_could_only_contradict_by_accident_are_none():
    assert demographics({"birthDate": "1950", "gender": "unknown"}) == (None, None)
    assert demographics(patient()) == ("1950-02-03", "female")
    for broken in ({"birthDate": "3.2.1950"}, {"birthDate": 1950}, {"gender": "F"}):
        with pytest.raises(PeerAnswerInvalid):
            demographics(broken)
