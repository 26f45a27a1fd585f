"""What a FHIR server announces, as orders in the book: whatever came first, however often it comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import structlog

from domain.errors import RequestInvalid
from domain.ordering import Order, OrderOrigin, OrderState
from fhir_adapter.json_text import parse_json, write_json
from fhir_adapter.ordering.reading import Standing, asks_anew, order_of_resource, standing
from fhir_adapter.search import split_reference
from fhir_adapter.store import RawResource
from veraicon.orders.book import OrderBook

_log = structlog.get_logger()

_TURNED_DOWN = (OrderState.REFUSED.value, OrderState.IGNORED.value)


class Heard(Enum):
    """What an announcement was."""

    NEW = "new"
    KNOWN = "known"
    TAKEN_BACK = "taken back"
    NOTHING = "nothing"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Announcements:
    """Takes resources that a server announced, or that were found by asking it.

    Parameters
    ----------
    sender : str
        How lists and rules call the server.
    """

    book: OrderBook
    sender: str

    def take(self, raw: RawResource) -> Heard:
        """Keep what a resource asks for, or note that it was taken back; it is on disk when this returns.

        A resource that cannot be read is kept as a refused order, so that somebody sees it; its next version is read anew.
        A Task that its requester sets back to ``requested``, after it was refused or ignored, is looked at again.
        """
        # surrogatepass: JSON may escape half of a surrogate pair, and such a resource must not stop those after it
        now, content = datetime.now(UTC), raw.wire or write_json(raw.body).encode("utf-8", "surrogatepass")
        state = standing(raw)
        if state is Standing.NEITHER:
            return Heard.NOTHING
        try:
            split_reference(raw.reference)
            order = order_of_resource(raw, self.sender, now)
        except RequestInvalid as error:
            return self._unreadable(raw, error, now, content)
        if state is Standing.REVOKED:
            news = self.book.revoke(order, f"its {raw.resource_type} is {raw.body['status']}", content)
            return Heard.TAKEN_BACK if news else Heard.KNOWN
        return Heard.NEW if self.book.take(order, content) or self._asked_anew(order, raw, content) else Heard.KNOWN

    def _unreadable(self, raw: RawResource, error: RequestInvalid, now: datetime, content: bytes) -> Heard:
        order = Order(OrderOrigin.FHIR, self.sender, _shown_reference(raw), raw.resource_type, now)
        if self.book.keep_refused(order, error, content) or self._asked_anew(order, raw, content, error):
            _log.warning("announced resource refused", action="order", order_id=order.order_id, code=error.code)
        return Heard.UNREADABLE

    def _asked_anew(self, order: Order, raw: RawResource, content: bytes, error: RequestInvalid | None = None) -> bool:
        held = self.book.find(order.order_id)
        if held is None or held.state not in _TURNED_DOWN or not asks_anew(raw, _kept(held.raw, raw)):
            return False
        return self.book.ask_anew(held, content, error)


def _kept(content: bytes, heard: RawResource) -> object:
    """Return what was kept of an order; where nobody can tell its version, as if it were the one that is heard now."""
    try:
        return parse_json(content) if content else None  # a call of $generate without a body
    except ValueError:
        return heard.body


def _shown_reference(raw: RawResource) -> str:
    """Return ``Type/id``; where the id is none that FHIR allows, words in its place, so that the book can keep it."""
    try:
        split_reference(raw.reference)
    except RequestInvalid:
        return f"{raw.resource_type}/(no id that FHIR allows)"
    return raw.reference
