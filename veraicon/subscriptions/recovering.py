"""Event numbers of a topic subscription: what is missing is asked for, where the server has the backport's operations."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from domain.errors import PeerError, RequestInvalid, Retry
from fhir_adapter.server.client import FhirClient
from fhir_adapter.subscribing.topics import Notification, missing_numbers, parse_notification, restarted
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
        """Take a notification: read what it names, and ask for the events before it that did not come.

        The number moves after everything up to it was read: where the server could not be reached, the next notification or
        heartbeat shows the same gap again.
        """
        last = self.watches.get(criteria).event_number
        if restarted(last, notification):
            _log.warning("topic subscription counts from anew", action="subscribe", was=last)
            last = 0
        gap = missing_numbers(last, notification)
        highest = max([last, *(event.number for event in notification.events), notification.events_since_start or 0])
        recovered = not gap or self._recover(criteria, gap)
        whole = self._read(criteria, notification) and recovered
        self.watches.heard(criteria, event_number=highest if whole else last)

    def query_status(self, criteria: str) -> None:
        """Ask how many events there were, after heartbeats stayed away.

        Raises
        ------
        PeerUnreachable
            If the server does not answer.
        """
        row = self.watches.get(criteria)
        answer = parse_notification(self.client.invoke(row.subscription, "status", {}))
        if answer.events_since_start is not None and answer.events_since_start > row.event_number:
            whole = self._recover(criteria, range(row.event_number + 1, answer.events_since_start + 1))
            self.watches.heard(criteria, event_number=answer.events_since_start if whole else row.event_number)

    def _recover(self, criteria: str, gap: range) -> bool:
        """Ask for past events; False where the server could not be reached."""
        _log.info("events of a topic subscription are missing", action="subscribe", first=gap.start, last=gap.stop - 1)
        subscription = self.watches.get(criteria).subscription
        wanted = {"eventsSinceNumber": str(gap.start), "eventsUntilNumber": str(gap.stop - 1)}
        try:
            return self._read(criteria, parse_notification(self.client.invoke(subscription, "events", wanted)))
        except (PeerError, RequestInvalid) as error:  # not every server has $events: the poll finds the same
            _log.info("the server gives no past events", action="subscribe", code=error.code)
            return error.retry is not Retry.BY_ITSELF

    def _read(self, criteria: str, notification: Notification) -> bool:
        return self.poller.take_focus(criteria, [event.focus for event in notification.events if event.focus])
