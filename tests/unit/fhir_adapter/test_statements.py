"""What single resources state: values with their codes, negation, how sure it is, and what is refused by name."""

from __future__ import annotations

import base64

import pytest
from lark.exceptions import LarkError
from pydantic import TypeAdapter
from ucumvert import get_ucum_parser

from domain.clinical import ClinicalFact, Coding
from domain.errors import PeerAnswerInvalid
from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.codes import UNIT_SYNONYMS
from fhir_adapter.json_text import parse_json
from tests.builders_fhir import LOINC, SALT, SCAN, SNOMED, concept, condition, observation, patient, raw, without_none

THO = "http://terminology.hl7.org/CodeSystem"
DAY = "2020-03-01"


def context_of(*resources, person=None):
    return clinical_context(raw(person or patient())[0], raw(*resources), as_of=SCAN, salt=SALT, consent="checked")


def only_fact(resource):
    (fact,) = context_of(resource).facts
    return fact


def base(kind, **more):
    return without_none({"resourceType": kind, "id": "x1", "subject": {"reference": "Patient/p1"}, **more})


def test_a_coded_value_keeps_its_codings_and_its_interpretation():
    fact = only_fact(
        observation(
            valueQuantity=None,
            valueCodeableConcept=concept("LA6576-8", "Positive"),
            interpretation=[concept("N", "Normal", f"{THO}/v3-ObservationInterpretation")],
            status="preliminary",
        )
    )
    assert fact.value_codings == (Coding(LOINC, "LA6576-8", "Positive"),)
    assert [coding.code for coding in fact.interpretation] == ["N"]
    assert (fact.verification, fact.negated) == ("preliminary", False)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("valueRatio", '{"numerator": {"value": 1}, "denominator": {"value": 128}}', "1:128"),
        ("valueRange", '{"low": {"value": 0.50, "unit": "mg", "system": "http://unitsofmeasure.org"}, '
                       '"high": {"value": 1.0, "unit": "mg", "system": "http://unitsofmeasure.org"}}', "0.50 mg - 1.0 mg"),
        ("valueDateTime", '"2020-02"', "2020-02"),
        ("valuePeriod", '{"start": "2020-01-01"}', "2020-01-01/"),
    ],
)  # fmt: skip
def test_values_that_are_no_single_number_are_kept_as_text_digit_by_digit(name, value, expected):
    fact = only_fact(observation(valueQuantity=None, **{name: parse_json(value)}))
    assert (fact.value, fact.unit) == (expected, "")


def test_decimals_without_a_leading_zero_in_their_significance_are_exact():
    assert only_fact(observation(valueQuantity=parse_json('{"value": 0.267}'))).value == 0.267


@pytest.mark.requirement("FHIR-CTX-003")
@pytest.mark.parametrize(
    "resource",
    [
        base("Procedure", status="not-done", code=concept("2", "Thrombectomy", SNOMED), performedDateTime=DAY),
        base("MedicationRequest", status="active", intent="order", doNotPerform=True, authoredOn=DAY,
             medicationCodeableConcept=concept("1", "x")),
        base("MedicationStatement", status="not-taken", medicationCodeableConcept=concept("1", "x"), effectiveDateTime=DAY),
        base("ServiceRequest", status="active", intent="order", doNotPerform=True, code=concept("1", "x"), authoredOn=DAY,
             reasonCode=[concept("5", "Suspected stroke", SNOMED)]),
        {"resourceType": "AllergyIntolerance", "id": "a", "patient": {"reference": "Patient/p1"}, "recordedDate": DAY,
         "code": concept("716186003", "No known allergy", SNOMED)},
        observation(valueQuantity=None, valueBoolean=False),
    ],
)  # fmt: skip
def test_what_is_denied_is_a_negated_fact_whose_value_is_false(resource):
    fact = only_fact(resource)
    assert (fact.negated, fact.value) == (True, False)


@pytest.mark.requirement("FHIR-CTX-003")
@pytest.mark.parametrize(
    "code",
    [(SNOMED, "2667000"), (SNOMED, "260385009"), (SNOMED, "373067005"), (f"{THO}/v2-0136", "N"), (LOINC, "LA6577-6")],
)
def test_an_observation_coded_as_absent_is_negated_and_its_text_alone_is_not(code):
    absent = observation(valueQuantity=None, valueCodeableConcept=concept(code[1], "Absent", code[0]))
    assert only_fact(absent).negated
    assert not only_fact(observation(valueQuantity=None, valueString="Absent")).negated


