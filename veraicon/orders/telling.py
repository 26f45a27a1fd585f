"""Tells news to channels, each at its own pace: a receiver that is away hears of it later, one that refuses is seen to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum

import sqlalchemy as sa
import structlog
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from domain.errors import ResourceNotFound, Retry, VeraiconError
from veraicon import faults
from veraicon.failures import as_ours, error_words
from veraicon.orders.book import OrderBook
from veraicon.orders.channels import Channel
from veraicon.orders.newsroom import NEWS
from veraicon.orders.tables import DeliveryRow, NewsRow

_log = structlog.get_logger()

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 3600.0
# Longer than any channel may take: whoever holds a delivery after that is gone.
_LEASE = timedelta(seconds=300)
# A receiver that was away for a week has to be told by hand.
_PATIENCE = timedelta(days=7)


class DeliveryState(Enum):
    """Where one piece of news stands on its way to one channel; failed waits for somebody who tries again by hand."""

    WAITING = "waiting"
    TOLD = "told"
    FAILED = "failed"


@dataclass(frozen=True)
class Telling:
    """Delivers what is due."""

    engine: sa.Engine
    channels: Sequence[Channel]

    def tell_due(self, channel: Channel, *, limit: int = 50) -> int:
        """Tell a channel what is due, the oldest first; return how much it took."""
        told = 0
        for delivery, news in self._due(channel.name, limit):
            told += self._tell(channel, delivery, news)
        return told

    def again(self, *, order_id: str = "", news_id: str = "") -> int:
        """Have failed news of an order, or one piece of news, told again; return how many deliveries that are.

        Raises
        ------
        ResourceNotFound
            If nothing of it has failed.
        """
        with Session(self.engine) as session:
            query = select(DeliveryRow).join(NewsRow, col(NewsRow.news_id) == col(DeliveryRow.news_id))
            wanted = col(NewsRow.order_id) == order_id if order_id else col(NewsRow.news_id) == news_id
            failed = session.exec(query.where(wanted, col(DeliveryRow.state) == DeliveryState.FAILED.value)).all()
            for row in failed:
                row.state, row.attempts, row.next_at = DeliveryState.WAITING.value, 0, datetime.now(UTC)
                session.add(row)
            session.commit()
        if not failed:
            raise ResourceNotFound(found="no news that failed", allowed="news that failed", action="see `veraicon order show`")
        return len(failed)

    def of_order(self, order_id: str) -> list[tuple[NewsRow, DeliveryRow | None]]:
        """Return the news of an order with what became of each delivery, the oldest first."""
        query = (
            select(NewsRow, DeliveryRow)
            .join(DeliveryRow, col(NewsRow.news_id) == col(DeliveryRow.news_id), isouter=True)
            .where(col(NewsRow.order_id) == order_id)
            .order_by(col(NewsRow.at), col(NewsRow.news_id), col(DeliveryRow.channel))
        )
        with Session(self.engine) as session:
            return [(news, delivery) for news, delivery in session.exec(query)]

    def _due(self, channel: str, limit: int) -> list[tuple[DeliveryRow, NewsRow]]:
        query = (
            select(DeliveryRow, NewsRow)
            .join(NewsRow, col(NewsRow.news_id) == col(DeliveryRow.news_id))
            .where(
                col(DeliveryRow.channel) == channel,
                col(DeliveryRow.state) == DeliveryState.WAITING.value,
                col(DeliveryRow.next_at) <= datetime.now(UTC),
            )
            .order_by(col(NewsRow.at), col(NewsRow.news_id))
            .limit(limit)
        )
        with Session(self.engine) as session:
            return [(delivery, news) for delivery, news in session.exec(query)]

    def _tell(self, channel: Channel, delivery: DeliveryRow, row: NewsRow) -> bool:
        if not self._claim(delivery):
            return False
        try:
            news = NEWS.validate_python(row.content)
            channel.send(replace(news, order=OrderBook(self.engine).order(row.order_id)))
            faults.reach("news:sent")
        except VeraiconError as error:
            self._failed(delivery, error)
            _log.warning("news not taken", action="tell", news_id=delivery.news_id, channel=channel.name, code=error.code)
            return False
        except Exception as caught:  # noqa: BLE001  # the edge: one piece of news must not hold up those behind it
            self._failed(delivery, as_ours(caught))
            _log.error("news not understood", action="tell", news_id=delivery.news_id, error=type(caught).__name__)
            return False
        self._note(delivery, {"state": DeliveryState.TOLD.value, "error": None, "told_at": datetime.now(UTC)})
        return True

    def _claim(self, delivery: DeliveryRow) -> bool:
        """Take a delivery for this attempt; False where another process has it. One that dies with it is tried again later."""
        seen = (col(DeliveryRow.attempts) == delivery.attempts, col(DeliveryRow.state) == DeliveryState.WAITING.value)
        values = {"attempts": delivery.attempts + 1, "next_at": datetime.now(UTC) + _LEASE}
        return self._note(delivery, values, *seen)

    def _failed(self, delivery: DeliveryRow, error: VeraiconError) -> None:
        now, attempts = datetime.now(UTC), delivery.attempts + 1
        pause = timedelta(seconds=min(_FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20), _LONGEST_PAUSE_S))
        patient = attempts * _LONGEST_PAUSE_S < _PATIENCE.total_seconds()
        again = error.retry is Retry.BY_ITSELF and patient
        state = DeliveryState.WAITING if again else DeliveryState.FAILED
        self._note(delivery, {"state": state.value, "error": error_words(error), "next_at": now + pause})

    def _note(self, delivery: DeliveryRow, values: Mapping[str, object], *where: ColumnElement[bool]) -> bool:
        named = (col(DeliveryRow.news_id) == delivery.news_id, col(DeliveryRow.channel) == delivery.channel)
        with Session(self.engine) as session:
            changed = session.connection().execute(sa.update(DeliveryRow).where(*named, *where).values(**values)).rowcount
            session.commit()
        return bool(changed)
