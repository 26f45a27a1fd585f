"""A recall beside what goes on at the same time, and over what was lost: nothing slips through between two looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.errors import OutputRecalled, RequestInvalid
from fhir_adapter.store import FhirStore
from provenance.recall_notice import RecallReason, read_notice
from tests.builders_recall import publish_output, request_for, request_id_of, source_of
from veraicon.pipeline import JobState
from veraicon.publishing import PREPARED, STATEMENT
from veraicon.recall import planning
from veraicon.recall.executing import Recaller
from veraicon.recall.records import CopyState
from veraicon.recall.reporting import report
from veraicon.recall.selection import Selection
from veraicon.recall.telling import Place
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


def _told(site: Site, recall_id: str) -> dict[str, Any]:
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


def test_a_recall_does_not_tick_off_what_a_late_step_has_opened_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    request = publish_output(site, 1)
    recall_id, tell, late = _begin(site, Selection(request_id=request)), Recaller._tell, [True]

    def meanwhile(*arguments: Any) -> None:
        if late.pop() if late else False:
            with pytest.raises(OutputRecalled):
                site.outputs.require_not_recalled_meanwhile(request)
        tell(*arguments)

    monkeypatch.setattr(Recaller, "_tell", meanwhile)
    assert not _carry_through(site, recall_id)
    assert _told(site, recall_id)["state"] == "open"
    assert _carry_through(site, recall_id)
    assert _told(site, recall_id)["state"] == "done"


class _Killed(BaseException):
    """The process ends here."""


def test_a_process_that_dies_before_its_second_look_is_made_up_for_by_resume(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.jobs.submit(request_for(1))
    request, transact, recalled = request_id_of(1), type(site.fhir).transact, list[str]()

    def killed(store: FhirStore, bundle: dict[str, Any]) -> object:
        if recalled:
            return transact(store, bundle)
        recalled.append(_begin(site, Selection(request_id=request)))
        assert _carry_through(site, recalled[0])
        transact(store, bundle)
        raise _Killed

    monkeypatch.setattr(type(site.fhir), "transact", killed)
    with pytest.raises(_Killed):
        publish_output(site, 1)
    assert _study_status(site, request) == "available"
    recaller = planning.recaller_of(site)
    recaller.ask_again(recaller.recalls.find(recalled[0]))
    assert _told(site, recalled[0])["state"] == "open"
    assert _carry_through(site, recalled[0])
    assert _study_status(site, request) == "entered-in-error"


def test_our_archive_hands_nothing_out_between_the_beginning_of_a_recall_and_its_hiding(site: Site) -> None:
    request = publish_output(site, 1)
    series = set(site.outputs.series(request))
    site.outputs.hand_out(series, "WS1", "c-get")
    _begin(site, Selection(request_id=request))
    with pytest.raises(OutputRecalled):
        site.outputs.hand_out({*series, "1.2.3"}, "WS2", "wado")
    assert {copy.recipient for copy in site.outputs.copies(request)} == {"archive", "WS1", "WS2"}
    site.outputs.hand_out({"1.2.3"}, "WS3", "wado")


def test_a_repeat_of_what_was_made_leaves_its_attestation_alone(site: Site) -> None:
    request = publish_output(site, 1)
    before = site.outputs.row(request)
    assert before is not None
    kept = STATEMENT.read(site.jobs.artifacts(request).folder / f"statement{STATEMENT.suffix}")
    site.outputs.made(kept, source_of(1).patient)
    after = site.outputs.row(request)
    assert after is not None
    assert before.provenance_reference.startswith("Provenance/")
    assert (after.attestation, after.provenance_reference) == (before.attestation, before.provenance_reference)


def test_a_job_that_ended_by_itself_does_not_count_as_cancelled(site: Site) -> None:
    for number in (1, 2):
        site.jobs.submit(request_for(number))
    planned = planning.plan(site, Selection(weights="hippocampus-t1"))
    site.jobs.ended(request_id_of(1), JobState.FAILED)
    recall_id = planning.begin(site, planned, reason=RecallReason.QUALITY, note="", by="me")
    for _ in range(2):
        assert _carry_through(site, recall_id)
    told = _told(site, recall_id)
    assert (told["jobs_cancelled"], told["jobs_ended_before"]) == ([request_id_of(2)], [request_id_of(1)])


def test_a_job_that_had_published_before_the_recall_began_is_recalled_as_an_output(site: Site) -> None:
    site.jobs.submit(request_for(1))
    planned = planning.plan(site, Selection(request_id=request_id_of(1)))
    request = publish_output(site, 1)
    assert [row.request_id for row in planned.jobs] == [request]
    recall_id = planning.begin(site, planned, reason=RecallReason.QUALITY, note="", by="me")
    assert _carry_through(site, recall_id)
    told = _told(site, recall_id)
    assert told["counts"]["outputs"] == 1
    assert told["jobs_cancelled"] == []
    assert _study_status(site, request) == "entered-in-error"
    notice = (planning.recaller_of(site).folder(recall_id).folder / "notice.recall.jws").read_text()
    assert [one.request_id for one in read_notice(notice, site.keyring.public_jwks()).recalled] == [request]


def test_what_one_job_has_lost_keeps_the_recall_open_and_holds_up_no_other_output(site: Site) -> None:
    lost, unreadable, fewer, emptied, files = (publish_output(site, number) for number in range(1, 6))
    whole = publish_output(site, 6)
    site.jobs.submit(request_for(1))
    prepared = {
        one: site.jobs.artifacts(one).folder / f"prepared-attestation{PREPARED.suffix}" for one in (lost, emptied, files)
    }
    for one in (lost, files):  # no job has made the files
        prepared[one].unlink()
    kept = json.loads(prepared[emptied].read_bytes())
    prepared[emptied].write_text(json.dumps({**kept, "bundle": '{"entry": []}'}))
    next((site.jobs.artifacts(unreadable).folder / "series").glob("*.dcm")).write_bytes(b"no DICOM")
    next((site.jobs.artifacts(fewer).folder / "series").glob("*.dcm")).unlink()
    recall_id = _begin(site, Selection(weights="hippocampus-t1"))
    assert not _carry_through(site, recall_id)
    told = {one["request"]: one for one in _told(site, recall_id)["outputs"]}
    problems = {lost: "has written", unreadable: "cannot be read", fewer: "3 of 4 published", emptied: "without a Provenance"}
    assert {one for one in told if told[one]["problem"]} == set(problems)
    assert all(words in told[one]["problem"] for one, words in problems.items())
    assert {one: told[one]["fhir"] for one in (lost, emptied, files, whole)} == {
        lost: None,
        emptied: None,
        files: "never written",
        whole: "withdrawn",
    }
    assert {one for one in told if told[one]["fhir_withdrawn"]} == {unreadable, fewer, whole}
    assert all(one["hidden_here"] for one in told.values())


def test_a_recall_that_asks_again_is_open_again_and_calls_whom_the_settings_know_by_now(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = publish_output(site, 1)
    recall_id = _begin(site, Selection(request_id=request))
    assert _carry_through(site, recall_id)
    with pytest.raises(OutputRecalled):
        site.outputs.hand_out(set(site.outputs.series(request)), "WS1", "c-get")
    recaller = planning.recaller_of(site)
    known: list[Place] = []
    monkeypatch.setattr("veraicon.recall.executing.place_of", lambda *_: known[0] if known else None)
    for state in (CopyState.BY_HAND, CopyState.HIDDEN):
        recaller.ask_again(recaller.recalls.find(recall_id))
        assert _told(site, recall_id)["state"] == "open"
        assert _carry_through(site, recall_id)
        assert {copy.recipient: copy.state for copy in recaller.recalls.copies(recall_id)}["WS1"] == state.value
        known.append(Place(_Empty(), lambda _note: None))  # type: ignore[arg-type]  # what is asked of a peer here


class _Empty:
    def find(self, *_arguments: object) -> list[object]:
        return []


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
