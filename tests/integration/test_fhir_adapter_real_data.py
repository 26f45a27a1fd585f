"""All of the real-shaped data that lies beside the checkout: 14 Synthea patients, and US Core's examples."""

from __future__ import annotations

import runpy
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fhir_adapter.clinical.context import clinical_context
from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.clinical.statements import READERS
from fhir_adapter.json_text import parse_json
from fhir_adapter.local.intake import prepare_intake
from fhir_adapter.local.store import LocalFhirStore
from fhir_adapter.store import RawResource
from tests.builders_fhir import SALT, embedded_engine, patient, raw, series_of, synthea_bundles

pytestmark = pytest.mark.peer("fhir-data")
AFTER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def synthea(data_folder):
    return synthea_bundles(data_folder("fhir/synthea-r4"))


@pytest.fixture
def store(tmp_path):
    with embedded_engine(tmp_path) as engine:
        yield LocalFhirStore(engine)


def test_every_synthea_patient_loads_alone_and_is_found_and_read(store, synthea):
    reader, facts, left_out = EhrReader(store, salt=SALT), 0, Counter()
    for bundle in synthea:
        written = store.transact(prepare_intake(bundle))
        assert len(written) == len(bundle["entry"])
        person = bundle["entry"][0]["resource"]
        stated = person["identifier"][0]
        (candidate,) = reader.pairing_sources(series_of(stated["value"], stated["system"])).candidates
        context = reader.snapshot(candidate.reference, AFTER)
        assert (context.birth_date, context.sex) == (person["birthDate"], person["gender"])
        facts += len(context.facts)
        left_out.update({entry.reason: entry.count for entry in context.left_out})
    assert len(synthea) == 14
    assert facts == 2293
    assert left_out == {
        "DiagnosticReport: no conclusion": 101,
        "Encounter: after the patient's death": 4,  # Synthea certifies each death after it
        "Observation: after the patient's death": 4,
    }


def test_loading_everything_twice_makes_no_second_patient(store, synthea):
    for bundle in synthea[:2] * 2:
        store.transact(prepare_intake(bundle))
    assert {resource.body["meta"]["versionId"] for resource in store.search("Patient", {})} == {"1"}
    assert len(list(store.search("Patient", {}))) == 2


def test_hospitals_and_practitioners_load_too(store, data_folder):
    for name in ("hospitalInformation1559319163815.json", "practitionerInformation1559319163815.json"):
        store.transact(prepare_intake(parse_json((data_folder("fhir/synthea-r4") / name).read_bytes())))
    assert [len(list(store.search(kind, {}))) for kind in ("Organization", "Practitioner")] == [102, 102]


@pytest.mark.requirement("FHIR-CTX-001")
def test_context_as_of_an_earlier_time_is_a_part_of_the_later_one(synthea):
    bundle = max(synthea, key=lambda one: len(one["entry"]))
    resources = [RawResource(entry["resource"]) for entry in bundle["entry"]]
    person, rest = resources[0], [r for r in resources[1:] if r.resource_type in READERS]
    for resource in rest:
        resource.body["patient" if "patient" in resource.body else "subject"]["reference"] = person.reference
    previous: set[str] = set()
    for year in range(2005, 2021, 3):
        as_of = datetime(year, 6, 1, tzinfo=UTC)
        context = clinical_context(person, rest, as_of=as_of, salt=SALT, consent="")
        sources = {fact.source_reference for fact in context.facts}
        assert previous <= sources
        assert all(fact.effective_at is None or fact.effective_at <= as_of for fact in context.facts)
        previous = sources
    assert len(previous) > 300


def test_us_core_examples_become_facts_or_a_counted_reason(data_folder):
    facts, left_out = 0, Counter()
    paths = sorted(data_folder("fhir/us-core-examples").glob("*.json"))
    for path in paths:
        resource = parse_json(path.read_bytes())
        for name in ("subject", "patient"):
            if isinstance(resource.get(name), dict):
                resource[name] = {"reference": "Patient/p1"}
        context = clinical_context(raw(patient())[0], raw(resource), as_of=AFTER, salt=SALT, consent="")
        assert context.facts or context.left_out
        facts += len(context.facts)
        left_out.update({entry.reason: entry.count for entry in context.left_out})
    assert len(paths) == 154
    assert facts == 106
    assert not [reason for reason in left_out if reason.startswith("invalid")]
    assert left_out["Observation: unit is not UCUM"] == 2
    assert left_out["Observation: value absent"] == 1


def test_the_counts_in_the_documentation_are_those_of_the_data(data_folder):
    told = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "make_clinical_table.py"))
    page = told["PAGE"].read_text(encoding="utf-8")
    between = page.split(told["BEGIN"])[1].split(told["END"])[0]
    assert between.strip() == told["tables"](data_folder("fhir/synthea-r4").parent).strip()


def test_two_thousand_resources_are_read_well_within_a_second_and_a_half(synthea):
    resources = [RawResource({**e["resource"], "subject": {"reference": "Patient/p1"}})
                 for bundle in synthea for e in bundle["entry"] if e["resource"]["resourceType"] in READERS and "patient" not in e["resource"]][:2000]  # fmt: skip
    assert len(resources) > 1900
    start = time.process_time()
    clinical_context(raw(patient())[0], resources, as_of=AFTER, salt=SALT, consent="")
    assert time.process_time() - start < 1.5
