"""Jobs: what was asked, where it stands, what went wrong, and how to try again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOSClient, DBOSPortableJSONSerializer
from dbos import error as dbos_error
from pydantic import TypeAdapter
from sqlmodel import Session, col, select

from domain.errors import JobNotFound, RequestInvalid, VeraiconError
from domain.generation import GenerationRequest
from domain.identifiers import SeriesUid, derive_uuid
from veraicon.artifacts import ArtifactFolder
from veraicon.failures import error_words
from veraicon.pipeline import JobState
from veraicon.recall.outputs import require_not_recalled
from veraicon.sections import GenerationSettings
from veraicon.tables import JobRow

WORKFLOW = "generation"
QUEUE = "generation"
APPLICATION = "veraicon"
# Raised only when the order of the steps changes: a default made of the source would strand each pending job at each release.
WORKFLOW_VERSION = "2"

# receive, pair, encode, generate: until these are done there is nothing that a retry should keep.
_STEPS_BEFORE_VOLUME = 4
# After them and check; a job that was held goes on with it.
_APPROVAL_STEP = 6

_ENDING_TRIES, _ENDING_PAUSE_S = 50, 0.1

# What a person has ended: only they begin it again.
_FINAL = frozenset({JobState.CANCELLED.value, JobState.REJECTED.value})

_REQUEST = TypeAdapter(GenerationRequest)


def request_of(row: JobRow) -> GenerationRequest:
    """Return the request that a row keeps."""
    return _REQUEST.validate_python(row.request)


def _aware(moment: datetime) -> datetime:
    """Return a time with its zone: SQLite forgets it, and all of ours are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def describe(row: JobRow) -> dict[str, object]:
    """Return what anybody may see of a job: no patient data, no clinical value."""
    request = request_of(row)
    return {
        "job": row.request_id,
        "state": row.state,
        "model": request.model,
        "draw": request.draw,
        "series_uid": row.series_uid,
        "requested_by": request.requested_by,
        "requested_at": request.requested_at.isoformat(),
        "updated_at": _aware(row.updated_at).isoformat(),
        "generated_series_uid": row.generated_series_uid or None,
        "provenance": row.provenance_reference or None,
        "error": row.error,
        "decision": row.decision,
    }


def error_fields(error: VeraiconError, step: JobState, *, attempts: int) -> dict[str, object]:
    """Return an error as a job's row keeps it and the job list shows it."""
    return {**error_words(error), "step": step.value, "attempts": attempts}


def requests_for(
    series_uid: SeriesUid, digest: str, settings: GenerationSettings, *, requested_by: str
) -> list[GenerationRequest]:
    """Return the requests that the site's rule makes of a settled series; the same series state gives the same ids."""
    requests = []
    for sample in range(settings.samples):
        identity = derive_uuid("intake", series_uid, digest, settings.model, str(sample))
        requests.append(
            GenerationRequest(
                request_id=str(identity),
                series_uid=series_uid,
                series_digest=digest,
                model=settings.model,
                seed=identity.int % 2**31,
                guidance=settings.guidance,
                sampler_steps=settings.sampler_steps,
                requested_at=datetime.now(UTC),
                requested_by=requested_by,
            )
        )
    return requests


