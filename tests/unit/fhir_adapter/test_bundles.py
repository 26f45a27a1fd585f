from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import RequestInvalid
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.local.intake import prepare_intake
from tests.builders_fhir import observation, patient

UUID = "0d6c34a6-7f2e-4cf5-9a0e-6f3c6f9b2a11"


def written(bundle):
    return [entry["request"]["url"] for entry in bundle["entry"]]


def resource(kind, identity, *references):
    return {"resourceType": kind, "id": identity, "about": [{"reference": reference} for reference in references]}


def test_a_publication_puts_what_is_referenced_first():
    bundle = publication_bundle(
        [
            resource("Provenance", "p-1", "ImagingStudy/i-1", "Device/d-1", "Patient/elsewhere"),
            resource("ImagingStudy", "i-1", "Patient/s-1"),
            resource("Device", "d-1"),
            resource("Patient", "s-1"),
        ]
    )
    assert bundle["type"] == "transaction"
    assert written(bundle) == ["Patient/s-1", "ImagingStudy/i-1", "Device/d-1", "Provenance/p-1"]
    assert {entry["request"]["method"] for entry in bundle["entry"]} == {"PUT"}


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] > pair[1]), max_size=20), st.randoms()
)
def test_every_resource_comes_after_all_that_it_refers_to(pairs, rng):
    resources = [resource("Basic", f"r{n}", *(f"Basic/r{low}" for high, low in pairs if high == n)) for n in range(8)]
    rng.shuffle(resources)
    order = {url: position for position, url in enumerate(written(publication_bundle(resources)))}
    assert len(order) == 8
    assert all(order[f"Basic/r{low}"] < order[f"Basic/r{high}"] for high, low in pairs)


def test_resources_in_a_circle_are_published_too():
    circle = [resource("Basic", "a", "Basic/b"), resource("Basic", "b", "Basic/a")]
    assert sorted(written(publication_bundle(circle))) == ["Basic/a", "Basic/b"]


@pytest.mark.parametrize(
    "resources",
    [
        [{"resourceType": "Device", "id": "123"}],
        [{"resourceType": "Device"}],
        [{"resourceType": "Device", "id": "a/b"}],
        [{"id": "abc"}],
        [{"resourceType": "Device", "id": "a1"}, {"resourceType": "Device", "id": "a1"}],
    ],
)
def test_a_publication_refuses_ids_that_servers_refuse(resources):
    with pytest.raises(RequestInvalid):
        publication_bundle(resources)


def bundle(kind, *entries):
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


@pytest.mark.parametrize("kind", ["collection", "searchset"])
def test_each_kind_of_bundle_becomes_puts(kind):
    posted = bundle(kind, {"fullUrl": "http://server/fhir/Patient/p1", "resource": patient()}, {"resource": observation()})
    assert written(prepare_intake(posted)) == ["Patient/p1", "Observation/o1"]


def test_the_same_upload_always_writes_the_same_resources():
    posted = bundle(
        "transaction",
        {"fullUrl": f"urn:uuid:{UUID}", "resource": patient(), "request": {"method": "POST", "url": "Patient"}},
        {
            "resource": {**observation(), "id": None} | {"note": [{"text": "a"}]},
            "request": {"method": "POST", "url": "Observation"},
        },
    )
    del posted["entry"][1]["resource"]["id"]
    first, again = prepare_intake(copy.deepcopy(posted)), prepare_intake(posted)
    assert first == again
    assert written(first)[0] == f"Patient/{UUID}"
    assert first["entry"][0]["resource"]["id"] == UUID
    assert first["entry"][0]["fullUrl"] == f"urn:uuid:{UUID}"
    assert not written(first)[1].removeprefix("Observation/").isdigit()


def test_a_conditional_create_stays_one():
    entry = {"resource": patient(), "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=a|1"}}
    assert prepare_intake(bundle("transaction", entry))["entry"][0]["request"] == {
        "method": "POST", "url": "Patient", "ifNoneExist": "identifier=a|1",
    }  # fmt: skip


def test_a_single_resource_is_taken_and_what_a_search_says_about_itself_is_not():
    assert written(prepare_intake(patient())) == ["Patient/p1"]
    searched = bundle("searchset", {"resource": patient()}, {"resource": {"resourceType": "OperationOutcome"}})
    assert written(prepare_intake(searched)) == ["Patient/p1"]


@pytest.mark.parametrize(
    ("posted", "words"),
    [
        (["Patient"], "no object"),
        ({"name": "x"}, "without a resourceType"),
        ({"resourceType": "12"}, "without a resourceType"),
        (bundle("document", {"resource": patient()}), "of type document"),
        (bundle("collection"), "without entries"),
        (bundle("collection", "x"), "entry 0 that is no object"),
        (bundle("collection", {"fullUrl": "x"}), "entry 0 without a resource"),
        (bundle("collection", {"resource": patient("a b")}), "malformed id"),
        (bundle("collection", {"resource": patient(), "fullUrl": "http://s/fhir/Patient/other"}), "fullUrl and id differ"),
        (bundle("collection", {"resource": bundle("collection")}), "Bundle in entry 0"),
        (
            bundle("transaction", {"resource": patient(), "request": {"method": "DELETE", "url": "Patient/p1"}}),
            "does not write",
        ),
        ({"resourceType": "Procedure", "id": "x", "occurrenceDateTime": "2020"}, "only FHIR R5"),
        ({"resourceType": "MedicationRequest", "id": "x", "medication": {"concept": {}}}, "only FHIR R5"),
        ({"resourceType": "Consent", "id": "x", "decision": "deny"}, "only FHIR R5"),
    ],
)
def test_refuses_what_is_no_r4_record_and_says_what_was_found(posted, words):
    with pytest.raises(RequestInvalid, match=words):
        prepare_intake(posted)


def test_elements_that_only_r5_has_are_in_no_r4_model():
    """The list is compared with outside models: an R4 element in it would refuse good records."""
    import importlib

    from fhir_adapter.local.r4_only import R5_ONLY

    for kind, names in R5_ONLY.items():
        r4, r5 = (
            set(getattr(importlib.import_module(f"{package}.{kind.lower()}"), kind).elements_sequence())
            for package in ("fhir.resources.R4B", "fhir.resources")
        )
        assert not set(names) & r4, kind
        assert set(names) <= r5, kind
