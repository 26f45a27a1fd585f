"""Signs of life of workers, and the taking over of jobs that a dead one held."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, delete, select

from veraicon.approving import Approvals
from veraicon.jobs import Jobs
from veraicon.tables import WorkerRow

_BEAT_S = 2.0
_SILENT_AFTER = timedelta(seconds=20)
_log = structlog.get_logger()


def process_started(pid: int) -> float:
    """Return when a process of this machine started, in clock ticks since boot; 0 where it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return float(fields[19])


class Heartbeat:
    """Writes this worker's row every two seconds and takes over what dead workers held.

    A worker is dead if its row is silent for twenty seconds, or if it ran on this machine and its process is gone: then its
    jobs go on at once after a restart.
    """

    def __init__(self, engine: sa.Engine, jobs: Jobs) -> None:
        self._approvals = Approvals(jobs)
        self.worker_id = f"worker-{uuid.uuid4()}"
        self._engine, self._jobs = engine, jobs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once now, then in the background."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and remove the row."""
        self._stop.set()
        self._thread.join(timeout=2 * _BEAT_S)
        with Session(self._engine) as session:
            session.exec(delete(WorkerRow).where(col(WorkerRow.worker_id) == self.worker_id))
            session.commit()

    def _run(self) -> None:
        while not self._stop.wait(_BEAT_S):
            try:
                self._beat()
            except sa.exc.OperationalError as error:  # the database is away: the next beat tries again
                _log.warning("heartbeat missed", action="heartbeat", error=type(error.orig).__name__)

    def _beat(self) -> None:
        with Session(self._engine) as session:
            session.merge(
                WorkerRow(
                    worker_id=self.worker_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    process_started=process_started(os.getpid()),
                    seen_at=datetime.now(UTC),
                )
            )
            session.commit()
            dead = [row.worker_id for row in session.exec(select(WorkerRow)) if self._is_dead(row)]
        taken = self._jobs.take_over(dead)
        if taken:
            _log.warning("jobs taken over", action="take-over", jobs=taken, workers=len(dead))
        self._approvals.continue_approved()
        with Session(self._engine) as session:
            session.exec(delete(WorkerRow).where(col(WorkerRow.worker_id).in_(dead)))
            session.commit()

    def _is_dead(self, row: WorkerRow) -> bool:
        if row.worker_id == self.worker_id:
            return False
        seen = row.seen_at if row.seen_at.tzinfo else row.seen_at.replace(tzinfo=UTC)
        if datetime.now(UTC) - seen > _SILENT_AFTER:
            return True
        return row.host == socket.gethostname() and process_started(row.pid) != row.process_started