class Jobs:
    """The job table, the durable engine's queue, and the folder where each job keeps the results of its steps."""

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._client = DBOSClient(
            system_database_engine=engine, serializer=DBOSPortableJSONSerializer(), application_name=APPLICATION
        )

    @property
    def engine(self) -> sa.Engine:
        """The database that holds the table."""
        return self._engine

    def close(self) -> None:
        """Let go of the engine's client."""
        self._client.destroy()

    def artifacts(self, request_id: str) -> ArtifactFolder:
        """Return the folder that keeps the results of a job's finished steps."""
        return ArtifactFolder(self._folder / request_id)

    def submit(self, request: GenerationRequest) -> bool:
        """Keep a request and queue its workflow in one transaction; False where it was known already."""
        now = datetime.now(UTC)
        with Session(self._engine) as session:
            if session.get(JobRow, request.request_id):
                return False
            session.add(
                JobRow(
                    request_id=request.request_id,
                    state=JobState.REQUESTED.value,
                    series_uid=request.series_uid,
                    order_id=request.order_id,
                    request=_REQUEST.dump_python(request, mode="json"),
                    created_at=now,
                    updated_at=now,
                )
            )
            session.flush()
            self._client.enqueue_in_transaction(
                session.connection(),
                {"workflow_name": WORKFLOW, "queue_name": QUEUE, "workflow_id": request.request_id},
                request.request_id,
            )
            session.commit()
        return True

    def redraw(self, rejected: GenerationRequest, *, limit: int) -> str | None:
        """Ask again with another seed after a rejection, `limit` times at most; return the new job's id.

        The id derives from the rejected one, so a repeat asks for nothing new.
        """
        if rejected.draw > limit:
            return None
        identity = derive_uuid(rejected.request_id, "redraw")
        self.submit(replace(rejected, request_id=str(identity), seed=identity.int % 2**31, draw=rejected.draw + 1))
        return str(identity)

    def get(self, request_id: str) -> JobRow:
        """Return a job's row.

        Raises
        ------
        JobNotFound
            If no job has this id.
        """
        with Session(self._engine) as session:
            row = session.get(JobRow, request_id)
        if row is None:
            raise JobNotFound(
                found="a job id that is not in the database",
                allowed="an id as `veraicon job list` shows it",
                action="list the jobs, and check that --config names the same database",
            )
        return row

    def has(self, request_id: str) -> bool:
        """Return whether a job has this id."""
        with Session(self._engine) as session:
            return session.get(JobRow, request_id) is not None

    def starting_with(self, text: str) -> list[JobRow]:
        """Return up to two jobs whose ids start with `text`: enough to know whether it names one."""
        query = select(JobRow).where(col(JobRow.request_id).startswith(text, autoescape=True)).limit(2)
        with Session(self._engine) as session:
            return list(session.exec(query))

    def recent(self, *, states: Sequence[JobState] = (), limit: int = 200) -> list[JobRow]:
        """Return jobs, the one that changed last first."""
        query = select(JobRow).order_by(col(JobRow.updated_at).desc()).limit(limit)
        if states:
            query = query.where(col(JobRow.state).in_([state.value for state in states]))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def of_order(self, order_id: str) -> list[JobRow]:
        """Return the jobs of an order, redraws too, the oldest first."""
        query = select(JobRow).where(col(JobRow.order_id) == order_id).order_by(col(JobRow.created_at), col(JobRow.request_id))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def changed_since(self, moment: datetime) -> list[JobRow]:
        """Return jobs that changed at or after a moment, the one that changed first at the head."""
        query = select(JobRow).where(col(JobRow.updated_at) >= moment).order_by(col(JobRow.updated_at))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def made_by_us(self, series_uid: str) -> bool:
        """True if a series is one that we published: it is never a source again."""
        with Session(self._engine) as session:
            return session.exec(select(JobRow).where(JobRow.generated_series_uid == series_uid)).first() is not None

    def reached(self, request_id: str, state: JobState, facts: Mapping[str, str]) -> None:
        """Note that a step finished; the last error is history then."""
        self._change(request_id, {"state": state.value, "error": None, **facts})

    def tried(self, request_id: str, step: JobState, error: VeraiconError) -> None:
        """Note that an attempt at a step failed."""
        before = self.get(request_id).error or {}
        attempts = int(str(before.get("attempts", 0))) + 1
        self._change(request_id, {"error": error_fields(error, step, attempts=attempts)})

    def ended(self, request_id: str, state: JobState) -> None:
        """Note how a job ended; its last error stays visible."""
        self._change(request_id, {"state": state.value})

    def retry(self, request_id: str) -> JobRow:
        """Queue a failed or cancelled job again.

        Where a volume was generated already, the job goes on with the step that failed. Before that it starts anew, since
        what was mended (settings, EHR, series) may lie in an earlier step.

        Raises
        ------
        RequestInvalid
            If the job is still under way, has succeeded or was rejected.
        OutputRecalled
            If it was recalled.
        """
        row = self.get(request_id)
        require_not_recalled(self._engine, request_id)
        state = JobState(row.state)
        if state not in {JobState.FAILED, JobState.CANCELLED}:
            raise RequestInvalid(
                found=f"a job in state {row.state}",
                allowed="failed or cancelled",
                action="wait for it, or make a new request: a rejected volume needs another seed or value",
            )
        finished = self._client.list_workflow_steps(request_id)
        again = [step["function_id"] for step in finished if step["error"] is not None or _is_last_and_held(step, finished)]
        first = min(again, default=len(finished) + 1)
        values: dict[str, object] = {"state": JobState.REQUESTED.value, "error": None}
        if first <= _STEPS_BEFORE_VOLUME:
            first, values["decision"] = 1, None  # what a person has seen is not what comes next
            shutil.rmtree(self._folder / request_id, ignore_errors=True)
        self._rewind(request_id, first)
        self._change(request_id, values, only_from=state)
        return self.get(request_id)

    def continue_held(self, request_id: str) -> bool:
        """Queue a held job again from its approval on; False where it is no longer held, or not yet at rest."""
        if self.get(request_id).state != JobState.HELD.value or not self._rewound(request_id, _APPROVAL_STEP):
            return False
        self._change(request_id, {"state": JobState.CHECKED.value}, only_from=JobState.HELD)
        return True

    def _rewind(self, request_id: str, first: int) -> None:
        """Queue the workflow again; the engine ends it a moment after the job's own row says so."""
        for _ in range(_ENDING_TRIES):
            if self._rewound(request_id, first):
                return
            time.sleep(_ENDING_PAUSE_S)
        raise RequestInvalid(
            found="a job whose last step has not come back yet", allowed="a job that has ended", action="try again in a moment"
        )

    def _rewound(self, request_id: str, first: int) -> bool:
        """Queue the workflow again from a step on; False where it is still under way."""
        try:
            self._client.rewind_workflow(request_id, start_step=first, queue_name=QUEUE, application_version=WORKFLOW_VERSION)
        except dbos_error.DBOSException:
            return False
        return True

    def cancel(self, request_id: str) -> JobRow:
        """Stop a job before its next step, and its denoising loop between two steps."""
        row = self.get(request_id)
        if JobState(row.state).ended:
            raise RequestInvalid(found=f"a job in state {row.state}", allowed="one under way", action="nothing to cancel")
        self._client.cancel_workflow(request_id)
        self._change(request_id, {"state": JobState.CANCELLED.value})
        return self.get(request_id)

    def cancelled(self, request_id: str) -> bool:
        """True if someone cancelled the job."""
        return self.get(request_id).state == JobState.CANCELLED.value

    def timings(self, request_id: str) -> list[tuple[str, float]]:
        """Return the name and the seconds of each step that finished, in order."""
        steps = self._client.list_workflow_steps(request_id)
        return [
            (step["function_name"], (step["completed_at_epoch_ms"] - step["started_at_epoch_ms"]) / 1000)
            for step in steps
            if step["started_at_epoch_ms"] is not None and step["completed_at_epoch_ms"] is not None
        ]

    def take_over(self, worker_ids: Sequence[str]) -> int:
        """Queue the jobs again that dead workers held; returns how many."""
        held = self._client.list_workflows(status="PENDING", executor_id=list(worker_ids)) if worker_ids else []
        for workflow in held:
            self._client.resume_workflow(workflow.workflow_id, queue_name=QUEUE)
        return len(held)

    def _change(self, request_id: str, values: Mapping[str, object], *, only_from: JobState | None = None) -> None:
        with Session(self._engine) as session:
            row = session.get(JobRow, request_id)
            if row is None or (only_from and row.state != only_from.value):
                return
            if row.state in _FINAL and (only_from is None or row.state != only_from.value):
                return  # a step that was under way when someone cancelled or refused does not undo it
            for name, value in values.items():
                setattr(row, name, value)
            row.updated_at = datetime.now(UTC)
            session.add(row)
            session.commit()


def _is_last_and_held(step: Mapping[str, Any], finished: Sequence[Mapping[str, Any]]) -> bool:
    """True of an approval that ended in waiting: it is asked again, whatever the engine recorded of it."""
    return step is finished[-1] and step["function_name"] == JobState.APPROVED.value
