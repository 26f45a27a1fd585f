"""The thread of `serve` that watches the FHIR server, or our own store."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog

from fhir_adapter.server.client import FhirClient
from fhir_adapter.subscribing.topics import Notification
from veraicon.failures import as_ours
from veraicon.orders.announcing import Announcements
from veraicon.recall.outputs import aware
from veraicon.subscriptions.keeping import SubscriptionKeeper, hook_token
from veraicon.subscriptions.polling import Poller
from veraicon.subscriptions.recovering import TopicEvents
from veraicon.subscriptions.watches import Watches, watch_name
from veraicon.wiring import Site

_log = structlog.get_logger()

SENDER = "fhir"
_PAUSE_S = 0.2
_LOCAL_POLL_S = 1.0
# What failed is done again before its time: what asked for a poll may have been the only notification.
_FIRST_PAUSE_S = 2.0
# After a turn that failed: the database is away, or what nobody foresaw.
_PAUSE_AFTER_FAILURE_S = 5.0
# Heartbeats may be late by one.
_MISSED_HEARTBEATS = 2.5


def poller_of(site: Site) -> Poller:
    """Return what polls the FHIR server of a site."""
    overlap = timedelta(seconds=site.settings.subscriptions.overlap_s)
    return Poller(site.fhir, Announcements(site.orders, SENDER), Watches(site.engine), overlap)


def keeper_of(site: Site) -> SubscriptionKeeper:
    """Return what keeps the Subscriptions of a site."""
    token = hook_token(site.settings.storage.folder)
    return SubscriptionKeeper(site.fhir, Watches(site.engine), site.settings.subscriptions, token)


class SubscriptionService:
    """Polls on time and when something was announced, and keeps our Subscriptions on the server.

    A notification only says that it is time to look: what it carries is never believed, so a forged, an old or a repeated one
    does no harm, and a lost one is made good by the next poll.
    """

    def __init__(self, site: Site) -> None:
        self._settings = site.settings.subscriptions
        self._watches, self._poller, self._keeper = Watches(site.engine), poller_of(site), keeper_of(site)
        remote = isinstance(site.fhir, FhirClient)
        self._subscribes = remote and self._settings.way != "poll"
        self._poll_s = self._settings.poll_s if remote else min(_LOCAL_POLL_S, self._settings.poll_s)
        self._topics = TopicEvents(site.fhir, self._poller, self._watches) if isinstance(site.fhir, FhirClient) else None
        self._names: Mapping[str, str] = {watch_name(one): one for one in self._settings.criteria}
        self._heard: queue.SimpleQueue[tuple[str, Notification | None]] = queue.SimpleQueue()
        self._next_poll = dict.fromkeys(self._settings.criteria, 0.0)
        self._next_check = dict.fromkeys(self._settings.criteria, 0.0)
        self._failures = dict.fromkeys(self._settings.criteria, 0)
        self._unsettled = dict.fromkeys(self._settings.criteria, 0)
        self._active: set[str] = set()
        # Watches that were called to look, until a whole poll has done it.
        self._nudged: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subscriptions", daemon=True)

    @property
    def names(self) -> Mapping[str, str]:
        """Criteria by the name of their hook."""
        return self._names

    def start(self) -> None:
        """Watch in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the next start begins where the last poll ended."""
        self._stop.set()
        self._thread.join(timeout=10)

    def hear(self, criteria: str, notification: Notification | None) -> None:
        """Take a notification of a watch; None for one of a rest-hook. It returns at once: the thread looks at it."""
        self._heard.put((criteria, notification))

    def look(self) -> None:
        """Take what was heard, then poll and check what is due."""
        self._take_heard()
        for criteria in self._settings.criteria:
            now = time.monotonic()
            if self._subscribes and now >= self._next_check[criteria]:
                self._check(criteria)
                self._unsettled[criteria] = 0 if criteria in self._active else self._unsettled[criteria] + 1
                self._next_check[criteria] = now + _pause_s(self._unsettled[criteria], self._settings.check_s)
            if now >= self._next_poll[criteria]:
                whole = self._poller.poll(criteria, nudged=criteria in self._nudged, subscribed=criteria in self._active)
                if whole:
                    self._nudged.discard(criteria)
                self._failures[criteria] = 0 if whole else self._failures[criteria] + 1
                self._next_poll[criteria] = time.monotonic() + _pause_s(self._failures[criteria], self._poll_s)

    def _take_heard(self) -> None:
        """Note the notifications that have come by now, and that the watches they are about have to be looked at."""
        for _ in range(self._heard.qsize()):  # not until it is empty: who calls all the time would keep us from looking
            criteria, notification = self._heard.get()
            self._nudged.add(criteria)
            self._next_poll[criteria] = 0.0
            if notification is not None and self._topics is not None:
                self._topics.heard(criteria, notification)
            else:
                self._watches.heard(criteria)

    def _check(self, criteria: str) -> None:
        """See that the Subscription stands, and that its heartbeats come; what stops us is noted, and looked at again."""
        try:
            active = self._keeper.keep(criteria)
            if active and self._is_silent(criteria) and self._topics is not None:
                self._topics.query_status(criteria)
        except sa.exc.OperationalError:
            raise  # the database is away, and with it the means to note anything
        except Exception as caught:  # noqa: BLE001  # the edge: polls go on, whatever the server says of its Subscriptions
            error, active = as_ours(caught), False
            _log.warning("subscription not kept", action="subscribe", code=error.code, found=error.found, next=error.action)
        (self._active.add if active else self._active.discard)(criteria)

    def _is_silent(self, criteria: str) -> bool:
        heard_at = self._watches.get(criteria).heard_at
        if self._settings.way != "topic" or heard_at is None:
            return False
        return datetime.now(UTC) - aware(heard_at) > timedelta(seconds=_MISSED_HEARTBEATS * self._settings.heartbeat_s)

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  # the edge: a thread that ends would leave orders unheard for good
                kind = type(getattr(error, "orig", None) or error).__name__
                _log.error("subscriptions: a turn failed, and is tried again", action="poll", error=kind)
                self._stop.wait(_PAUSE_AFTER_FAILURE_S)


def _pause_s(failures: int, regular_s: float) -> float:
    """Return how long to wait: regularly, or shorter after failures, growing up to that."""
    return min(regular_s, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20)) if failures else regular_s
