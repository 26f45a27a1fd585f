"""The durable form of the story: each step runs once to its end, and a restart resumes after the last finished one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog
from dbos import DBOS

from domain.attestation import Attestation
from domain.errors import ApprovalAwaited, QualityRejection, Retry, VeraiconError
from domain.generation import Publication
from veraicon import faults
from veraicon.artifacts import Codec
from veraicon.failures import as_ours
from veraicon.jobs import WORKFLOW, Jobs, request_of
from veraicon.pipeline import JobState, Steps, tell
from veraicon.sections import WorkerSettings

Result = TypeVar("Result")
_log = structlog.get_logger()


class DurableRecorder:
    """Runs each step under the durable engine and keeps its result in the job's folder.

    The engine records only that a step finished; the result itself lies in a file, so no patient data enters its tables.
    Between the step's effect and the engine's record a step may run again, hence each outside effect is a PUT or a derived UID.
    """

    def __init__(self, jobs: Jobs, request_id: str, codecs: Mapping[JobState, Codec[Any]], settings: WorkerSettings) -> None:
        self._jobs, self._request_id, self._codecs, self._settings = jobs, request_id, codecs, settings
        self._folder = jobs.artifacts(request_id)

    def __call__(self, state: JobState, step: Callable[..., Result], *arguments: object) -> Result:
        """Return the step's result; see `veraicon.pipeline.Recorder`."""
        codec: Codec[Result] = self._codecs[state]

        def take_effect() -> Result:
            result = step(*arguments)
            faults.reach(f"{state.value}:effect")
            return result

        def attempt() -> str:
            faults.reach(f"{state.value}:start")
            try:
                result = self._folder.once(state.value, codec, take_effect)
            except ApprovalAwaited:  # no failure: the engine notes that the step was reached, and the story stops below
                self._jobs.reached(self._request_id, JobState.HELD, {})
                return JobState.HELD.value
            except Exception as caught:  # the edge: every failure is kept with the job, then goes on
                error = as_ours(caught)
                self._jobs.tried(self._request_id, state, error)
                _log.warning("step failed", action="step", request_id=self._request_id, step=state.value, code=error.code)
                raise error from caught
            self._jobs.reached(self._request_id, state, _facts_for_row(result))
            faults.reach(f"{state.value}:done")
            _log.info("step finished", action="step", request_id=self._request_id, step=state.value)
            return state.value

        DBOS.run_step(
            {
                "name": state.value,
                "retries_allowed": True,
                "max_attempts": self._settings.attempts,
                "interval_seconds": self._settings.first_delay_s,
                "backoff_rate": 2.0,
                "should_retry": lambda error: isinstance(error, VeraiconError) and error.retry is Retry.BY_ITSELF,
            },
            attempt,
        )
        # Also where an approval was awaited: it raises here, outside the engine's record, or has come meanwhile.
        return self._folder.once(state.value, codec, lambda: step(*arguments))


def _facts_for_row(result: object) -> dict[str, str]:
    """What the job list shows of a result: UIDs and references of ours."""
    if isinstance(result, Publication):
        return {"generated_series_uid": result.series.series_uid}
    if isinstance(result, Attestation):
        return {"provenance_reference": result.provenance_reference}
    return {}


def register(
    steps: Steps, jobs: Jobs, codecs: Mapping[JobState, Codec[Any]], settings: WorkerSettings, *, redraws: int
) -> None:
    """Register the workflow under its name; call once before `DBOS.launch`."""

    @DBOS.workflow(name=WORKFLOW)
    def generation(request_id: str) -> str:
        request = request_of(jobs.get(request_id))
        try:
            tell(steps, request, DurableRecorder(jobs, request_id, codecs, settings))
        except ApprovalAwaited:
            jobs.reached(request_id, JobState.HELD, {})
            _log.info("volume held for approval", action="approve", request_id=request_id)
            return JobState.HELD.value
        except QualityRejection as rejection:
            jobs.tried(request_id, JobState.CHECKED, rejection)
            # The next draw first: nobody may see an order all of whose jobs have ended while one is still to come.
            again = jobs.redraw(request, limit=redraws)
            jobs.ended(request_id, JobState.REJECTED)
            _log.info("volume rejected", action="check", request_id=request_id, redraw=again)
            return JobState.REJECTED.value
        except Exception:  # also the errors that the engine replays from its record; cancellation is no Exception
            jobs.ended(request_id, JobState.FAILED)
            raise
        return JobState.ATTESTED.value
