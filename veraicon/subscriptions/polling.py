"""Polls one watch: every order that the server has is in the book when the watermark moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import sqlalchemy as sa
import structlog

from domain.errors import PeerError, RequestInvalid, Retry, VeraiconError
from fhir_adapter.store import FhirStore, RawResource
from fhir_adapter.subscribing.polling import parse_criteria, poll
from veraicon import faults
from veraicon.failures import as_ours, error_words
from veraicon.orders.announcing import Announcements, Heard
from veraicon.subscriptions.tables import WatchRow
from veraicon.subscriptions.watches import Watches

_log = structlog.get_logger()


@dataclass(frozen=True)
class Poller:
    """Asks the FHIR server what has changed.

    Parameters
    ----------
    overlap : timedelta
        How far each poll reaches back.
    """

    store: FhirStore
    announcements: Announcements
    watches: Watches
    overlap: timedelta
    # What the last whole poll read, by version, so that the overlap of polls costs the order book nothing.
    _seen: dict[str, dict[str, object]] = field(default_factory=dict, init=False, repr=False)

    def poll(self, criteria: str, *, nudged: bool, subscribed: bool) -> bool:
        """Poll one watch; return whether everything that changed is kept: else that is noted, and the watermark stays.

        A resource on which we fail ourselves holds up no other: those after it are taken before the poll counts as failed.

        Parameters
        ----------
        nudged : bool
            Whether a notification asked for this poll: what a poll finds without one is a gap that it has closed.
        subscribed : bool
            Whether the server should have announced what is found.
        """
        counts: Counter[Heard] = Counter()
        watermark = self.watches.watermark(criteria)
        first = watermark.newest is None
        known, seen = {} if first else self._seen.get(criteria, {}), dict[str, object]()
        broken: list[Exception] = []

        def take(raw: RawResource) -> None:
            version = raw.body.get("meta")
            if version is None or known.get(raw.reference) != version:
                try:
                    counts[self.announcements.take(raw)] += 1
                except (VeraiconError, sa.exc.OperationalError):
                    raise
                except Exception as caught:  # noqa: BLE001  # the edge: the poll fails by it, at its end
                    broken.append(caught)
                faults.reach("watch:taken")
            seen[raw.reference] = version

        try:
            parsed, now = parse_criteria(criteria), datetime.now(UTC)
            moved = poll(self.store, parsed, watermark, take, overlap=self.overlap, now=now)
            if broken:
                raise broken[0]
        except sa.exc.OperationalError:
            raise  # the database is away, and with it the means to note anything
        except Exception as caught:  # noqa: BLE001  # the edge: a watch that ends would leave orders unheard for good
            error = as_ours(caught)
            self.watches.change(criteria, partial(_failed, counts=counts, error=error))
            _log.warning("a poll did not come to its end", action="poll", code=error.code, found=error.found)
            return False

        def note(row: WatchRow) -> None:
            _count(row, counts)
            row.newest, row.before, row.polled_at, row.error = moved.newest, moved.before, datetime.now(UTC), None
            if subscribed and not nudged and not first:
                row.gaps += counts[Heard.NEW] + counts[Heard.TAKEN_BACK]

        self.watches.change(criteria, note)
        self._seen[criteria] = seen
        return True

    def take_focus(self, criteria: str, references: Sequence[str]) -> bool:
        """Read what notifications named, and keep it: a topic may announce what the criteria do not find.

        Returns
        -------
        bool
            False where the server could not be reached for one of them; what it refuses (deleted since) is passed over.
        """
        counts: Counter[Heard] = Counter()
        reached = True
        for reference in dict.fromkeys(references):
            try:
                counts[self.announcements.take(self.store.read(reference))] += 1
            except (PeerError, RequestInvalid) as error:
                reached = reached and error.retry is not Retry.BY_ITSELF
                _log.warning("what a notification named cannot be read", action="subscribe", code=error.code)
        self.watches.change(criteria, lambda row: _count(row, counts))
        return reached


def _count(row: WatchRow, counts: Counter[Heard]) -> None:
    row.found += counts[Heard.NEW]
    row.repeated += counts[Heard.KNOWN]
    row.unreadable += counts[Heard.UNREADABLE]


def _failed(row: WatchRow, counts: Counter[Heard], error: VeraiconError) -> None:
    _count(row, counts)
    row.error = {**error_words(error), "at": datetime.now(UTC).isoformat(timespec="seconds")}
