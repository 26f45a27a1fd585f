"""What a FHIR server announces, as orders in the book: whatever came first, however often it comes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import structlog

from domain.errors import RequestInvalid
from domain.ordering import Order, OrderOrigin
from fhir_adapter.json_text import write_json
from fhir_adapter.ordering.reading import Standing, order_of_resource, standing
from fhir_adapter.search import split_reference
from fhir_adapter.store import RawResource
from veraicon.orders.book import OrderBook

_log = structlog.get_logger()


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
        """
        # surrogatepass: JSON may escape half of a surrogate pair, and such a resource must not stop those after it
        now, content = datetime.now(UTC), raw.wire or write_json(raw.body).encode("utf-8", "surrogatepass")
        state = standing(raw)
        if state is Standing.NEITHER:
            return Heard.NOTHING
        try:
            _require_unicode(content)
            split_reference(raw.reference)
            order = order_of_resource(raw, self.sender, now)
        except RequestInvalid as error:
            return self._unreadable(raw, error, now, content)
        if state is Standing.REVOKED:
            news = self.book.revoke(order, f"its {raw.resource_type} is {raw.body['status']}", content)
            return Heard.TAKEN_BACK if news else Heard.KNOWN
        return Heard.NEW if self.book.take(order, content) else Heard.KNOWN

    def _unreadable(self, raw: RawResource, error: RequestInvalid, now: datetime, content: bytes) -> Heard:
        order = Order(OrderOrigin.FHIR, self.sender, _shown_reference(raw), raw.resource_type, now)
        self.book.take(order, content)
        self.book.refused(order.order_id, error)
        _log.warning("announced resource refused", action="order", order_id=order.order_id, code=error.code)
        return Heard.UNREADABLE


def _require_unicode(content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise RequestInvalid(
            found="a resource with half of a surrogate pair in a string",
            allowed="text that UTF-8 can carry",
            action="correct the resource on the FHIR server, then order again",
        ) from error


def _shown_reference(raw: RawResource) -> str:
    """Return ``Type/id``; where the id is none that FHIR allows, words in its place, so that the book can keep it."""
    try:
        split_reference(raw.reference)
    except RequestInvalid:
        return f"{raw.resource_type}/(no id that FHIR allows)"
    return raw.reference
