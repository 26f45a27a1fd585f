"""The book of watches: how far each has come, and what it has heard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from domain.identifiers import derive_uuid
from fhir_adapter.subscribing.polling import Watermark
from veraicon.recall.outputs import aware
from veraicon.subscriptions.tables import WatchRow


def watch_name(criteria: str) -> str:
    """Return the name of a watch in addresses: it derives from its criteria, and tells nothing of it."""
    return str(derive_uuid("watch", criteria))


class Watches:
    """Keeps what is known of each watch.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The site's migrated database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def get(self, criteria: str) -> WatchRow:
        """Return what is known of a watch: of a new one, nothing."""
        with Session(self._engine) as session:
            return session.get(WatchRow, criteria) or WatchRow(criteria=criteria)

    def all(self) -> list[WatchRow]:
        """Return every watch that there ever was, by criteria."""
        with Session(self._engine) as session:
            return list(session.exec(select(WatchRow).order_by(col(WatchRow.criteria))))

    def watermark(self, criteria: str) -> Watermark:
        """Return how far the polls of a watch have come."""
        row = self.get(criteria)
        return Watermark(aware(row.newest) if row.newest else None, aware(row.before) if row.before else None)

    def change(self, criteria: str, change: Callable[[WatchRow], None]) -> None:
        """Change what is known of a watch, in one transaction."""
        with Session(self._engine) as session:
            row = session.get(WatchRow, criteria, with_for_update=True) or WatchRow(criteria=criteria)
            change(row)
            session.add(row)
            session.commit()

    def heard(self, criteria: str, *, event_number: int | None = None) -> None:
        """Note a notification; `event_number` is the highest that it carried, or where the server counts from anew."""
        now = datetime.now(UTC)

        def note(row: WatchRow) -> None:
            row.heard, row.heard_at = row.heard + 1, now
            if event_number is not None:
                row.event_number = event_number

        self.change(criteria, note)

    def follow(self, criteria: str, event_number: int) -> None:
        """Note up to which number the events of a topic were read, without a notification."""

        def note(row: WatchRow) -> None:
            row.event_number = event_number

        self.change(criteria, note)

    def begin_anew(self, criteria: str) -> None:
        """Have the next poll of a watch begin with everything that the server has."""

        def clear(row: WatchRow) -> None:
            row.newest = row.before = None

        self.change(criteria, clear)
