"""Event numbers of a topic subscription: what is missing is asked for, where the server has the backport's operations."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from domain.errors import PeerError, RequestInvalid, Retry
from fhir_adapter.server.client import FhirClient
from fhir_adapter.subscribing.topics import (
    Notification,
    highest_number,
    is_behind,
    missing_numbers,
    parse_notification,
    restarted,
)
from veraicon.subscriptions.polling import Poller
from veraicon.subscriptions.watches import Watches

_log = structlog.get_logger()


@dataclass(frozen=True)
class TopicEvents:
    """Follows the numbers of one site's topic subscriptions."""

    client: FhirClient
    poller: Poller
    watches: Watches

    def heard(self, criteria: str, notification: Notification) -> None:
        """Take a notification: read what it names, and ask for the events that it shows to be missing.

        The number moves after everything up to it was read: where the server could not be reached, the next notification or
        heartbeat shows the same gap again.
        """
        self.watches.heard(criteria, event_number=self._followed(criteria, notification))

    def query_status(self, criteria: str) -> None:
        """Ask how many events there were, after heartbeats stayed away.

        Raises
        ------
        PeerUnreachable
            If the server does not answer.
        """
        answer = parse_notification(self.client.invoke(self.watches.get(criteria).subscription, "status", {}))
        self.watches.follow(criteria, self._followed(criteria, answer))

    def _followed(self, criteria: str, notification: Notification) -> int:
        """Read what a notification brings and what it shows to be missing; return the number up to which all was read."""
        last = self.watches.get(criteria).event_number
        if self._counts_anew(criteria, last, notification):
            _log.warning("topic subscription counts from anew", action="subscribe", was=last)
            last = 0
        recovered = all(self._recover(criteria, gap) for gap in missing_numbers(last, notification))
        whole = self._read(criteria, notification) and recovered
        return highest_number(last, notification) if whole else last

    def _counts_anew(self, criteria: str, last: int, notification: Notification) -> bool:
        """Tell whether the server counts from the beginning again; of a notification that is behind, it is asked."""
        if not is_behind(last, notification):
            return restarted(last, notification)
        try:
            answer = self.client.invoke(self.watches.get(criteria).subscription, "status", {})
            return restarted(last, parse_notification(answer))
        except (PeerError, RequestInvalid) as error:  # a handshake or heartbeat will tell
            _log.info("the server does not say how many events there were", action="subscribe", code=error.code)
            return False

    def _recover(self, criteria: str, gap: range) -> bool:
        """Ask for past events until the server has no more of them; False where it could not be reached."""
        _log.info("events of a topic subscription are missing", action="subscribe", first=gap.start, last=gap.stop - 1)
        subscription = self.watches.get(criteria).subscription
        while gap:
            wanted = {"eventsSinceNumber": str(gap.start), "eventsUntilNumber": str(gap.stop - 1)}
            try:
                answer = parse_notification(self.client.invoke(subscription, "events", wanted))
            except (PeerError, RequestInvalid) as error:  # not every server has $events: the poll finds the same
                _log.info("the server gives no past events", action="subscribe", code=error.code)
                return error.retry is not Retry.BY_ITSELF
            if not self._read(criteria, answer):
                return False
            given = {event.number for event in answer.events if event.number in gap}
            upto = max(given, default=gap.stop - 1)
            if upto + 1 - gap.start > len(given):  # it does not keep them any more: what they were about, only a poll can find
                _log.warning("past events are gone at the server", action="subscribe", first=gap.start, last=upto)
            gap = range(upto + 1, gap.stop)
        return True

    def _read(self, criteria: str, notification: Notification) -> bool:
        return self.poller.take_focus(criteria, [event.focus for event in notification.events if event.focus])
