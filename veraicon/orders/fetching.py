"""Fetches the images of orders from peers, each peer at its own pace: a slow PACS holds up nobody but those who wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from domain.errors import PeerUnreachable, VeraiconError
from domain.ordering import Order
from veraicon.orders.book import OrderBook
from veraicon.orders.images import fetch_images
from veraicon.orders.rules import Verdict
from veraicon.orders.tables import OrderRow
from veraicon.pulls import Puller

_log = structlog.get_logger()


@dataclass(frozen=True)
class _Wanted:
    row: OrderRow
    order: Order
    verdict: Verdict


class ImageFetching:
    """What is to be fetched from one peer; kept in memory only: an order that waits asks again by itself.

    Parameters
    ----------
    puller : callable
        Returns what fetches from the peer.
    away_s : float
        How long a peer that does not answer is left alone.
    """

    def __init__(self, peer: str, puller: Callable[[], Puller], book: OrderBook, *, away_s: float = 30.0) -> None:
        self.peer = peer
        self._puller, self._book, self._away_s = puller, book, away_s
        self._wanted: dict[str, _Wanted] = {}
        self._lock = threading.Lock()
        self._away_until = 0.0

    def ask(self, row: OrderRow, order: Order, verdict: Verdict) -> None:
        """Have the images of an order fetched, once however often it asks."""
        with self._lock:
            self._wanted.setdefault(row.order_id, _Wanted(row, order, verdict))

    def fetch_next(self) -> bool:
        """Fetch for the order that has waited longest; return False where none waits, or while the peer is away."""
        if time.monotonic() < self._away_until:
            return False
        with self._lock:
            wanted = next(iter(self._wanted.values()), None)
        if wanted is None:
            return False
        try:
            fetch_images(self._puller(), wanted.order, wanted.verdict)
            self._book.look_again(wanted.row.order_id)
        except VeraiconError as error:
            self._failed(wanted, error)
        finally:
            with self._lock:
                self._wanted.pop(wanted.row.order_id, None)
        return True

    def _failed(self, wanted: _Wanted, error: VeraiconError) -> None:
        """Note why the images of an order did not come; it asks again when its pause is over."""
        if isinstance(error, PeerUnreachable):
            self._away_until = time.monotonic() + self._away_s
        row = self._book.row(wanted.row.order_id)
        reason = f"{self.peer} does not give its images"
        self._book.waits(row, reason, rule=wanted.verdict.rule, pause_s=self._away_s, error=error)
        _log.warning("images of an order not fetched", action="order", order_id=row.order_id, peer=self.peer, code=error.code)
