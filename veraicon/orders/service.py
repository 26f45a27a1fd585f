"""The threads of `serve` that look at orders and tell news."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from generators.cards import bundle_folder, read_card
from veraicon.orders.channels import Channel, channels_of
from veraicon.orders.fetching import ImageFetching
from veraicon.orders.images import FittingSeries
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
_PAUSE_AFTER_FAILURE_S = 5.0


def placing_of(site: Site, fetchers: Mapping[str, ImageFetching]) -> OrderPlacing:
    """Return what decides about the orders of a site."""
    return OrderPlacing(
        book=site.orders,
        jobs=site.jobs,
        archive=site.archive,
        fhir=site.fhir,
        rules=site.settings.rules,
        generation=site.settings.generation,
        fetch=lambda peer, row, order, verdict: fetchers[peer].ask(row, order, verdict),
        ours=site.outputs.ours,
        card=lambda: read_card(bundle_folder(site.settings.generation.model)),
        fitting=FittingSeries(site.archive),
    )


def fetchers_of(site: Site) -> dict[str, ImageFetching]:
    """Return what fetches from each peer that a rule names."""
    peers = dict.fromkeys(rule.fetch for rule in site.settings.rules if rule.fetch)
    return {peer: ImageFetching(peer, partial(_puller, site, peer), site.orders) for peer in peers}


def _puller(site: Site, peer: str) -> Puller:
    return Puller(named_remote(site.settings, peer), site.archive)


def fetchable(settings: Settings) -> set[str]:
    """Return the names of the peers from which images can be fetched."""
    return {*peers_of(settings), *(peer.name for peer in settings.dicomweb)}


class OrderService:
    """Looks at orders, fetches their images, writes down what is new, and tells it.

    Each of these has a thread of its own, and so has each peer and each channel: what one waits for holds up no other.

    Raises
    ------
    ConfigurationError
        If a rule could never be followed.
    """

    def __init__(self, site: Site, *, channels: tuple[Channel, ...] | None = None) -> None:
        channels = channels_of(site) if channels is None else channels
        rules = site.settings.rules
        require_rules(rules, peers=fetchable(site.settings), channels=[channel.name for channel in channels])
        fetchers = fetchers_of(site)
        self._placing = placing_of(site, fetchers)
        self._newsroom = Newsroom(site.engine, site.orders, site.jobs, site.outputs, channels, rules)
        telling = Telling(site.engine, channels)
        self._stop = threading.Event()
        work: dict[str, Callable[[], object]] = {"orders": self._placing.place_due, "news": self.note_news}
        work |= {f"fetch {peer}": fetcher.fetch_next for peer, fetcher in fetchers.items()}
        work |= {f"tell {channel.name}": partial(telling.tell_due, channel) for channel in channels}
        self._threads = [threading.Thread(target=self._repeat, args=item, name=item[0], daemon=True) for item in work.items()]

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
        self.note_news()

    def note_news(self) -> None:
        """Cancel the jobs of orders that were taken back, and write down what is new."""
        self._placing.cancel_revoked()
        self._newsroom.collect()

    def _repeat(self, name: str, work: Callable[[], object]) -> None:
        while not self._stop.wait(_PAUSE_S):
            try:
                work()
            except Exception as error:  # noqa: BLE001  # the edge: a thread that ends would leave orders unheard for good
                kind = type(getattr(error, "orig", None) or error).__name__
                _log.error("orders: a turn failed, and is tried again", action=name, error=kind)
                self._stop.wait(_PAUSE_AFTER_FAILURE_S)
