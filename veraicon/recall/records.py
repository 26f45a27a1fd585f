"""Recalls as they are kept: what is to be done is written before it is done, and each finished step is ticked off."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from dicom_node.holding.transactions import in_transaction
from domain.errors import RequestInvalid, ResourceNotFound
from provenance.recall_notice import RecallReason
from veraicon.recall.outputs import Copy
from veraicon.recall.selection import Selection
from veraicon.recall.tables import OutputRow, RecalledCopyRow, RecalledRow, RecallRow


class CopyState(Enum):
    """How a place that holds a copy stands."""

    PENDING = "pending"
    HIDDEN = "hidden"
    STILL_SHOWN = "still shown"
    REFUSED = "refused"
    UNREACHABLE = "not reachable"
    BY_HAND = "by hand"

    @property
    def words(self) -> str:
        """What the state means, for people."""
        return {
            CopyState.PENDING: "not asked yet",
            CopyState.HIDDEN: "hidden",
            CopyState.STILL_SHOWN: "note kept, still shown",
            CopyState.REFUSED: "refused",
            CopyState.UNREACHABLE: "not reachable",
            CopyState.BY_HAND: "tell them by hand",
        }[self]

    @property
    def ended(self) -> bool:
        """True where the recall itself has nothing left to do; a person may have."""
        return self in {CopyState.HIDDEN, CopyState.STILL_SHOWN, CopyState.REFUSED, CopyState.BY_HAND}


class Recalls:
    """The recalls of a site."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def open(
        self,
        selection: Selection,
        *,
        outputs: Sequence[OutputRow],
        jobs: Sequence[str],
        reason: RecallReason,
        note: str,
        by: str,
    ) -> str:
        """Keep what is to be recalled, whole or not at all; from then on nothing of it leaves. Return the recall's id.

        Parameters
        ----------
        jobs : sequence of str
            Request ids of jobs that are to be cancelled.
        """
        consent = reason is RecallReason.CONSENT
        recall = RecallRow(
            recall_id=str(uuid.uuid4()),
            selection=selection.told(),
            reason=reason.value,
            note=note,
            by=by,
            # Whole seconds: DICOM, FHIR and the notice tell one time.
            recalled_at=datetime.now(UTC).replace(microsecond=0),
            blocked_patients=list(selection.patient_tokens) if consent else [],
            blocked_study=selection.source_study if consent else "",
        )
        rows = [
            RecalledRow(recall_id=recall.recall_id, request_id=one.request_id, kind="output", attestation=one.attestation)
            for one in outputs
        ]
        rows += [RecalledRow(recall_id=recall.recall_id, request_id=one, kind="job") for one in jobs]

        def write(session: Session) -> None:
            session.add(recall)
            session.flush()
            session.add_all(rows)

        in_transaction(self._engine, write)
        return recall.recall_id

    def find(self, text: str) -> RecallRow:
        """Return the one recall whose id starts with `text`.

        Raises
        ------
        ResourceNotFound
            If none does, or several do.
        """
        with Session(self._engine) as session:
            found = session.exec(
                select(RecallRow).where(col(RecallRow.recall_id).startswith(text, autoescape=True)).limit(2)
            ).all()
        if len(found) != 1:
            raise ResourceNotFound(
                found=f"{len(found) or 'no'} recalls whose id starts so",
                allowed="the start of one id, as `veraicon recall list` shows it",
                action="list the recalls",
            )
        return found[0]

    def all(self) -> list[RecallRow]:
        """Return all recalls, the latest first."""
        with Session(self._engine) as session:
            return list(session.exec(select(RecallRow).order_by(col(RecallRow.recalled_at).desc())).all())

    def outputs(self, recall_id: str, *, kind: str = "output") -> list[RecalledRow]:
        """Return the outputs (or jobs) of a recall, by request."""
        query = select(RecalledRow).where(RecalledRow.recall_id == recall_id, RecalledRow.kind == kind)
        with Session(self._engine) as session:
            return list(session.exec(query.order_by(col(RecalledRow.request_id))).all())

    def copies(self, recall_id: str, request_id: str | None = None) -> list[RecalledCopyRow]:
        """Return the copies of a recall, or of one of its outputs."""
        query = select(RecalledCopyRow).where(RecalledCopyRow.recall_id == recall_id)
        if request_id is not None:
            query = query.where(RecalledCopyRow.request_id == request_id)
        order = (RecalledCopyRow.request_id, RecalledCopyRow.protocol, RecalledCopyRow.recipient)
        with Session(self._engine) as session:
            return list(session.exec(query.order_by(*map(col, order))).all())

    def note_copies(self, recall_id: str, request_id: str, copies: Sequence[Copy]) -> None:
        """Keep the places that have to be told; those that are known already stay as they are."""

        def write(session: Session) -> None:
            for one in copies:
                key = (recall_id, request_id, one.recipient, one.protocol)
                if session.get(RecalledCopyRow, key) is None:
                    session.add(
                        RecalledCopyRow(
                            recall_id=recall_id,
                            request_id=request_id,
                            recipient=one.recipient,
                            protocol=one.protocol,
                            sent_at=one.sent_at,
                            state=CopyState.PENDING.value,
                        )
                    )

        in_transaction(self._engine, write)

    def tick(self, row: RecallRow | RecalledRow | RecalledCopyRow, **values: Any) -> None:
        """Write values of a row, in the database and in the object."""
        kind = type(row)
        key = sa.inspect(kind).primary_key
        same = [column == getattr(row, column.name) for column in key]
        in_transaction(self._engine, lambda session: session.execute(sa.update(kind).where(*same).values(**values)))
        for name, value in values.items():
            setattr(row, name, value)

    def finish_output(self, row: RecalledRow) -> bool:
        """Tick an output off, unless a step that ran beside the recall has opened it again; return whether it is."""
        same = (col(RecalledRow.recall_id) == row.recall_id, col(RecalledRow.request_id) == row.request_id)
        now = datetime.now(UTC)
        change = sa.update(RecalledRow).where(*same, col(RecalledRow.fhir_at).is_not(None)).values(finished_at=now)
        in_transaction(self._engine, lambda session: session.execute(change))
        with Session(self._engine) as session:
            row.finished_at = session.execute(sa.select(col(RecalledRow.finished_at)).where(*same)).scalar_one()
        return row.finished_at is not None

    def finished(self, recall_id: str) -> bool:
        """Return whether every output of a recall is done with, as its rows say now."""
        return all(row.finished_at is not None for row in self.outputs(recall_id))

    def lift(self, recall: RecallRow, *, by: str) -> None:
        """Let the sources of a recall for consent in again; the outputs stay recalled.

        Raises
        ------
        RequestInvalid
            If the recall refuses no source, or nobody is named.
        """
        if not by.strip() or not (recall.blocked_patients or recall.blocked_study):
            raise RequestInvalid(
                found="nobody who lifts it" if not by.strip() else "a recall that refuses no source",
                allowed="a recall for the reason consent, and the name of who decided to lift it",
                action="see `veraicon recall list`, and name who decided with --by",
            )
        if recall.lifted_at is None:
            self.tick(recall, lifted_at=datetime.now(UTC), lifted_by=by)
