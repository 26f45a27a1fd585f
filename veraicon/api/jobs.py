"""Jobs and requests over HTTP."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from domain.errors import RequestInvalid
from veraicon.approving import Approvals
from veraicon.asking import asked_fact, request_from
from veraicon.jobs import describe
from veraicon.pipeline import JobState
from veraicon.wiring import Site


class AskedValue(BaseModel):
    """A value, or the answer of a coded concept, that the volume has to obey; without a unit it is in the concept's own."""

    model_config = ConfigDict(extra="forbid")
    concept: str
    value: float | str
    unit: str = ""


class NewRequest(BaseModel):
    """What a caller asks for."""

    model_config = ConfigDict(extra="forbid")
    series_uid: str
    seed: int | None = Field(None, ge=0, lt=2**31)
    asked: list[AskedValue] = []


class NewApproval(BaseModel):
    """Who approves a held volume."""

    model_config = ConfigDict(extra="forbid")
    by: str
    note: str = ""


class NewRefusal(BaseModel):
    """Who refuses a held volume, and why."""

    model_config = ConfigDict(extra="forbid")
    by: str
    reason: str


def router(site: Site) -> APIRouter:
    """Return the routes of jobs and requests."""
    routes = APIRouter()
    approvals = Approvals(site.jobs)

    @routes.get("/jobs")
    def list_jobs(state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """List jobs, the one that changed last first."""
        states = [_state(state)] if state else []
        return [describe(row) for row in site.jobs.recent(states=states, limit=min(limit, 1000))]

    @routes.get("/jobs/{request_id}")
    def show_job(request_id: str) -> dict[str, Any]:
        """Show one job."""
        return describe(site.jobs.get(request_id))

    @routes.post("/jobs/{request_id}/retry", status_code=202)
    def retry_job(request_id: str) -> dict[str, Any]:
        """Queue a failed job again."""
        return describe(site.jobs.retry(request_id))

    @routes.post("/jobs/{request_id}/cancel", status_code=202)
    def cancel_job(request_id: str) -> dict[str, Any]:
        """Cancel a job that is under way."""
        return describe(site.jobs.cancel(request_id))

    @routes.post("/jobs/{request_id}/approve", status_code=202)
    def approve_job(request_id: str, decision: NewApproval) -> dict[str, Any]:
        """Let a held volume be published; a second approval changes nothing."""
        return describe(approvals.approve(request_id, by=decision.by, note=decision.note))

    @routes.post("/jobs/{request_id}/reject", status_code=202)
    def reject_job(request_id: str, decision: NewRefusal) -> dict[str, Any]:
        """End a held job without publishing anything."""
        return describe(approvals.reject(request_id, by=decision.by, reason=decision.reason))

    @routes.post("/requests", status_code=202)
    def new_request(wanted: NewRequest) -> dict[str, Any]:
        """Ask for one volume from a series that we hold."""
        request = request_from(
            site.archive,
            wanted.series_uid,
            site.settings.generation,
            requested_by="http",
            seed=wanted.seed,
            asked=tuple(asked_fact(item.concept, item.value, item.unit) for item in wanted.asked),
        )
        site.outputs.require_consent(site.archive.series(request.series_uid))
        site.jobs.submit(request)
        return describe(site.jobs.get(request.request_id))

    return routes


def _state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError as error:
        raise RequestInvalid(
            found="an unknown job state", allowed=", ".join(state.value for state in JobState), action="correct the parameter"
        ) from error
