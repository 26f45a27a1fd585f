"""FHIR R4 resources of ours before validators that others wrote, and those validators before resources that are wrong."""

from __future__ import annotations

import pytest

from fhir_adapter.outcomes import error_classes, to_outcome
from tests.builders_fhir import condition, observation, patient, research_consent
from tests.peers.fhir_validators import validate

pytestmark = pytest.mark.peer("fhir-validators")

WRONG = {
    "a code outside a required value set": patient(gender="F"),
    "an element that does not exist": patient(colour="blue"),
    "a missing required element": observation(status=None),
    "two values of one choice": observation(valueString="27"),
    "an element of another FHIR version": condition(participant=[{"actor": {"reference": "Patient/p1"}}]),
    "a date that is none": patient(birthDate="3.2.1950"),
    "a list where one is allowed": patient(gender=["female"]),
    "an agent of nobody": {"resourceType": "Provenance", "target": [{"reference": "Patient/p1"}], "agent": [{}]},
}


@pytest.mark.requirement("FHIR-RES-001")
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_validators_find_what_is_wrong(wrong):
    assert validate(wrong)


@pytest.mark.requirement("FHIR-RES-001")
@pytest.mark.parametrize("right", [patient(), observation(), condition(), research_consent()], ids=lambda r: r["resourceType"])
def test_the_validators_take_what_is_right(right):
    assert validate(right) == []


@pytest.mark.requirement("FHIR-RES-002")
@pytest.mark.parametrize("kind", list(error_classes()), ids=lambda kind: kind.__name__)
def test_the_outcome_of_each_error_is_valid(kind):
    assert validate(to_outcome(kind("a thing", allowed="another", action="do this"))) == []
