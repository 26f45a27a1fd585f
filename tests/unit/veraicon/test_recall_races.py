"""A recall beside what goes on at the same time, and over what was lost: nothing slips through between two looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.errors import OutputRecalled, RequestInvalid
from fhir_adapter.store import FhirStore
from provenance.recall_notice import RecallReason, read_notice
from tests.builders_recall import publish_output, request_for, request_id_of
from veraicon.publishing import PREPARED
from veraicon.recall import planning
from veraicon.recall.records import CopyState
from veraicon.recall.reporting import report
from veraicon.recall.selection import Selection
from veraicon.recall.withdrawing import references_in
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

pytestmark = pytest.mark.requirement("PROV-RECALL-004")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as parts:
        yield parts


def _begin(site: Site, selection: Selection) -> str:
    return planning.begin(site, planning.plan(site, selection), reason=RecallReason.QUALITY, note="", by="me")


def _carry_through(site: Site, recall_id: str) -> bool:
    recaller = planning.recaller_of(site)
    return recaller.carry_through(recaller.recalls.find(recall_id))


def _told(site: Site, recall_id: str) -> dict[str, object]:
    recaller = planning.recaller_of(site)
    return report(recaller, recaller.recalls.find(recall_id))


def _study_status(site: Site, request: str) -> str:
    prepared = PREPARED.read(site.jobs.artifacts(request).folder / f"prepared-attestation{PREPARED.suffix}")
    study = next(one for one in references_in(prepared.bundle) if one.startswith("ImagingStudy/"))
    return str(site.fhir.read(study).body["status"])


def test_a_copy_is_noted_before_it_may_leave(site: Site) -> None:
    request = publish_output(site, 1)
    _begin(site, Selection(request_id=request))
    with pytest.raises(OutputRecalled):
        site.outputs.leaving(request, "late", "dicom")
    assert "late" in {copy.recipient for copy in site.outputs.copies(request)}, "a recall that began before this look sees it"


def test_resources_that_land_while_a_recall_goes_by_are_withdrawn_by_its_resume(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[str] = []
    transact = type(site.fhir).transact

    def meanwhile(store: FhirStore, bundle: dict[str, object]) -> object:
        if not recalled:
            recalled.append(_begin(site, Selection(request_id=request_id_of(1))))
            assert _carry_through(site, recalled[0]), "nothing was written when it looked"
        return transact(store, bundle)  # type: ignore[arg-type]  # the local store of this site

    monkeypatch.setattr(type(site.fhir), "transact", meanwhile)
    with pytest.raises(OutputRecalled):
        publish_output(site, 1)
    assert _told(site, recalled[0])["state"] == "open"
    assert _study_status(site, request_id_of(1)) == "available"
    assert _carry_through(site, recalled[0])
    assert _study_status(site, request_id_of(1)) == "entered-in-error"


def test_a_job_that_had_published_before_the_recall_began_is_recalled_as_an_output(site: Site) -> None:
    site.jobs.submit(request_for(1))
    planned = planning.plan(site, Selection(request_id=request_id_of(1)))
    request = publish_output(site, 1)
    assert [row.request_id for row in planned.jobs] == [request]
    recall_id = planning.begin(site, planned, reason=RecallReason.QUALITY, note="", by="me")
    assert _carry_through(site, recall_id)
    told = _told(site, recall_id)
    assert told["counts"]["outputs"] == 1  # type: ignore[index]
    assert told["jobs_cancelled"] == []
    assert _study_status(site, request) == "entered-in-error"
    notice = (planning.recaller_of(site).folder(recall_id).folder / "notice.recall.jws").read_text()
    assert [one.request_id for one in read_notice(notice, site.keyring.public_jwks()).recalled] == [request]


def test_what_one_job_has_lost_keeps_the_recall_open_and_holds_up_no_other_output(site: Site) -> None:
    lost, unreadable, whole = (publish_output(site, number) for number in (1, 2, 3))
    site.jobs.submit(request_for(1))
    (site.jobs.artifacts(lost).folder / f"prepared-attestation{PREPARED.suffix}").unlink()
    next((site.jobs.artifacts(unreadable).folder / "series").glob("*.dcm")).write_bytes(b"no DICOM")
    recall_id = _begin(site, Selection(weights="hippocampus-t1"))
    assert not _carry_through(site, recall_id)
    told = {one["request"]: one for one in _told(site, recall_id)["outputs"]}  # type: ignore[attr-defined]
    assert told[whole]["done"]
    assert "has written" in told[lost]["problem"]
    assert not told[lost]["fhir_withdrawn"]
    assert "cannot be read" in told[unreadable]["problem"]
    assert all(one["hidden_here"] for one in told.values())


def test_a_recall_that_asks_again_is_open_again(site: Site) -> None:
    request = publish_output(site, 1)
    recall_id = _begin(site, Selection(request_id=request))
    assert _carry_through(site, recall_id)
    site.outputs.hand_out(set(site.outputs.series(request)), "WS1", "c-get")
    recaller = planning.recaller_of(site)
    recaller.ask_again(recaller.recalls.find(recall_id))
    assert _told(site, recall_id)["state"] == "open"
    assert _carry_through(site, recall_id)
    states = {copy.recipient: copy.state for copy in recaller.recalls.copies(recall_id)}
    assert states["WS1"] == CopyState.BY_HAND.value


def test_only_a_named_person_lifts_and_only_what_refuses_a_source(site: Site) -> None:
    recalls = planning.recaller_of(site).recalls
    quality = recalls.find(_begin(site, Selection(request_id=publish_output(site, 1))))
    with pytest.raises(RequestInvalid, match="refuses no source"):
        recalls.lift(quality, by="me")
    both = Selection(patient_tokens=("mistyped",), source_study="1.2.3")
    planned = planning.plan(site, both)
    consent = recalls.find(planning.begin(site, planned, reason=RecallReason.CONSENT, note="", by="me"))
    assert (consent.blocked_patients, consent.blocked_study) == (["mistyped"], "1.2.3")
    with pytest.raises(RequestInvalid, match="nobody"):
        recalls.lift(consent, by=" ")
    assert json.dumps(consent.selection)
