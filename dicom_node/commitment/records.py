"""Storage commitments that survive a restart: those that peers asked of us, and those that we asked of peers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, update
from sqlmodel import Session, col, select

from dicom_node.commitment.messages import CommitmentReport, CommitmentRequest, NamedInstance, held_against
from dicom_node.holding.transactions import in_transaction
from dicom_node.tables import CommitmentRequestRow, CommitmentTransactionRow, ConflictRow

WAITING, REPORTED, ABANDONED = "waiting", "reported", "abandoned"
ASKED, COMMITTED, FAILED = "asked", "committed", "failed"

# The report goes out on the association of the request first; only then is it due on one of our own.
_OWN_ASSOCIATION_AFTER_S = 2.0
_FIRST_DELAY_S = 2.0
_LONGEST_DELAY_S = 900.0

# A peer that takes no report for this long no longer waits for one; it may ask again.
_ABANDON_AFTER_S = 7 * 86400.0

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A commitment that was asked of us: what, and by whom (calling AE title)."""

    request: CommitmentRequest
    requestor: str

    @property
    def key(self) -> tuple[str, str]:
        """Transaction UID and requestor, which name it."""
        return self.request.transaction_uid, self.requestor


class ReceivedCommitments:
    """What peers asked of us, until it is reported.

    Parameters
    ----------
    engine : Engine
        Database with the tables of `dicom_node.tables`.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock

    def keep(self, received: ReceivedRequest) -> None:
        """Commit a request to the database. The same transaction from the same requestor replaces its earlier request."""
        now_s = self._clock()
        row: dict[str, Any] = {
            "transaction_uid": received.request.transaction_uid,
            "requestor": received.requestor,
            "instances": _to_json(received.request.instances),
            "state": WAITING,
            "next_attempt_s": now_s + _OWN_ASSOCIATION_AFTER_S,
            "received_s": now_s,
        }
        in_transaction(self._engine, lambda session: session.merge(CommitmentRequestRow(**row)))

    def due(self, requestors: Collection[str]) -> list[ReceivedRequest]:
        """Return requests of these AE titles whose report is to be tried now."""
        statement = select(CommitmentRequestRow).where(
            col(CommitmentRequestRow.state) == WAITING,
            col(CommitmentRequestRow.next_attempt_s) <= self._clock(),
            col(CommitmentRequestRow.requestor).in_(list(requestors)),
        )
        with Session(self._engine) as session:
            return [_received(row) for row in session.exec(statement).all()]

    def delivered(self, received: ReceivedRequest) -> None:
        """Note that the report has reached its requestor."""

        def write(session: Session) -> None:
            row = session.get(CommitmentRequestRow, received.key)
            if row is not None:
                row.state, row.reported_s = REPORTED, self._clock()

        in_transaction(self._engine, write)

    def postponed(self, received: ReceivedRequest) -> bool:
        """Set the next attempt, later each time; return False where the request is given up for its age."""
        now_s = self._clock()

        def write(session: Session) -> bool:
            row = session.get(CommitmentRequestRow, received.key)
            if row is None:
                return False
            row.next_attempt_s = now_s + min(_FIRST_DELAY_S * 2.0 ** min(row.attempts, 30), _LONGEST_DELAY_S)
            row.attempts += 1
            if now_s - row.received_s > _ABANDON_AFTER_S:
                row.state = ABANDONED
            return row.state == WAITING

        return in_transaction(self._engine, write)

    def abandon_old(self) -> int:
        """Give up requests that wait for longer than a peer would, those of unknown address among them; return how many."""
        old = (
            update(CommitmentRequestRow)
            .where(
                col(CommitmentRequestRow.state) == WAITING,
                col(CommitmentRequestRow.received_s) < self._clock() - _ABANDON_AFTER_S,
            )
            .values(state=ABANDONED)
        )
        with Session(self._engine) as session:
            abandoned = session.exec(old).rowcount
            session.commit()
        return int(abandoned)

    def in_conflict(self, sop_instance_uids: Sequence[str], source: str) -> set[str]:
        """Return those UIDs under which this source sent other bytes than we hold, and has not sent again what we hold."""
        statement = select(ConflictRow.sop_instance_uid).where(
            col(ConflictRow.source) == source,
            col(ConflictRow.sop_instance_uid).in_(list(sop_instance_uids)),
            col(ConflictRow.settled_s).is_(None),
        )
        with Session(self._engine) as session:
            return set(session.exec(statement).all())


class SentCommitments:
    """What we asked of peers, and their reports; one process may ask and another hear the report.

    Parameters
    ----------
    engine : Engine
        Database with the tables of `dicom_node.tables`.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock

    def asking(self, request: CommitmentRequest, peer: str) -> None:
        """Note a transaction before it is asked, so that a report at any moment finds it. A repeat keeps what is known."""
        row: dict[str, Any] = {
            "transaction_uid": request.transaction_uid,
            "peer": peer,
            "instances": _to_json(request.instances),
            "state": ASKED,
            "asked_s": self._clock(),
        }

        def write(session: Session) -> None:
            if session.get(CommitmentTransactionRow, request.transaction_uid) is None:
                session.add(CommitmentTransactionRow(**row))

        in_transaction(self._engine, write)

    def knows(self, transaction_uid: str) -> bool:
        """Return whether a transaction was asked, or was about to be."""
        with Session(self._engine) as session:
            return session.get(CommitmentTransactionRow, transaction_uid) is not None

    def reported(self, report: CommitmentReport, *, reporter: str) -> bool:
        """Note a report; return False where we asked this peer for no such transaction.

        A repeated report changes nothing and is no error: True.
        """

        def write(session: Session) -> bool:
            row = session.get(CommitmentTransactionRow, report.transaction_uid)
            if row is None or row.peer != reporter:
                return False
            if row.state == ASKED:
                said = held_against(report, _from_json(row.instances))
                row.state = FAILED if said.failed else COMMITTED
                row.failures = json.dumps([[one.sop_class_uid, one.sop_instance_uid, why] for one, why in said.failed])
                row.answered_s = self._clock()
            return True

        return in_transaction(self._engine, write)

    def report(self, transaction_uid: str) -> CommitmentReport | None:
        """Return what was reported; None before that."""
        with Session(self._engine) as session:
            row = session.get(CommitmentTransactionRow, transaction_uid)
        if row is None or row.state == ASKED:
            return None
        failed = tuple((NamedInstance(sop_class, uid), int(reason)) for sop_class, uid, reason in json.loads(row.failures))
        lost = {instance for instance, _ in failed}
        kept = tuple(instance for instance in _from_json(row.instances) if instance not in lost)
        return CommitmentReport(transaction_uid, kept, failed)

    def answer(self, transaction_uids: Sequence[str]) -> CommitmentReport | None:
        """Return what is known of instances that were asked about in each of these transactions; None where nothing is.

        That is the report of the last one, or, before that has come, a commitment to all of them in an earlier one: an earlier
        failure says nothing of what was sent again since then.
        """
        reports = [report for uid in transaction_uids if (report := self.report(uid)) is not None]
        if reports and reports[-1].transaction_uid == transaction_uids[-1]:
            return reports[-1]
        return next((report for report in reports if not report.failed), None)

    def await_answer(self, transaction_uids: Sequence[str], timeout_s: float) -> CommitmentReport | None:
        """Return what is reported within some seconds, by whichever process hears it, see `answer`."""
        end = time.monotonic() + timeout_s
        while (report := self.answer(transaction_uids)) is None and time.monotonic() < end:
            time.sleep(_POLL_S)
        return report


def _received(row: CommitmentRequestRow) -> ReceivedRequest:
    return ReceivedRequest(CommitmentRequest(row.transaction_uid, _from_json(row.instances)), row.requestor)


def _to_json(instances: Sequence[NamedInstance]) -> str:
    return json.dumps([[instance.sop_class_uid, instance.sop_instance_uid] for instance in instances])


def _from_json(text: str) -> tuple[NamedInstance, ...]:
    return tuple(NamedInstance(sop_class, uid) for sop_class, uid in json.loads(text))
