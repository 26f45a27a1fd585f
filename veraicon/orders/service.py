"""The threads of `serve` that look at orders and tell news."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
import structlog

from generators.cards import bundle_folder, read_card
from veraicon.orders.channels import Channel, channels_of
from veraicon.orders.newsroom import Newsroom
from veraicon.orders.placing import OrderPlacing
from veraicon.orders.rules import require_rules
from veraicon.orders.telling import Telling
from veraicon.peers import named_remote, peers_of
from veraicon.pulls import Puller
from veraicon.settings import Settings
from veraicon.wiring import Site

_log = structlog.get_logger()

_PAUSE_S = 0.5


def placing_of(site: Site) -> OrderPlacing:
    """Return what decides about the orders of a site."""
    return OrderPlacing(
        book=site.orders,
        jobs=site.jobs,
        archive=site.archive,
        fhir=site.fhir,
        rules=site.settings.rules,
        generation=site.settings.generation,
        puller=lambda name: Puller(named_remote(site.settings, name), site.archive),
        ours=site.outputs.ours,
        card=lambda: read_card(bundle_folder(site.settings.generation.model)),
    )


def fetchable(settings: Settings) -> set[str]:
    """Return the names of the peers from which images can be fetched."""
    return {*peers_of(settings), *(peer.name for peer in settings.dicomweb)}


class OrderService:
    """Looks at orders, writes down what is new, and tells it: a thread for orders and news, and one for each channel.

    Raises
    ------
    ConfigurationError
        If a rule could never be followed.
    """

    def __init__(self, site: Site, *, channels: tuple[Channel, ...] | None = None) -> None:
        self._channels = channels_of(site) if channels is None else channels
        rules = site.settings.rules
        require_rules(rules, peers=fetchable(site.settings), channels=[channel.name for channel in self._channels])
        self._placing = placing_of(site)
        self._newsroom = Newsroom(site.engine, site.orders, site.jobs, site.outputs, self._channels, rules)
        self._telling = Telling(site.engine, self._channels)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(self.look,), name="orders", daemon=True)]
        for channel in self._channels:
            work = partial(self._telling.tell_due, channel)
            self._threads.append(threading.Thread(target=self._repeat, args=(work,), name=f"tell {channel.name}", daemon=True))

    def start(self) -> None:
        """Work in the background."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; what is not done yet is found at the next start."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def look(self) -> None:
        """Look once at every order that is due, and write down what is new."""
        self._placing.place_due()
        self._placing.cancel_revoked()
        self._newsroom.collect()

    def _repeat(self, work: Callable[[], object]) -> None:
        while not self._stop.wait(_PAUSE_S):
            try:
                work()
            except sa.exc.OperationalError as error:  # the database is away: everything stays where it is
                _log.warning("orders wait for the database", action="order", error=type(error.orig).__name__)
