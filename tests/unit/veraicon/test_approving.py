"""Decisions about held jobs: one is heard, a repeat changes nothing, and only what waits is decided about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session

from domain.errors import ApprovalAwaited, ApprovalRefused, JobNotHeld, RequestInvalid
from domain.generation import GenerationRequest
from domain.identifiers import SeriesUid
from tests.builders_dicom import generated_phantom
from veraicon.approving import Approvals
from veraicon.database import connect, migrate
from veraicon.jobs import Jobs, describe
from veraicon.pipeline import JobState
from veraicon.settings import load_settings
from veraicon.steps import SiteSteps
from veraicon.tables import JobRow

_REQUEST = GenerationRequest(
    "request-1", SeriesUid("1.2.3"), "sha256:" + "0" * 64, "tiny", 1, 1.0, 2, datetime(2026, 1, 2, tzinfo=UTC), "test"
)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """One job that the engine has queued and nobody runs."""
    engine = connect(load_settings(storage={"folder": str(tmp_path / "data")}))
    migrate(engine)
    jobs = Jobs(engine, tmp_path / "jobs")
    jobs.submit(_REQUEST)
    yield jobs
    jobs.close()
    engine.dispose()


def _set(jobs: Jobs, state: JobState) -> None:
    with Session(jobs.engine) as session:
        row = session.get(JobRow, "request-1")
        assert row is not None
        row.state = state.value
        session.add(row)
        session.commit()


@pytest.mark.requirement("PROV-APPROVE-001")
@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.HELD])
def test_only_a_job_that_waits_is_decided_about(jobs: Jobs, state: JobState) -> None:
    _set(jobs, state)
    with pytest.raises(JobNotHeld, match=state.value):
        Approvals(jobs).approve("request-1", by="radiologist")
    with pytest.raises(JobNotHeld, match=state.value):
        Approvals(jobs).reject("request-1", by="radiologist", reason="blurred")
    assert jobs.get("request-1").decision is None


@pytest.mark.requirement("PROV-APPROVE-001")
def test_a_second_approval_changes_nothing_and_a_refusal_comes_too_late(jobs: Jobs) -> None:
    _set(jobs, JobState.HELD)
    approvals = Approvals(jobs)
    approvals.approve("request-1", by=" dr-1 ", note="seen at the console")
    approvals.approve("request-1", by="dr-2")
    with pytest.raises(JobNotHeld, match="approved"):
        approvals.reject("request-1", by="dr-3", reason="too late")
    approval = approvals.approval("request-1")
    assert approval is not None
    assert (approval.kind, approval.by) == ("person", "dr-1")
    assert describe(jobs.get("request-1"))["decision"] == jobs.get("request-1").decision


@pytest.mark.requirement("PROV-APPROVE-001")
def test_a_refusal_ends_the_job_and_a_late_step_does_not_revive_it(jobs: Jobs) -> None:
    _set(jobs, JobState.HELD)
    approvals = Approvals(jobs)
    approvals.reject("request-1", by="dr-1", reason="the left horn is cut off")
    with pytest.raises(JobNotHeld, match="refused"):
        approvals.approve("request-1", by="dr-2")
    with pytest.raises(ApprovalRefused):
        approvals.approval("request-1")
    jobs.reached("request-1", JobState.HELD, {})
    row = jobs.get("request-1")
    assert row.state == JobState.REJECTED.value
    assert row.error is not None
    assert row.error["code"] == ApprovalRefused.code
    assert "horn" not in str(row.error), "a person's words stay in the decision"


@pytest.mark.parametrize("by", ["", "   ", "x" * 65, "dr\n1"])
def test_a_decision_names_who_decides(jobs: Jobs, by: str) -> None:
    _set(jobs, JobState.HELD)
    with pytest.raises(RequestInvalid):
        Approvals(jobs).approve("request-1", by=by)
    assert jobs.get("request-1").decision is None


def test_an_approved_job_whose_approver_was_cut_off_is_taken_up_by_a_worker(jobs: Jobs) -> None:
    """Here the engine still holds the workflow, as after a crash right behind the decision; it is tried again at each beat."""
    _set(jobs, JobState.HELD)
    approvals = Approvals(jobs)
    approvals.approve("request-1", by="dr-1")
    assert jobs.get("request-1").state == JobState.HELD.value
    assert approvals.continue_approved() == 0
    jobs._client.cancel_workflow("request-1")
    assert approvals.continue_approved() == 1
    assert jobs.get("request-1").state == JobState.CHECKED.value
    assert approvals.continue_approved() == 0


def test_without_a_person_the_gates_approve_at_the_time_of_generation() -> None:
    generated = generated_phantom()
    steps = SiteSteps.__new__(SiteSteps)
    object.__setattr__(steps, "decided", lambda _request_id: None)
    object.__setattr__(steps, "needs_person", False)
    approval = steps.approve(_REQUEST, generated, None)  # type: ignore[arg-type]  # the report is not looked at
    assert (approval.kind, approval.at) == ("automatic", _REQUEST.requested_at)
    object.__setattr__(steps, "needs_person", True)
    with pytest.raises(ApprovalAwaited):
        steps.approve(_REQUEST, generated, None)  # type: ignore[arg-type]
