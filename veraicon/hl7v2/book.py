"""The book of HL7 v2 messages: each is on disk before it is acknowledged, also one that cannot be read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from domain.errors import ResourceNotFound, VeraiconError
from domain.identifiers import derive_uuid
from fhir_adapter.hl7v2.message import Header
from veraicon.failures import error_words
from veraicon.hl7v2.tables import Hl7MessageRow


class MessageState(Enum):
    """What became of a message; received is kept and not done yet."""

    RECEIVED = "received"
    DONE = "done"
    NOT_NEEDED = "not-needed"
    REFUSED = "refused"


def message_id_of(header: Header, content: bytes) -> str:
    """Return the id of a message: the same sender, MSH-10 and content are the same message.

    A repeat may have a new MSH-7. The same MSH-10 with another content is another message: engines count anew after a restart,
    and an order that was dropped for its number would be lost.
    """
    return str(derive_uuid("hl7v2", header.sender, header.control_id, _digest(content)))


def _digest(content: bytes) -> str:
    separator = re.escape(content[3:4]) or rb"\|"
    untimed = re.sub(rb"\A((?:[^%b\r\n]*%b){6})[^%b\r\n]*" % (separator, separator, separator), rb"\1", content)
    return hashlib.sha256(untimed).hexdigest()


class MessageBook:
    """Keeps messages.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def keep(self, header: Header, content: bytes) -> Hl7MessageRow:
        """Keep a message, and return what the book has of it: one that came before keeps its state."""
        message_id = message_id_of(header, content)
        row = Hl7MessageRow(
            message_id=message_id,
            sender=header.sender[:128],
            kind=header.kind[:32],
            control_id=header.control_id[:256],
            state=MessageState.RECEIVED.value,
            raw=content,
            received_at=datetime.now(UTC),
        )
        with Session(self._engine, expire_on_commit=False) as session:
            held = session.get(Hl7MessageRow, message_id)
            if held is not None:
                held.repeats += 1
                session.add(held)
                session.commit()
                return held
            session.add(row)
            try:
                session.commit()
            except IntegrityError:  # the same message on another connection in this moment
                session.rollback()
                return session.get_one(Hl7MessageRow, message_id)
        return row

    def note(
        self, message_id: str, state: MessageState, *, orders: Sequence[str] = (), error: VeraiconError | None = None
    ) -> None:
        """Note what became of a message."""
        values = {"state": state.value, "orders": list(orders), "error": error and error_words(error)}
        with Session(self._engine) as session:
            session.execute(sa.update(Hl7MessageRow).where(col(Hl7MessageRow.message_id) == message_id).values(**values))
            session.commit()

    def row(self, message_id: str) -> Hl7MessageRow:
        """Return what the book has of a message.

        Raises
        ------
        ResourceNotFound
            If it has none of this id.
        """
        with Session(self._engine) as session:
            row = session.get(Hl7MessageRow, message_id)
        if row is None:
            raise ResourceNotFound(
                found="a message id that is not in the book",
                allowed="an id as `veraicon hl7v2 list` shows it",
                action="list the messages, and check that --config names the same database",
            )
        return row

    def waiting(self, *, before: datetime) -> list[str]:
        """Return the ids of messages that were kept before a moment and not done, the first that came first."""
        query = (
            select(Hl7MessageRow.message_id)
            .where(col(Hl7MessageRow.state) == MessageState.RECEIVED.value, col(Hl7MessageRow.received_at) < before)
            .order_by(col(Hl7MessageRow.received_at), col(Hl7MessageRow.message_id))
        )
        with Session(self._engine) as session:
            return list(session.exec(query))

    def recent(self, *, states: Sequence[MessageState] = (), limit: int = 200) -> list[Hl7MessageRow]:
        """Return messages, the last that came first."""
        query = select(Hl7MessageRow).order_by(col(Hl7MessageRow.received_at).desc()).limit(limit)
        if states:
            query = query.where(col(Hl7MessageRow.state).in_([state.value for state in states]))
        with Session(self._engine) as session:
            return list(session.exec(query))
