"""What `veraicon doctor` says of a watch: whether the server says that our Subscription stands, and whether polls reach it."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.errors import ConfigurationError
from fhir_adapter.server.client import FhirClient
from fhir_adapter.subscribing.polling import parse_criteria
from veraicon.recall.outputs import aware
from veraicon.subscriptions.tables import WatchRow
from veraicon.subscriptions.watches import Watches
from veraicon.wiring import Site

# A poll that is late by this many of its pauses does not come any more.
_LATE = 10


def examine_watch(site: Site, criteria: str) -> str:
    """Return how a watch stands, in words.

    Raises
    ------
    ConfigurationError
        If its criteria are none, the server does not serve the Subscription, or the last poll failed.
    """
    parse_criteria(criteria)
    row, settings = Watches(site.engine).get(criteria), site.settings.subscriptions
    if row.error:
        raise ConfigurationError(
            found=f"a poll that failed: {row.error.get('found')}",
            allowed=str(row.error.get("allowed")),
            action=f"{row.error.get('next')}; the poll is made again by itself",
        )
    subscribes = settings.way != "poll" and isinstance(site.fhir, FhirClient)
    if subscribes and row.subscription and row.subscription_status != "active":
        raise ConfigurationError(
            found=f"{row.subscription} with status {row.subscription_status}",
            allowed="active",
            action="see that subscriptions are on at the FHIR server and that it reaches hook_url; polls go on meanwhile",
        )
    return f"{'subscribed and polled' if subscribes else 'polled'}, {_last_poll(row, settings.poll_s)}"


def _last_poll(row: WatchRow, poll_s: float) -> str:
    if row.polled_at is None:
        return "not yet: serve has not run with it"
    age_s = (datetime.now(UTC) - aware(row.polled_at)).total_seconds()
    late = age_s > _LATE * max(poll_s, 1.0)
    return f"last {age_s:.0f} s ago{', so serve does not run, or its log says why not' if late else ''}, {row.gaps} gaps closed"
