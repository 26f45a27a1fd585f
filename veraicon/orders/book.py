"""The order book: every order that reached us, kept before its sender gets an answer, and what has become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from domain.errors import RequestInvalid, ResourceNotFound, VeraiconError
from domain.ordering import Order, OrderState
from veraicon.failures import error_words
from veraicon.orders.tables import OrderRow
from veraicon.pipeline import JobState
from veraicon.tables import JobRow

ORDER = TypeAdapter(Order)

# Orders that something may still come of by itself.
_OPEN = (OrderState.RECEIVED, OrderState.WAITING)
# What a person may ask to be looked at again.
_RETRIABLE = frozenset({OrderState.IGNORED.value, OrderState.REFUSED.value, OrderState.WAITING.value})
# Until requests are made an order may still be changed by its sender.
_AMENDABLE = _RETRIABLE | {OrderState.RECEIVED.value}
_MAX_REASON = 1000


def order_of(row: OrderRow) -> Order:
    """Return the order that a row keeps."""
    return ORDER.validate_python(row.content)


class OrderBook:
    """Keeps orders.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def take(self, order: Order, raw: bytes = b"") -> bool:
        """Keep an order; it is on disk when this returns.

        Parameters
        ----------
        order : Order
        raw : bytes
            What was sent.

        Returns
        -------
        bool
            False where nothing changes: this very order is known, was taken back before it came, or has its requests. Until
            then one of the same origin, sender and reference that says something else replaces what is kept of it.
        """
        row = _row(order, OrderState.RECEIVED, raw)
        return self._insert(row) or self._amend(row)

    def revoke(self, order: Order, reason: str, raw: bytes = b"") -> bool:
        """Note that its sender took an order back, also where the order itself has not come yet; True where this is news."""
        row = _row(order, OrderState.REVOKED, raw)
        row.reason = reason[:_MAX_REASON]
        if self._insert(row):
            return True
        others = [state for state in OrderState if state is not OrderState.REVOKED]
        return self._change(order.order_id, OrderState.REVOKED, reason=reason, only=others)

    def keep_refused(self, order: Order, error: VeraiconError, raw: bytes = b"") -> bool:
        """Keep what cannot be read as an order, with the error, in one step: nobody finds it without; True where it is news."""
        row = _row(order, OrderState.REFUSED, raw)
        row.reason, row.error = error.found[:_MAX_REASON], error_words(error)
        return self._insert(row) or self._amend(row)

    def ask_anew(self, seen: OrderRow, raw: bytes, error: VeraiconError | None = None) -> bool:
        """Note that a sender asks once more for what was refused or ignored; with an error it is refused once more.

        False where the order has changed since it was seen.
        """
        now, state = datetime.now(UTC), OrderState.REFUSED if error else OrderState.RECEIVED
        values: dict[str, object] = {"state": state.value, "raw": raw, "reason": error.found[:_MAX_REASON] if error else ""}
        values |= {"error": error and error_words(error), "look_at": now, "updated_at": now, "turn": seen.turn + 1}
        return self._update(seen, values)

    def order(self, order_id: str) -> Order | None:
        """Return an order, or None where the book has none of this id."""
        row = self.find(order_id)
        return None if row is None else order_of(row)

    def find(self, order_id: str) -> OrderRow | None:
        """Return what the book has of an order, or None."""
        with Session(self._engine) as session:
            return session.get(OrderRow, order_id) if order_id else None

    def row(self, order_id: str) -> OrderRow:
        """Return what the book has of an order.

        Raises
        ------
        ResourceNotFound
            If it has none of this id.
        """
        row = self.find(order_id)
        if row is None:
            raise ResourceNotFound(
                found="an order id that is not in the book",
                allowed="an id as `veraicon order list` shows it",
                action="list the orders, and check that --config names the same database",
            )
        return row

    def recent(self, *, states: Sequence[OrderState] = (), limit: int = 200) -> list[OrderRow]:
        """Return orders, the one that changed last first."""
        query = select(OrderRow).order_by(col(OrderRow.updated_at).desc()).limit(limit)
        if states:
            query = query.where(col(OrderRow.state).in_([state.value for state in states]))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def changed_since(self, moment: datetime) -> list[OrderRow]:
        """Return orders that changed at or after a moment, the one that changed first at the head."""
        query = select(OrderRow).where(col(OrderRow.updated_at) >= moment).order_by(col(OrderRow.updated_at))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def due(self, now: datetime, *, limit: int = 100) -> list[OrderRow]:
        """Return orders to be looked at, the longest waiting first."""
        query = (
            select(OrderRow)
            .where(col(OrderRow.state).in_([state.value for state in _OPEN]), col(OrderRow.look_at) <= now)
            .order_by(col(OrderRow.look_at), col(OrderRow.order_id))
            .limit(limit)
        )
        with Session(self._engine) as session:
            return list(session.exec(query))

    def jobs_of_revoked(self, states: Sequence[str]) -> list[str]:
        """Return the ids of jobs in some states whose order was taken back."""
        revoked = select(OrderRow.order_id).where(OrderRow.state == OrderState.REVOKED.value)
        query = select(JobRow.request_id).where(col(JobRow.order_id).in_(revoked), col(JobRow.state).in_(list(states)))
        with Session(self._engine) as session:
            return list(session.exec(query))

    def look_again(self, order_id: str = "") -> None:
        """Have an order that waits, or every one, looked at soon: what it may wait for has come."""
        statement = sa.update(OrderRow).where(col(OrderRow.state) == OrderState.WAITING.value).values(look_at=datetime.now(UTC))
        if order_id:
            statement = statement.where(col(OrderRow.order_id) == order_id)
        with Session(self._engine) as session:
            session.execute(statement)
            session.commit()

    def waits(self, seen: OrderRow, reason: str, *, rule: str, pause_s: float, error: VeraiconError | None = None) -> bool:
        """Note that an order waits, for what, and when it is looked at again.

        Parameters
        ----------
        seen : OrderRow
            As it was when it was decided upon, here and below: what was amended or taken back since stays as it is, and is
            decided upon anew (False).
        """
        later = datetime.now(UTC) + timedelta(seconds=pause_s)
        return self._decide(seen, OrderState.WAITING, reason=reason, rule=rule, error=error, look_at=later)

    def requested(self, seen: OrderRow, requests: Sequence[str], *, rule: str) -> bool:
        """Note which requests were made for an order."""
        return self._decide(seen, OrderState.REQUESTED, reason="", rule=rule, requests=requests)

    def ignored(self, seen: OrderRow, reason: str, *, rule: str = "") -> bool:
        """Note that nothing is made for an order, and why."""
        return self._decide(seen, OrderState.IGNORED, reason=reason, rule=rule)

    def refused(self, seen: OrderRow, error: VeraiconError, *, rule: str = "") -> bool:
        """Note that an order cannot be met as it stands."""
        return self._decide(seen, OrderState.REFUSED, reason=error.found, rule=rule, error=error)

    def retry(self, order_id: str) -> OrderRow:
        """Have an order looked at again, from its beginning.

        Raises
        ------
        ResourceNotFound
            If the book has none of this id.
        RequestInvalid
            If jobs of it are under way or have succeeded, or if it was revoked.
        """
        row = self.row(order_id)
        if row.state not in _RETRIABLE and not (row.state == OrderState.REQUESTED.value and self._all_failed(order_id)):
            raise RequestInvalid(
                found=f"an order in state {row.state}",
                allowed="ignored, refused or waiting, or requested without a job that is under way or has succeeded",
                action="retry its jobs, or have its sender send a new order",
            )
        self._change(order_id, OrderState.RECEIVED, reason="", look_at=datetime.now(UTC), only=(OrderState(row.state),))
        return self.row(order_id)

    def _all_failed(self, order_id: str) -> bool:
        """Return whether every job of an order has ended, and none of them well."""
        with Session(self._engine) as session:
            states = session.exec(select(JobRow.state).where(JobRow.order_id == order_id)).all()
        return all(JobState(state).ended and state != JobState.ATTESTED.value for state in states)

    def _insert(self, row: OrderRow) -> bool:
        with Session(self._engine) as session:
            if session.get(OrderRow, row.order_id) is not None:
                return False
            session.add(row)
            try:
                session.commit()
            except IntegrityError:  # another process took it in this moment
                return False
        return True

    def _amend(self, row: OrderRow) -> bool:
        """Take a newer version of an order that nothing was made for yet; it is looked at from its beginning then."""
        held = self.find(row.order_id)
        if held is None or held.state not in _AMENDABLE or _said(held) == _said(row):
            return False
        if order_of(row).received_at < order_of(held).received_at:  # it was left behind, and a newer one was taken meanwhile
            return False
        values = {"content": row.content, "raw": row.raw, "state": row.state, "reason": row.reason, "error": row.error}
        return self._update(held, values | {"look_at": row.look_at, "updated_at": row.updated_at, "turn": held.turn + 1})

    def _decide(
        self,
        seen: OrderRow,
        state: OrderState,
        *,
        reason: str,
        rule: str,
        error: VeraiconError | None = None,
        requests: Sequence[str] | None = None,
        look_at: datetime | None = None,
    ) -> bool:
        if seen.state not in {one.value for one in _OPEN}:
            return False
        values: dict[str, object] = {"reason": reason[:_MAX_REASON], "error": error and error_words(error), "rule": rule}
        if state.value != seen.state:  # an order that goes on waiting has not changed: nobody is told again
            values |= {"state": state.value, "turn": seen.turn + 1, "updated_at": datetime.now(UTC)}
        values |= {} if requests is None else {"requests": list(requests)}
        values |= {} if look_at is None else {"look_at": look_at}
        return self._update(seen, values)

    def _update(self, seen: OrderRow, values: Mapping[str, object]) -> bool:
        """Change an order in one statement; False where it is no longer as it was seen."""
        as_seen = (
            col(OrderRow.order_id) == seen.order_id,
            col(OrderRow.turn) == seen.turn,
            col(OrderRow.state) == seen.state,
        )
        return self._execute(sa.update(OrderRow).where(*as_seen).values(**values))

    def _change(
        self,
        order_id: str,
        state: OrderState,
        *,
        reason: str,
        only: Sequence[OrderState],
        look_at: datetime | None = None,
    ) -> bool:
        """Set an order's state, whatever was decided upon it meanwhile; False where it is in none of the states `only`."""
        values: dict[str, object] = {
            "state": state.value,
            "reason": reason[:_MAX_REASON],
            "error": None,
            "updated_at": datetime.now(UTC),
            "turn": col(OrderRow.turn) + 1,
        }
        values |= {} if look_at is None else {"look_at": look_at}
        in_state = col(OrderRow.state).in_([one.value for one in only])
        return self._execute(sa.update(OrderRow).where(col(OrderRow.order_id) == order_id, in_state).values(**values))

    def _execute(self, statement: sa.Update) -> bool:
        with Session(self._engine) as session:
            changed = session.connection().execute(statement).rowcount
            session.commit()
        return bool(changed)


def _row(order: Order, state: OrderState, raw: bytes) -> OrderRow:
    now = datetime.now(UTC)
    return OrderRow(
        order_id=order.order_id,
        origin=order.origin.value,
        sender=order.sender,
        reference=order.reference,
        state=state.value,
        content=ORDER.dump_python(order, mode="json"),
        raw=raw,
        look_at=now,
        received_at=order.received_at,
        updated_at=now,
    )


def _said(row: OrderRow) -> dict[str, object]:
    """Return what an order says, apart from when it came."""
    return {name: value for name, value in row.content.items() if name != "received_at"}
