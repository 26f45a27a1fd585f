"""What is new: changes of orders and jobs, each written down once, with the channels that are to tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from veraicon.sections import RuleSettings
from veraicon.tables import JobRow

NEWS = TypeAdapter(News)

_TOLD_ORDERS = frozenset({OrderState.WAITING, OrderState.REQUESTED, OrderState.IGNORED, OrderState.REFUSED, OrderState.REVOKED})
_TOLD_JOBS = frozenset({JobState.HELD, JobState.ATTESTED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED})
# What changed shortly before the newest news is looked at again: transactions do not end in the order of their times.
_OVERLAP = timedelta(seconds=60)
# A site that never had news begins with the last day: what ended long ago is none.
_FIRST_LOOK = timedelta(days=1)
_WAITING = "waiting"


@dataclass(frozen=True)
class _Draft:
    """News that may be known already: its id is there before everything else is read for it."""

    news_id: str
    kind: str
    at: datetime
    order_id: str
    jobs: tuple[JobRow, ...]
    reason: str


class Newsroom:
    """Writes down what is new.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    channels : sequence of Channel
        Who is told: news is kept for those that want it when it is written down.
    rules : sequence of RuleSettings
        Which of them are told of an order that a rule covers.
    """

    def __init__(
        self,
        engine: sa.Engine,
        book: OrderBook,
        jobs: Jobs,
        outputs: Outputs,
        channels: Sequence[Channel],
        rules: Sequence[RuleSettings] = (),
    ) -> None:
        self._engine, self._jobs, self._book = engine, jobs, book
        self._standing, self._channels = OrderStanding(book, jobs, outputs), tuple(channels)
        self._only = {rule.name: frozenset(rule.tell) for rule in rules if rule.tell}

    def collect(self) -> int:
        """Write down every change since the last time; return how many are new."""
        since = self._since()
        jobs, orders = self._jobs.changed_since(since), self._book.changed_since(since)
        touched = sorted({job.order_id for job in jobs if job.order_id} | {row.order_id for row in orders})
        drafts = [draft for job in jobs for draft in self._of_job(job)]
        drafts += [draft for row in orders for draft in self._of_order(row)]
        drafts += [draft for order_id in touched for draft in self._completion(order_id)]
        known = self._known([draft.news_id for draft in drafts])
        new = [draft for draft in drafts if draft.news_id not in known]
        for draft in new:
            self._write(draft)
        return len(new)

    def _since(self) -> datetime:
        with Session(self._engine) as session:
            newest = session.exec(select(sa.func.max(col(NewsRow.at)))).one()
        return datetime.now(UTC) - _FIRST_LOOK if newest is None else aware(newest) - _OVERLAP

    def _of_job(self, job: JobRow) -> Iterator[_Draft]:
        state, at = JobState(job.state), aware(job.updated_at)
        if state in _TOLD_JOBS and not self._standing.drawn_again(job):
            identity = derive_uuid(job.request_id, "news", state.value, at.isoformat())
            reason = "" if state is JobState.ATTESTED else str((job.error or {}).get("found", ""))
            yield _Draft(str(identity), f"job.{state.value}", at, job.order_id, (job,), reason)

    def _of_order(self, row: OrderRow) -> Iterator[_Draft]:
        if OrderState(row.state) in _TOLD_ORDERS:
            identity = derive_uuid(row.order_id, "news", row.state, str(row.turn))
            jobs = tuple(self._jobs.of_order(row.order_id))
            yield _Draft(str(identity), f"order.{row.state}", aware(row.updated_at), row.order_id, jobs, row.reason)

    def _completion(self, order_id: str) -> Iterator[_Draft]:
        """Yield that an order is completed: all its jobs have ended, and none of them was drawn again."""
        row, jobs = self._book.find(order_id), self._jobs.of_order(order_id)
        if row is None or row.state != OrderState.REQUESTED.value or not all(JobState(job.state).ended for job in jobs):
            return
        last = max((aware(job.updated_at) for job in jobs), default=aware(row.updated_at))
        final = tuple(job for job in jobs if not self._standing.drawn_again(job))
        identity = derive_uuid(order_id, "news", "completed", last.isoformat())
        yield _Draft(str(identity), "order.completed", last, order_id, final, "")

    def _known(self, identities: Sequence[str]) -> set[str]:
        with Session(self._engine) as session:
            return set(session.exec(select(NewsRow.news_id).where(col(NewsRow.news_id).in_(identities))))

    def _write(self, draft: _Draft) -> None:
        """Write one piece of news and who is to be told of it, in one transaction."""
        row = self._book.find(draft.order_id)
        news = News(
            news_id=draft.news_id,
            kind=draft.kind,
            at=draft.at,
            order=order_of(row) if row else None,
            order_state=OrderState(row.state) if row else None,
            jobs=tuple(self._standing.job_news(job) for job in draft.jobs),
            reason=draft.reason,
        )
        content = NEWS.dump_python(news, mode="json")
        request_id = draft.jobs[0].request_id if draft.kind.startswith("job.") else ""
        now = datetime.now(UTC)
        only = self._only.get(row.rule) if row else None
        with Session(self._engine) as session:
            session.add(
                NewsRow(
                    news_id=draft.news_id,
                    kind=draft.kind,
                    order_id=draft.order_id,
                    request_id=request_id,
                    reason=draft.reason,
                    content=content,
                    at=draft.at,
                )
            )
            for channel in self._channels:
                if (only is None or channel.name in only) and channel.wants(news):
                    session.add(DeliveryRow(news_id=draft.news_id, channel=channel.name, state=_WAITING, next_at=now))
            session.commit()