@pytest.mark.requirement("FHIR-CTX-003")
@pytest.mark.parametrize("status", ["provisional", "unconfirmed", "differential"])
def test_a_condition_that_is_not_sure_says_so_and_is_never_read_as_present(status):
    verification = concept(status, status, f"{THO}/condition-ver-status")
    fact = only_fact(condition(verificationStatus=verification))
    assert (fact.verification, fact.value) == (status, status)
    assert only_fact(condition()).value is None


def test_a_plain_text_report_is_read_and_another_form_is_named():
    text = base64.b64encode("Kein Infarkt. Größe normal.".encode()).decode()
    report = base("DiagnosticReport", status="final", code=concept("24558-9", "MR brain"), effectiveDateTime=DAY,
                  presentedForm=[{"contentType": "text/plain; charset=utf-8", "data": text},
                                 {"contentType": "application/pdf", "data": text}])  # fmt: skip
    context = context_of(report)
    assert [fact.value for fact in context.facts] == ["Kein Infarkt. Größe normal."]
    assert [entry.reason for entry in context.left_out] == ["DiagnosticReport: presented form not read: no plain text"]
    report["presentedForm"] = [{"contentType": "text/plain", "data": "%%%"}]
    assert [entry.reason for entry in context_of(report).left_out] == ["invalid DiagnosticReport"]


def test_encounters_requests_and_studies_say_what_they_are_and_why():
    facts = context_of(
        base("Encounter", status="in-progress", period={"start": DAY}, type=[concept("1", "Stroke unit stay", SNOMED)],
             reasonCode=[concept("2", "Hemiparesis", SNOMED)], **{"class": {"system": f"{THO}/v3-ActCode", "code": "IMP"}}),
        base("ServiceRequest", status="active", intent="order", authoredOn=DAY, code=concept("24558-9", "MR brain")),
        base("ImagingStudy", status="available", started=DAY, modality=[{"code": "MR"}], description="Brain"),
    ).facts  # fmt: skip
    assert {(fact.text, fact.value) for fact in facts} == {
        ("Stroke unit stay", "encounter"), ("Hemiparesis", "reason for encounter"), ("MR brain", "requested"),
        ("Brain", "imaging study"),
    }  # fmt: skip


def test_units_that_mean_one_ucum_unit_are_read_and_no_synonym_is_itself_ucum():
    assert only_fact(observation(valueQuantity={"value": 120, "unit": "mmHg"})).unit == "mm[Hg]"
    parser = get_ucum_parser()
    for written, meant in UNIT_SYNONYMS.items():
        parser.parse(meant)
        with pytest.raises(LarkError):
            parser.parse(written)


def test_a_fact_of_after_the_death_is_left_out_and_one_of_the_day_of_death_counts():
    person = patient(deceasedDateTime="2020-02-10T12:00:00Z")
    same_day, later = (observation(at, effectiveDateTime=f"{at}T23:00:00Z", issued=None) for at in ("2020-02-10", "2020-02-11"))
    context = context_of(same_day, later, person=person)
    assert [fact.source_reference for fact in context.facts] == ["Observation/2020-02-10"]
    assert [entry.reason for entry in context.left_out] == ["Observation: after the patient's death"]
    with pytest.raises(PeerAnswerInvalid, match="birth or death"):
        context_of(person=patient(deceasedDateTime="2020-02-30"))


def test_what_the_record_does_not_say_stands_as_missing():
    person = without_none(patient(birthDate=None, gender="unknown"))
    context = clinical_context(raw(person)[0], [], as_of=SCAN, salt=SALT, consent="", not_offered=["Condition"])
    assert context.missing == ("Patient: no birth date", "Patient: no sex", "Condition: not offered by the server")


def test_a_fact_that_an_older_version_kept_can_still_be_read():
    kept = b'{"codings": [], "text": "BMI", "value": 27.5, "unit": "kg/m2", "effective_at": null, "source_reference": "x"}'
    fact = TypeAdapter(ClinicalFact).validate_json(kept)
    assert (fact.negated, fact.verification, fact.value_codings) == (False, "", ())


def allergy(code, **more):
    return {"resourceType": "AllergyIntolerance", "id": "a", "patient": {"reference": "Patient/p1"}, "recordedDate": DAY,
            "code": code, **more}  # fmt: skip


@pytest.mark.requirement("FHIR-CTX-003")
@pytest.mark.parametrize("code", ["refuted", "entered-in-error", "confirmed"])
@pytest.mark.parametrize("system", [None, "http://hl7.org/fhir/condition-ver-status", "text"])
def test_a_status_without_a_code_of_its_value_set_leaves_the_record_out(code, system):
    coding = without_none({"system": system, "code": code})
    stated = {"text": code} if system == "text" else {"coding": [coding]}
    for record in (condition(verificationStatus=stated), condition(clinicalStatus=stated), allergy({"text": "x"}) | {
        "verificationStatus": stated
    }):  # fmt: skip
        context = context_of(record)
        assert context.facts == ()
        assert [entry.reason.endswith("status without a code of its value set") for entry in context.left_out] == [True]


