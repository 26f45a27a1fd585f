"""What the record knew at the imaging time, where it does not say when it was told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fhir_adapter.clinical.context import clinical_context, without_facts
from tests.builders_fhir import SALT, SCAN, concept, condition, observation, patient, raw, without_none

pytestmark = pytest.mark.requirement("FHIR-CTX-001")
LOADED = {"lastUpdated": "2026-01-01T00:00:00Z"}
MADE, CHANGED = "made from this scan", "changed after the imaging time, and no time of record"


def used(*resources, as_of=SCAN):
    context = clinical_context(raw(patient())[0], raw(*resources), as_of=as_of, salt=SALT, consent="checked")
    reasons = {entry.reason.split(": ", 1)[1] for entry in context.left_out}
    return {fact.source_reference for fact in context.facts}, reasons


def measured(identity="o1", **more):
    return observation(identity, **{"issued": None, "meta": LOADED, **more})


def base(kind, identity, **more):
    return without_none({"resourceType": kind, "id": identity, "subject": {"reference": "Patient/p1"}, "meta": LOADED, **more})


def scan(**more):
    return base("ImagingStudy", "s", status="available", modality=[{"code": "MR"}], started="2020-03-15T09:20:00Z", **more)


def report(identity="d", **more):
    return base("DiagnosticReport", identity, status="final", code=concept("24590-2", "MR Brain"), conclusion="Atrophy", **more)


def to(*references):
    return [{"reference": one} for one in references]


def test_the_history_of_a_server_that_was_loaded_later_counts():
    history = [measured(), condition(recordedDate=None, meta=LOADED), report(effectiveDateTime="2019-03-01")]
    references, reasons = used(*history)
    assert (references, reasons) == ({"Observation/o1", "Condition/c1", "DiagnosticReport/d"}, set())


@pytest.mark.parametrize("dated", ["2020-03-15", "2020-03-15T09:25:00Z"])
def test_what_is_dated_the_imaging_day_and_was_changed_after_it_does_not_count(dated):
    assert used(measured(effectiveDateTime=dated)) == (set(), {CHANGED})
    at_once = {"lastUpdated": "2020-03-15T09:26:00Z"}
    assert used(measured(effectiveDateTime="2020-03-15T09:25:00Z", meta=at_once))[0] == {"Observation/o1"}
    assert used(measured(effectiveDateTime="2020-03-15T09:25:00Z", issued="2020-03-15T09:26:00Z"))[0] == {"Observation/o1"}


def test_a_late_change_counts_where_the_server_is_shown_to_have_held_that_type_at_the_scan():
    late = condition("late", recordedDate=None, onsetDateTime="2010", meta=LOADED)
    early = condition("early", recordedDate=None, meta={"lastUpdated": "2020-03-02T00:00:00Z"})
    assert used(late)[0] == {"Condition/late"}
    assert used(late, measured(meta=early["meta"]))[0] == {"Condition/late", "Observation/o1"}
    assert used(late, early) == ({"Condition/early"}, {CHANGED})


@pytest.mark.parametrize(
    "made",
    [
        [report(imagingStudy=to("ImagingStudy/s"), effectiveDateTime="2020-03-14")],
        [report(basedOn=to("ServiceRequest/r"), effectiveDateTime="2020-03-14")],
        [measured(derivedFrom=to("https://ehr.example/fhir/ImagingStudy/s/_history/2"))],
        [measured(partOf=to("ImagingStudy/s"))],
        [report(imagingStudy=to("ImagingStudy/s"), result=to("Observation/o1"), effectiveDateTime="2020-03-14"), measured()],
        [measured("o1", hasMember=to("Observation/o2"), derivedFrom=to("ImagingStudy/s")), measured("o2")],
        [condition(recordedDate="2020-03-15", evidence=[{"detail": to("DiagnosticReport/d")}]),
         report(imagingStudy=to("ImagingStudy/s"), effectiveDateTime="2020-03-14")],
    ],
)  # fmt: skip
def test_what_was_made_from_this_scan_does_not_count_whatever_it_is_dated(made):
    references, reasons = used(scan(basedOn=to("ServiceRequest/r")), *made)
    assert references <= {"ImagingStudy/s"}
    assert MADE in reasons


def test_a_record_time_before_the_scan_or_an_older_study_speaks_for_a_result():
    earlier = report(imagingStudy=to("ImagingStudy/s"), effectiveDateTime="2020-03-15", issued="2020-03-15T09:00:00Z")
    assert "DiagnosticReport/d" in used(scan(), earlier)[0]
    older = scan() | {"started": "2019-03-15T09:20:00Z"}
    assert "DiagnosticReport/d" in used(older, earlier | {"effectiveDateTime": "2019-03-15", "issued": None})[0]


def test_results_that_lead_to_each_other_in_a_ring_end():
    ring = [measured(f"o{n}", derivedFrom=to(f"Observation/o{(n + 1) % 50}", "ImagingStudy/s")) for n in range(50)]
    assert used(scan(), *ring)[1] >= {MADE}


def test_a_series_without_an_imaging_time_uses_no_fact_and_says_so():
    context = clinical_context(
        raw(patient())[0], raw(observation()), as_of=datetime(2026, 1, 1, tzinfo=UTC), salt=SALT, consent="checked"
    )
    bare = without_facts(context)
    assert (bare.facts, bare.snapshot_digest) == ((), context.snapshot_digest)
    assert [(entry.reason, entry.count) for entry in bare.left_out] == [("no imaging time", 1)]
    assert "imaging time: the series states none, so no fact is used" in bare.missing
