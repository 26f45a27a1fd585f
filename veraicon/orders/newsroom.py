"""What is new: changes of orders and jobs, each written down once, with the channels that are to tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlmodel import Session, col, select

from domain.identifiers import derive_uuid
from domain.ordering import News, OrderState
from veraicon.jobs import Jobs
from veraicon.orders.book import OrderBook, order_of
from veraicon.orders.channels import Channel
from veraicon.orders.standing import OrderStanding
from veraicon.orders.tables import DeliveryRow, NewsRow, OrderRow
from veraicon.pipeline import JobState
from veraicon.recall.outputs import Outputs, aware
from veraicon.tables import JobRow

NEWS = TypeAdapter(News)

_TOLD_ORDERS = frozenset({OrderState.WAITING, OrderState.REQUESTED, OrderState.IGNORED, OrderState.REFUSED, OrderState.REVOKED})
_TOLD_JOBS = frozenset({JobState.HELD, JobState.ATTESTED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED})
# What changed shortly before the newest news is looked at again: transactions do not end in the order of their times.
_OVERLAP = timedelta(seconds=60)
# A site that never had news begins with the last day: what ended long ago is none.
_FIRST_LOOK = timedelta(days=1)
_WAITING = "waiting"


class Newsroom:
    """Writes down what is new.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    channels : sequence of Channel
        Who is told: news is kept for those that want it when it is written down.
    """

    def __init__(self, engine: sa.Engine, book: OrderBook, jobs: Jobs, outputs: Outputs, channels: Sequence[Channel]) -> None:
        self._engine, self._jobs, self._book = engine, jobs, book
        self._standing, self._channels = OrderStanding(book, jobs, outputs), tuple(channels)

    def collect(self) -> int:
        """Write down every change since the last time; return how many are new."""
        since = self._since()
        written = 0
        touched: set[str] = set()
        for job in self._jobs.changed_since(since):
            touched |= {job.order_id} - {""}
            written += self._write(self._of_job(job), request_id=job.request_id)
        for row in self._book.changed_since(since):
            touched.add(row.order_id)
            written += self._write(self._of_order(row))
        for order_id in sorted(touched):
            written += self._write(self._completion(order_id))
        return written

    def _since(self) -> datetime:
        with Session(self._engine) as session:
            newest = session.exec(select(sa.func.max(col(NewsRow.at)))).one()
        return datetime.now(UTC) - _FIRST_LOOK if newest is None else aware(newest) - _OVERLAP

    def _of_job(self, job: JobRow) -> Iterable[News]:
        state = JobState(job.state)
        if state in _TOLD_JOBS and not self._standing.drawn_again(job):
            order = self._book.find(job.order_id)
            at = aware(job.updated_at)
            yield News(
                news_id=str(derive_uuid(job.request_id, "news", state.value, at.isoformat())),
                kind=f"job.{state.value}",
                at=at,
                order=order_of(order) if order else None,
                order_state=OrderState(order.state) if order else None,
                jobs=(self._standing.job_news(job),),
                reason=str((job.error or {}).get("found", "")) if state is not JobState.ATTESTED else "",
            )

    def _of_order(self, row: OrderRow) -> Iterable[News]:
        state = OrderState(row.state)
        if state in _TOLD_ORDERS:
            jobs = tuple(self._standing.job_news(job) for job in self._jobs.of_order(row.order_id))
            identity = str(derive_uuid(row.order_id, "news", state.value, str(row.turn)))
            yield News(identity, f"order.{state.value}", aware(row.updated_at), order_of(row), state, jobs, row.reason)

    def _completion(self, order_id: str) -> Iterable[News]:
        row = self._book.find(order_id)
        jobs = self._jobs.of_order(order_id)
        if row is None or row.state != OrderState.REQUESTED.value or not all(JobState(job.state).ended for job in jobs):
            return
        last = max((aware(job.updated_at) for job in jobs), default=aware(row.updated_at))
        told = tuple(self._standing.job_news(job) for job in jobs if not self._standing.drawn_again(job))
        identity = str(derive_uuid(order_id, "news", "completed", last.isoformat()))
        yield News(identity, "order.completed", last, order_of(row), OrderState.REQUESTED, told)

    def _write(self, news: Iterable[News], *, request_id: str = "") -> int:
        written = 0
        for one in news:
            with Session(self._engine) as session:
                if session.get(NewsRow, one.news_id) is not None:
                    continue
                row = NewsRow(
                    news_id=one.news_id,
                    kind=one.kind,
                    order_id=one.order.order_id if one.order else "",
                    request_id=request_id,
                    reason=one.reason,
                    content=NEWS.dump_python(one, mode="json"),
                    at=one.at,
                )
                session.add(row)
                now = datetime.now(UTC)
                for channel in self._channels:
                    if channel.wants(one):
                        session.add(DeliveryRow(news_id=one.news_id, channel=channel.name, state=_WAITING, next_at=now))
                session.commit()
                written += 1
        return written
