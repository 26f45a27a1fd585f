from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PeerAnswerInvalid, RequestInvalid
from domain.identifiers import PatientIdentifier
from fhir_adapter.local.values import tokens
from fhir_adapter.search import (
    escape,
    identifier_token,
    matches,
    next_link,
    own_reference,
    refers_to,
    split_escaped,
    split_reference,
    unescape,
)


@given(st.text(min_size=1, max_size=30), st.text(max_size=30))
def test_an_identifier_of_any_characters_is_one_token(value, system):
    (token,) = tokens(identifier_token(PatientIdentifier(value, system)))
    assert token.value == value
    assert token.system == (system or None)


@given(st.lists(st.text(max_size=10), min_size=1, max_size=5))
def test_escaped_values_survive_being_joined_by_commas(values):
    assert [unescape(part) for part in split_escaped(",".join(map(escape, values)), ",")] == values


def test_outcomes_and_included_resources_are_no_matches():
    bundle = {
        "entry": [
            {"resource": {"resourceType": "Patient", "id": "a"}, "search": {"mode": "match"}},
            {"resource": {"resourceType": "Practitioner", "id": "b"}, "search": {"mode": "include"}},
            {"resource": {"resourceType": "OperationOutcome"}, "search": {"mode": "outcome"}},
            {"resource": {"resourceType": "OperationOutcome"}},
        ]
    }
    assert [resource.reference for resource in matches(bundle)] == ["Patient/a"]


@pytest.mark.parametrize("bundle", [{"entry": {}}, {"entry": [None]}, {"entry": [{}]}, {"entry": [{"resource": {"id": "a"}}]}])
def test_a_malformed_bundle_is_never_read_in_part(bundle):
    with pytest.raises(PeerAnswerInvalid):
        list(matches(bundle))


@pytest.mark.parametrize("links", ["next", [{"relation": "next"}], [{"relation": "next", "url": 2}]])
def test_a_malformed_next_link_is_no_last_page(links):
    with pytest.raises(PeerAnswerInvalid):
        next_link({"link": links})


@pytest.mark.parametrize("reference", ["Patient", "patient/a", "Patient/a/b", "../Patient/a", "Patient/a?x=1", "urn:uuid:1"])
def test_a_reference_that_is_no_type_and_id_is_refused_without_repeating_it(reference):
    with pytest.raises(RequestInvalid) as caught:
        split_reference(reference)
    assert reference not in caught.value.found


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.parametrize(
    ("reference", "ours"),
    [
        ("Patient/a", True),
        ("Patient/a/_history/2", True),
        ("https://ehr.example/fhir/Patient/a", True),
        ("https://ehr.example/fhir/Patient/a/_history/2", True),
        ("https://ehr.example/fhir2/Patient/a", False),
        ("https://ehr.example/Patient/a", False),
        ("https://ehr.example/fhir/tenant/Patient/a", False),
        ("https://other.example/fhir/Patient/a", False),
        ("https://other.example/https://ehr.example/fhir/Patient/a", False),
        ("Patient/ab", False),
        ("#a", False),
        (None, False),
    ],
)
def test_an_absolute_reference_is_the_servers_own_only_below_its_base_url(reference, ours):
    assert refers_to(reference, "Patient/a", "https://ehr.example/fhir") is ours
    if ours and reference.startswith("https"):
        assert own_reference(reference) is None  # our own store has no base URL: it resolves at intake
