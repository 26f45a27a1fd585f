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
from veraicon.orders.tables import OrderRow
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
        return self._change(order.order_id, OrderState.REVOKED, reason=reason, unless=(OrderState.REVOKED,))

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

    def look_again(self) -> None:
        """Have every waiting order looked at soon: something that it may wait for has come."""
        statement = sa.update(OrderRow).where(col(OrderRow.state) == OrderState.WAITING.value).values(look_at=datetime.now(UTC))
        with Session(self._engine) as session:
            session.execute(statement)
            session.commit()

    def waits(self, order_id: str, reason: str, *, rule: str, pause_s: float, error: VeraiconError | None = None) -> bool:
        """Note that an order waits, for what, and when it is looked at again."""
        later = datetime.now(UTC) + timedelta(seconds=pause_s)
        return self._change(order_id, OrderState.WAITING, reason=reason, rule=rule, error=error, look_at=later, only=_OPEN)

    def requested(self, order_id: str, requests: Sequence[str], *, rule: str) -> bool:
        """Note which requests were made for an order."""
        return self._change(order_id, OrderState.REQUESTED, reason="", rule=rule, requests=requests, only=_OPEN)

    def ignored(self, order_id: str, reason: str, *, rule: str = "") -> bool:
        """Note that nothing is made for an order, and why."""
        return self._change(order_id, OrderState.IGNORED, reason=reason, rule=rule, only=_OPEN)

    def refused(self, order_id: str, error: VeraiconError, *, rule: str = "") -> bool:
        """Note that an order cannot be met as it stands."""
        return self._change(order_id, OrderState.REFUSED, reason=error.found, rule=rule, error=error, only=_OPEN)

    def retry(self, order_id: str) -> OrderRow:
        """Have an order looked at again, from its beginning.

        Raises
        ------
        ResourceNotFound
            If the book has none of this id.
        RequestInvalid
            If it has requests already, or was revoked.
        """
        row = self.row(order_id)
        if row.state not in _RETRIABLE:
            raise RequestInvalid(
                found=f"an order in state {row.state}",
                allowed="ignored, refused or waiting",
                action="retry its jobs, or have its sender send a new order",
            )
        self._change(order_id, OrderState.RECEIVED, reason="", look_at=datetime.now(UTC), only=(OrderState(row.state),))
        return self.row(order_id)

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
        with Session(self._engine) as session:
            held = session.get(OrderRow, row.order_id, with_for_update=True)
            if held is None or held.state not in _AMENDABLE or _said(held) == _said(row):
                return False
            held.content, held.raw, held.state, held.turn = row.content, row.raw, row.state, held.turn + 1
            held.reason, held.error, held.look_at, held.updated_at = "", None, row.look_at, row.updated_at
            session.add(held)
            session.commit()
        return True

    def _change(
        self,
        order_id: str,
        state: OrderState,
        *,
        reason: str,
        rule: str | None = None,
        error: VeraiconError | None = None,
        requests: Sequence[str] | None = None,
        look_at: datetime | None = None,
        only: Sequence[OrderState] = (),
        unless: Sequence[OrderState] = (),
    ) -> bool:
        """Change an order in one conditional statement; False where its state forbids it."""
        values: dict[str, object] = {
            "state": state.value,
            "reason": reason[:_MAX_REASON],
            "error": error_words(error),
            "updated_at": datetime.now(UTC),
            "turn": col(OrderRow.turn) + sa.case((col(OrderRow.state) == state.value, 0), else_=1),
        }
        values |= {} if rule is None else {"rule": rule}
        values |= {} if requests is None else {"requests": list(requests)}
        values |= {} if look_at is None else {"look_at": look_at}
        statement = sa.update(OrderRow).where(col(OrderRow.order_id) == order_id).values(**values)
        if only:
            statement = statement.where(col(OrderRow.state).in_([one.value for one in only]))
        if unless:
            statement = statement.where(col(OrderRow.state).not_in([one.value for one in unless]))
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


def error_words(error: VeraiconError | None) -> Mapping[str, str] | None:
    """Return an error as a row keeps it and the lists show it."""
    if error is None:
        return None
    return {
        "code": error.code,
        "name": type(error).__name__,
        "found": error.found,
        "allowed": error.allowed,
        "next": error.action,
    }
