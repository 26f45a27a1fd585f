"""Whatever an EHR holds and in whatever order it answers, evidence never leads to two patients."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import PatientMismatch, PeerAnswerInvalid, PeerRefused
from domain.identifiers import AccessionNumber, PatientIdentifier
from domain.ordering import Order, OrderOrigin
from domain.pairing import choose_patient
from fhir_adapter.clinical.patients import PatientFinder
from fhir_adapter.search import split_escaped, unescape
from fhir_adapter.store import RawResource
from tests.builders_fhir import MRN, series_of

BASE, ELSEWHERE = "https://ehr.example/fhir", "https://other.example/fhir"
SSN = "http://hl7.org/fhir/sid/us-ssn"
ACSN = "http://hospital.example/accession"
PEOPLE = ["Patient/a", "Patient/b", "Patient/c"]
SYSTEMS = st.sampled_from(["", MRN, SSN])
EVERYTHING = ("study-uid", "accession", "order")


class Answers:
    """A server in memory, which answers in the order that it is given."""

    base_url = BASE

    def __init__(self, resources):
        self._held = {f"{one['resourceType']}/{one['id']}": RawResource(one) for one in resources}

    def read(self, reference):
        if reference not in self._held:
            raise PeerRefused(found="none", allowed="one", action="look")
        return self._held[reference]

    def search_many(self, searches):
        for search in searches:
            for raw in self._held.values():
                if raw.resource_type == search.resource_type and self._found(raw, search.parameters):
                    yield raw

    def _found(self, raw, parameters):
        if "_id" in parameters:
            return raw.body["id"] in parameters["_id"].split(",")
        return any(self._carries(raw, token) for token in split_escaped(parameters["identifier"], ","))

    def _carries(self, raw, token):
        *system, value = [unescape(part) for part in split_escaped(token, "|")]
        return any(
            one.get("value") == value and (not system or one.get("system") == system[0])
            for one in raw.body.get("identifier", [])
        )


def _identifier(system, value):
    return {"value": value} | ({"system": system} if system else {})


REFERENCES = st.sampled_from(
    [*PEOPLE, f"{BASE}/Patient/a", f"{ELSEWHERE}/Patient/a", f"{ELSEWHERE}/Patient/b", "Patient/b/_history/2"]
)
LINKS = st.builds(
    lambda kind, reference: {"type": kind, "other": {"reference": reference} if reference else {"identifier": {"value": "1"}}},
    st.sampled_from(["replaced-by", "replaces", "seealso"]),
    st.one_of(st.sampled_from(PEOPLE), st.sampled_from([f"{BASE}/Patient/b", f"{ELSEWHERE}/Patient/b", ""])),
)
IDENTIFIERS = st.builds(_identifier, SYSTEMS, st.sampled_from(["1", "2", "A7"]))
PERSON = st.fixed_dictionaries(
    {
        "identifier": st.lists(IDENTIFIERS, max_size=2),
        "link": st.lists(LINKS, max_size=2),
        "active": st.sampled_from([True, True, False]),
    }
)
IMAGES = st.fixed_dictionaries(
    {
        "resourceType": st.sampled_from(["ImagingStudy", "ServiceRequest"]),
        "id": st.sampled_from(["x", "y"]),
        "subject": st.builds(lambda one: {"reference": one}, REFERENCES),
        "identifier": st.lists(
            st.sampled_from(
                [
                    _identifier("urn:dicom:uid", "urn:oid:1.2.3"),
                    _identifier(ACSN, "A7"),
                    _identifier("", "A7"),
                    _identifier("", ""),
                ]
            ),
            min_size=1,
            max_size=2,
        ),
    }
)
RECORDS = st.builds(
    lambda people, images: (
        [{"resourceType": "Patient", "id": name, **person} for name, person in zip("abc", people, strict=True)] + images
    ),
    st.tuples(PERSON, PERSON, PERSON),
    st.lists(IMAGES, max_size=2, unique_by=lambda one: (one["resourceType"], one["id"])),
)
NAMED = st.builds(PatientIdentifier, st.sampled_from(["1", "2", "9"]), SYSTEMS)
ORDERS = st.none() | st.builds(
    Order, st.sampled_from([OrderOrigin.FHIR, OrderOrigin.HL7V2]), st.just("s"), st.just("Task/1"), st.just("Task"),
    st.just(datetime(2026, 1, 1, tzinfo=UTC)), st.none() | NAMED, st.just("") | REFERENCES,
)  # fmt: skip
SERIES = st.builds(
    lambda value, system, number: replace(series_of(value, system), accession=AccessionNumber(number)),
    st.sampled_from(["1", "2", ""]), SYSTEMS, st.sampled_from(["A7", ""]),
)  # fmt: skip


def _chosen(resources, series, order, accession_system):
    try:
        found = PatientFinder(Answers(resources), accession_system=accession_system).sources(series, order)
        return choose_patient(series, found.candidates, found.pointers, accept=EVERYTHING)[0]
    except (PatientMismatch, PeerAnswerInvalid, PeerRefused):
        return None


@pytest.mark.requirement("FHIR-PAIR-001")
@pytest.mark.requirement("FHIR-PAIR-002")
@settings(max_examples=400, deadline=None)
@given(RECORDS, SERIES, ORDERS, st.sampled_from(["", ACSN]), st.randoms())
def test_no_order_of_answers_ever_leads_to_another_patient(
    records: list[dict[str, object]], series: object, order: Order | None, accession_system: str, rng: Random
) -> None:
    """One outcome for every order; who is paired is in use, is replaced by nobody, and has a reason that is read on this server."""
    chosen = _chosen(records, series, order, accession_system)
    shuffled = [{**one, "identifier": rng.sample(one["identifier"], len(one["identifier"]))} for one in records]
    rng.shuffle(shuffled)
    again = _chosen(shuffled, series, order, accession_system)
    assert (again and again.reference) == (chosen and chosen.reference)
    if chosen is None:
        return
    assert set(again.merged) == set(chosen.merged)
    body = next(one for one in records if f"Patient/{one['id']}" == chosen.reference)
    assert body["active"]
    assert not [link for link in body["link"] if link["type"] == "replaced-by"]
    family = {chosen.reference, *chosen.merged}
    for person in (one for one in records if f"Patient/{one['id']}" in chosen.merged):
        stated = [link["other"].get("reference", "") for link in person["link"] if link["type"] == "replaced-by"]
        assert _own(stated) <= family, "somebody else was said to stand for a patient whose data would be used"
    subjects = [one["subject"]["reference"] for one in records if one["resourceType"] != "Patient"]
    carried = [one for person in records if f"Patient/{person['id']}" in family for one in person["identifier"]]
    assert (
        _carried(series.patient, carried)
        or _own([*subjects, order.subject_reference if order else ""]) & family
        or (order is not None and order.patient is not None and _carried(order.patient, carried))
    )


def _own(references: list[str]) -> set[str]:
    return {reference.removeprefix(f"{BASE}/").split("/_history/")[0] for reference in references}


def _carried(wanted: PatientIdentifier, identifiers: list[dict[str, str]]) -> bool:
    """Tell whether an identifier is among those of a FHIR Patient; without a system it is no social security number."""
    same = [one.get("system", "") for one in identifiers if one["value"] == wanted.value]
    return any(system == wanted.system or (not wanted.system and system != SSN) for system in same)


@pytest.mark.requirement("FHIR-PAIR-001")
@settings(max_examples=300, deadline=None)
@given(RECORDS, SERIES, ORDERS, st.sampled_from(["", ACSN]), st.sampled_from(["1", "2"]))
def test_an_order_for_a_stranger_never_leaves_a_pairing_standing(
    records: list[dict[str, object]], series: object, order: Order | None, accession_system: str, value: str
) -> None:
    for stranger in (PatientIdentifier("Q-5", "http://ris.example"), PatientIdentifier("Q-5")):
        placed = Order(OrderOrigin.HL7V2, "ris", "ORM^O01 1", "ORM^O01", datetime(2026, 1, 1, tzinfo=UTC), stranger)
        assert _chosen(records, series, placed, accession_system) is None
    elsewhere = Order(OrderOrigin.FHIR, "ehr", "Task/1", "Task", datetime(2026, 1, 1, tzinfo=UTC),
                      PatientIdentifier(value, MRN), f"{ELSEWHERE}/Patient/a")  # fmt: skip
    assert _chosen(records, series, elsewhere, accession_system) is None
