"""The step that pairs a series with a patient of the EHR, over our own store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.errors import ConsentMissing
from domain.generation import GenerationRequest
from domain.identifiers import SeriesUid
from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.local.store import LocalFhirStore
from tests.builders_fhir import SALT, embedded_engine, observation, patient, research_consent, series_of, transaction
from veraicon.steps import SiteSteps


def _request() -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        series_uid=SeriesUid("2.25.1"),
        series_digest="sha256:0",
        model="m",
        seed=1,
        guidance=1.0,
        sampler_steps=1,
        requested_at=datetime(2020, 3, 16, tzinfo=UTC),
        requested_by="test",
    )


@pytest.mark.requirement("FHIR-PAIR-002")
@pytest.mark.requirement("FHIR-CTX-002")
def test_a_denial_of_the_replaced_patient_stops_the_pairing_though_the_survivor_says_nothing_of_the_merge(
    tmp_path: Path,
) -> None:
    link = [{"type": "replaced-by", "other": {"reference": "Patient/new"}}]
    with embedded_engine(tmp_path) as engine:
        store = LocalFhirStore(engine)
        steps = SiteSteps(None, EhrReader(store, salt=SALT), None, None, lambda _request_id: False)  # type: ignore[arg-type]
        store.transact(transaction(patient("old", active=False, link=link), patient("new", mrn="MRN-2"), observation(of="old")))
        series = replace(series_of("MRN-1"), acquired_at=datetime(2020, 3, 15, tzinfo=UTC))
        paired = steps.pair(_request(), series)
        assert paired.context.patient_reference == "Patient/new"
        assert [fact.source_reference for fact in paired.context.facts] == ["Observation/o1"]
        store.transact(transaction(research_consent(of="old", provision={"type": "deny"})))
        with pytest.raises(ConsentMissing):
            steps.pair(_request(), series)