@pytest.mark.requirement("FHIR-CTX-003")
@pytest.mark.parametrize(
    "ended", [{"abatementAge": {"value": 40}}, {"abatementString": "2019"}, {"abatementRange": {"low": {"value": 1}}}]
)
def test_any_abatement_ends_a_condition(ended):
    assert only_fact(condition(clinicalStatus=None, **ended)).value == "resolved"


@pytest.mark.requirement("FHIR-CTX-003")
def test_a_record_that_says_that_there_is_none_is_negated_and_one_that_nothing_is_known_is_left_out():
    ips = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"
    none = [
        allergy(concept("409137002", "No known drug allergy", SNOMED)),
        allergy(concept("no-known-allergies", "No known allergies", ips)),
        condition(code=concept("160245001", "No current problems or disability", SNOMED)),
        base("MedicationStatement", status="active", effectiveDateTime=DAY,
             medicationCodeableConcept=concept("no-known-medications", "No known medications", ips)),
        base("Procedure", status="completed", performedDateTime=DAY, code=concept("no-known-procedures", "None", ips)),
    ]  # fmt: skip
    assert [(fact.negated, fact.value) for fact in context_of(*none).facts] == [(True, False)] * 5
    unknown = context_of(allergy(concept("no-allergy-info", "No information", ips)))
    assert (unknown.facts, unknown.left_out[0].reason) == ((), "AllergyIntolerance: nothing is known")


@pytest.mark.requirement("FHIR-CTX-003")
def test_an_interpretation_as_negative_denies_a_finding_and_leaves_a_number_a_number():
    negative = [concept("NEG", "Negative", f"{THO}/v3-ObservationInterpretation")]
    seen = only_fact(observation(valueQuantity=None, valueCodeableConcept={"text": "see note"}, interpretation=negative))
    assert seen.negated
    assert not only_fact(observation(interpretation=negative)).negated


def test_a_component_that_is_modified_by_an_extension_is_left_out():
    modified = {
        "code": concept("8480-6", "Systolic"),
        "valueInteger": 120,
        "modifierExtension": [{"url": "http://x.example/not"}],
    }
    context = context_of(observation(valueQuantity=None, component=[modified]))
    assert context.facts == ()
    assert "Observation: modifier extension" in {entry.reason for entry in context.left_out}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"status": "entered-in-error"}, "medication entered in error"),
        ({"meta": {"security": [{"system": f"{THO}/v3-Confidentiality", "code": "R"}]}}, "security label of the medication"),
        ({"modifierExtension": [{"url": "http://x.example/not"}]}, "modifier extension"),
    ],
)
def test_a_medication_that_may_not_be_read_states_nothing_wherever_it_stands(wrong, reason):
    drug = {"resourceType": "Medication", "id": "m", "code": concept("3", "Aspirin"), **wrong}
    order = base("MedicationRequest", status="active", intent="order", authoredOn=DAY)
    held = order | {"medicationReference": {"reference": "Medication/m", "display": "Aspirin"}}
    within = order | {"medicationReference": {"reference": "#m"}, "contained": [drug]}
    for one, medications in ((held, {"Medication/m": raw(drug)[0]}), (within, {})):
        context = clinical_context(
            raw(patient())[0], raw(one), as_of=SCAN, salt=SALT, consent="checked", medications=medications
        )
        assert (context.facts, [entry.reason for entry in context.left_out]) == ((), [f"MedicationRequest: {reason}"])


@pytest.mark.parametrize(
    ("status", "end", "value"),
    [("completed", "2001-02-01", "completed"), ("active", "2001-02-01", "completed"), ("stopped", None, "stopped"),
     ("completed", "2021-02-01", None), ("active", None, None)],
)  # fmt: skip
def test_a_medication_that_was_taken_until_before_the_scan_is_past(status, end, value):
    taken = base("MedicationStatement", status=status, dateAsserted="2001-01-01", medicationCodeableConcept={"text": "Warfarin"},
                 effectivePeriod=without_none({"start": "2001-01-01", "end": end}))  # fmt: skip
    assert only_fact(taken).value == value


def test_a_side_that_is_only_text_is_kept_beside_the_codes():
    assert only_fact(observation(bodySite={"text": "Left"})).body_site == (Coding("", "", "Left"),)
    organ = concept("3556000", "Hippocampus", SNOMED) | {"text": "Left hippocampus"}
    assert [one.display for one in only_fact(observation(bodySite=organ)).body_site] == ["Hippocampus", "Left hippocampus"]
