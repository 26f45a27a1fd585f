"""Has news told again that receivers refused: of one order, one piece of it, or all that one channel could not take."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from domain.errors import ResourceNotFound
from veraicon.orders.tables import DeliveryRow, NewsRow
from veraicon.orders.telling import DeliveryState


def tell_again(engine: sa.Engine, *, order_id: str = "", news_id: str = "", channel: str = "") -> int:
    """Have every failed delivery told again that fits all of what is given; return how many those are.

    Raises
    ------
    ResourceNotFound
        If none of it has failed.
    """
    statement = sa.update(DeliveryRow).where(col(DeliveryRow.state) == DeliveryState.FAILED.value)
    if order_id:
        of_order = select(NewsRow.news_id).where(NewsRow.order_id == order_id)
        statement = statement.where(col(DeliveryRow.news_id).in_(of_order))
    if news_id:
        statement = statement.where(col(DeliveryRow.news_id) == news_id)
    if channel:
        statement = statement.where(col(DeliveryRow.channel) == channel)
    values = {"state": DeliveryState.WAITING.value, "attempts": 0, "next_at": datetime.now(UTC)}
    with Session(engine) as session:
        count = session.connection().execute(statement.values(**values)).rowcount
        session.commit()
    if not count:
        raise ResourceNotFound(
            found="no such news that failed",
            allowed="an order, a piece of news or a channel of which a delivery failed",
            action="see `veraicon order show`; news without an order is named in the log",
        )
    return count
