"""What single steps of the story do with what a series does not say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from domain.clinical import ClinicalContext, ClinicalFact
from domain.generation import GenerationRequest
from domain.identifiers import PatientIdentifier
from domain.pairing import PatientCandidate
from fhir_adapter.clinical.patients import PairingSources
from tests.builders_dicom import source_series
from veraicon.steps import SiteSteps

_NOW = datetime(2026, 1, 2, tzinfo=UTC)


class _Ehr:
    """One patient with one fact."""

    def pairing_sources(self, *_of: object) -> PairingSources:
        return PairingSources((PatientCandidate("Patient/p1", (PatientIdentifier("P-1"),)),), (), ())

    def snapshot(self, reference: str, as_of: datetime, *_more: object) -> ClinicalContext:
        fact = ClinicalFact((), "BMI", 27.5, "kg/m2", _NOW, "Observation/o1")
        return ClinicalContext(reference, None, None, as_of, (fact,), "sha256:0")


@pytest.mark.requirement("FHIR-CTX-001")
def test_a_series_without_an_imaging_time_is_paired_and_conditions_on_no_fact() -> None:
    parts: Any = SimpleNamespace()
    steps = SiteSteps(archive=parts, ehr=_Ehr(), model=parts, publisher=parts, cancelled=lambda _request_id: False)  # type: ignore[arg-type]
    series = source_series()
    request = GenerationRequest("request-1", series.series_uid, "sha256:0", "tiny", 1, 1.0, 2, _NOW, "test")
    assert len(steps.pair(request, series).context.facts) == 1
    context = steps.pair(request, replace(series, acquired_at=None)).context
    assert (context.facts, context.as_of) == ((), _NOW)
    assert context.missing == ("imaging time: the series states none, so no fact is used",)
