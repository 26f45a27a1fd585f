"""What a person decides about a volume that passed its checks and waits: it is published, or it ends here.

The decision is one conditional change of the job's row, so of two people who decide at once one is heard and the other is told.
From then on it holds: a worker that finds an approved job still waiting takes it up (`veraicon.heartbeat`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlmodel import Session, col, select

from domain.attestation import Approval
from domain.errors import ApprovalRefused, JobNotHeld, RequestInvalid
from veraicon.jobs import Jobs, error_fields
from veraicon.pipeline import JobState
from veraicon.tables import JobRow

_LONGEST_NAME, _LONGEST_TEXT = 64, 500


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said of a held volume.

    Attributes
    ----------
    by : str
        User id or role, as the site names its people; it stands in the signed statement.
    note : str
        Their words; they stay in the site's database.
    """

    approved: bool
    by: str
    at: datetime
    note: str = ""


_DECISION = TypeAdapter(Decision)


def decision_of(row: JobRow) -> Decision | None:
    """Return what was decided about a job, if anything was."""
    return None if row.decision is None else _DECISION.validate_python(row.decision)


class Approvals:
    """Takes decisions about held jobs.

    Parameters
    ----------
    jobs : Jobs
        Job table of the site.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def approve(self, request_id: str, *, by: str, note: str = "") -> JobRow:
        """Let a held volume be published; approving it again changes nothing, whoever does it.

        Raises
        ------
        JobNotFound
            If no job has this id.
        JobNotHeld
            If the job does not wait for a person, or was refused by one.
        RequestInvalid
            If name or note are not of the form that is kept.
        """
        self._decide(request_id, Decision(True, _name(by), datetime.now(UTC), _text(note, "a note")))
        self._jobs.continue_held(request_id)
        return self._jobs.get(request_id)

    def reject(self, request_id: str, *, by: str, reason: str) -> JobRow:
        """End a held job without publishing anything; no further seed is drawn by itself.

        Raises
        ------
        JobNotFound, JobNotHeld, RequestInvalid
            As `approve`; a reason is needed.
        """
        if not reason.strip():
            raise RequestInvalid(found="a refusal without a reason", allowed="a reason", action="say why")
        self._decide(request_id, Decision(False, _name(by), datetime.now(UTC), _text(reason, "a reason")))
        return self._jobs.get(request_id)

    def approval(self, request_id: str) -> Approval | None:
        """Return the approval of a person; None where nobody has decided.

        Raises
        ------
        ApprovalRefused
            If a person has refused.
        """
        decided = decision_of(self._jobs.get(request_id))
        if decided is None:
            return None
        if not decided.approved:
            raise _refused()
        return Approval("person", by=decided.by, at=decided.at)

    def continue_approved(self) -> int:
        """Take up jobs that were approved and still wait, since whoever approved them was cut off; return how many."""
        query = select(JobRow).where(JobRow.state == JobState.HELD.value, col(JobRow.decision).is_not(None))
        with Session(self._jobs.engine) as session:
            waiting = [row.request_id for row in session.exec(query)]
        return sum(self._jobs.continue_held(request_id) for request_id in waiting)

    def _decide(self, request_id: str, decision: Decision) -> None:
        """Keep the decision if the job is held and undecided; nothing changes where the same was decided before."""
        if self._kept(request_id, decision):
            return
        row = self._jobs.get(request_id)
        earlier = decision_of(row)
        if earlier is not None and earlier.approved == decision.approved:
            return
        told = "" if earlier is None else f", which a person has {'approved' if earlier.approved else 'refused'}"
        raise JobNotHeld(
            found=f"a job in state {row.state}{told}",
            allowed=f"a job in state {JobState.HELD.value}, about which nobody has decided",
            action="list the jobs that wait with `veraicon job list --state held`",
        )

    def _kept(self, request_id: str, decision: Decision) -> bool:
        values: dict[str, object] = {
            "decision": _DECISION.dump_python(decision, mode="json"),
            "updated_at": decision.at,
        }
        if not decision.approved:
            values |= {"state": JobState.REJECTED.value, "error": error_fields(_refused(), JobState.APPROVED, attempts=1)}
        change = (
            sa.update(JobRow)
            .where(
                col(JobRow.request_id) == request_id,
                col(JobRow.state) == JobState.HELD.value,
                col(JobRow.decision).is_(None),
            )
            .values(values)
        )
        with self._jobs.engine.begin() as connection:
            return connection.execute(change).rowcount == 1


def _refused() -> ApprovalRefused:
    return ApprovalRefused(
        found="a volume that a person did not approve",
        allowed="volumes that a person has seen and approved",
        action="read the reason with `veraicon job show`; ask for another volume with `veraicon job new`",
    )


def _name(by: str) -> str:
    name = by.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise RequestInvalid(
            found="a decision without a name, or with one that is too long or holds control characters",
            allowed=f"a user id or a role of 1 to {_LONGEST_NAME} printable characters",
            action="say who decides",
        )
    return name


def _text(text: str, what: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise RequestInvalid(found=f"{what} that is too long", allowed=f"{_LONGEST_TEXT} characters", action="say it shorter")
    return text.strip()
