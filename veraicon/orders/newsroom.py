"""What is new: changes of orders and jobs, each written down once, with the channels that are to tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from veraicon.orders.tables import DeliveryRow, NewsMarkRow, NewsRow, OrderRow
from veraicon.pipeline import JobState
from veraicon.recall.outputs import Outputs, aware
from veraicon.sections import RuleSettings
from veraicon.tables import JobRow

NEWS = TypeAdapter(News)

_TOLD_ORDERS = frozenset({OrderState.WAITING, OrderState.REQUESTED, OrderState.IGNORED, OrderState.REFUSED, OrderState.REVOKED})
_TOLD_JOBS = frozenset({JobState.HELD, JobState.ATTESTED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED})
# What changed shortly before the last look is looked at again: transactions do not end in the order of their times, and the
# clocks of the machines that write them differ.
_OVERLAP = timedelta(seconds=120)
# A site that never had news begins with the last day: what ended long ago is none.
_FIRST_LOOK = timedelta(days=1)
_WAITING = "waiting"
_THE_MARK = 1
_MOST_AT_ONCE = 500


@dataclass(frozen=True)
class _Draft:
    """News that may be known already: its id is there before everything else is read for it.

    No jobs here: those of the order are read where it is news.
    """

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
        self._seen: set[str] = set()
        self._only = {rule.name: frozenset(rule.tell) for rule in rules if rule.tell}

    def collect(self) -> int:
        """Write down every change since the last time, in one transaction; return how many are new."""
        started = datetime.now(UTC)
        since = self._since(started)
        jobs, orders = self._jobs.changed_since(since), self._book.changed_since(since)
        touched = sorted({job.order_id for job in jobs if job.order_id} | {row.order_id for row in orders if _has_jobs(row)})
        drafts = [draft for job in jobs for draft in self._of_job(job)]
        drafts += [draft for row in orders for draft in self._of_order(row)]
        drafts += [draft for order_id in touched for draft in self._completion(order_id)]
        unseen = [draft for draft in drafts if draft.news_id not in self._seen]
        known = self._known([draft.news_id for draft in unseen])
        rows = [row for draft in unseen if draft.news_id not in known for row in self._rows(draft)]
        with Session(self._engine) as session:
            session.add_all(rows)
            session.merge(NewsMarkRow(number=_THE_MARK, looked_at=started))
            session.commit()
        self._seen = {draft.news_id for draft in drafts}
        return sum(isinstance(row, NewsRow) for row in rows)

    def _since(self, now: datetime) -> datetime:
        with Session(self._engine) as session:
            mark = session.get(NewsMarkRow, _THE_MARK)
        return now - _FIRST_LOOK if mark is None else aware(mark.looked_at) - _OVERLAP

    def _of_job(self, job: JobRow) -> Iterator[_Draft]:
        state, at = JobState(job.state), aware(job.updated_at)
        if state in _TOLD_JOBS and not self._standing.drawn_again(job):
            identity = derive_uuid(job.request_id, "news", state.value, at.isoformat())
            reason = "" if state is JobState.ATTESTED else str((job.error or {}).get("found", ""))
            yield _Draft(str(identity), f"job.{state.value}", at, job.order_id, (job,), reason)

    def _of_order(self, row: OrderRow) -> Iterator[_Draft]:
        if OrderState(row.state) in _TOLD_ORDERS:
            identity = derive_uuid(row.order_id, "news", row.state, str(row.turn))
            yield _Draft(str(identity), f"order.{row.state}", aware(row.updated_at), row.order_id, (), row.reason)

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
        known: set[str] = set()
        with Session(self._engine) as session:
            for first in range(0, len(identities), _MOST_AT_ONCE):
                some = identities[first : first + _MOST_AT_ONCE]
                known.update(session.exec(select(NewsRow.news_id).where(col(NewsRow.news_id).in_(some))))
        return known

    def _rows(self, draft: _Draft) -> list[NewsRow | DeliveryRow]:
        """Return one piece of news and who is to be told of it; nothing where nobody wants it."""
        row = self._book.find(draft.order_id)
        jobs = draft.jobs or (tuple(self._jobs.of_order(draft.order_id)) if draft.order_id else ())
        news = News(
            news_id=draft.news_id,
            kind=draft.kind,
            at=draft.at,
            order=order_of(row) if row else None,
            order_state=OrderState(row.state) if row else None,
            jobs=tuple(self._standing.job_news(job) for job in jobs),
            reason=draft.reason,
        )
        only = self._only.get(row.rule) if row else None
        wanted = [one.name for one in self._channels if (only is None or one.name in only) and one.wants(news)]
        if not wanted:
            return []
        written = NewsRow(
            news_id=draft.news_id,
            kind=draft.kind,
            order_id=draft.order_id,
            request_id=jobs[0].request_id if draft.kind.startswith("job.") else "",
            reason=draft.reason,
            content=NEWS.dump_python(replace(news, order=None), mode="json"),
            at=draft.at,
        )
        now = datetime.now(UTC)
        return [written, *(DeliveryRow(news_id=draft.news_id, channel=name, state=_WAITING, next_at=now) for name in wanted)]


def _has_jobs(row: OrderRow) -> bool:
    return row.state == OrderState.REQUESTED.value
