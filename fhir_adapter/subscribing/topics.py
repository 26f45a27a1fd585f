"""Topic-based subscriptions on R4 (Subscriptions R5 Backport IG): the resource, its notifications, and their numbers. Pure.

References
----------
HL7 Subscriptions R5 Backport IG 1.1.0: Backport Subscription, notification Bundles, ``$status``, ``$events``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from domain.errors import RequestInvalid
from fhir_adapter.elements import objects, optional_object

Json = dict[str, Any]

_BASE = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
_KINDS = frozenset({"handshake", "heartbeat", "event-notification", "query-status", "query-event"})


@dataclass(frozen=True, slots=True)
class TopicEvent:
    """One event: its number, counted from 1, and what it is about; empty where the payload does not say."""

    number: int
    focus: str


@dataclass(frozen=True, slots=True)
class Notification:
    """What a notification Bundle says.

    Attributes
    ----------
    kind : str
        ``handshake``, ``heartbeat``, ``event-notification``, ``query-status``, ``query-event``.
    events_since_start : int or None
        Events of the subscription so far, as the server counts them.
    """

    kind: str
    status: str
    events_since_start: int | None
    events: tuple[TopicEvent, ...]


def topic_subscription(
    identity: str,
    topic: str,
    filters: Sequence[str],
    endpoint: str,
    token: str,
    *,
    end: datetime,
    heartbeat_s: int,
) -> Json:
    """Return the Subscription to write; its notifications carry ids only.

    References
    ----------
    Backport IG, Profile: R4 Topic-Based Subscription.
    """
    subscription: Json = {
        "resourceType": "Subscription",
        "id": identity,
        "meta": {"profile": [f"{_BASE}/backport-subscription"]},
        "status": "requested",
        "end": end.isoformat(timespec="seconds"),
        "reason": "Veraicon looks for orders; a notification only says where to look",
        "criteria": topic,
        "channel": {
            "extension": [{"url": f"{_BASE}/backport-heartbeat-period", "valueUnsignedInt": heartbeat_s}],
            "type": "rest-hook",
            "endpoint": endpoint,
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{_BASE}/backport-payload-content", "valueCode": "id-only"}]},
            "header": [f"Authorization: Bearer {token}"],
        },
    }
    if filters:
        url = f"{_BASE}/backport-filter-criteria"
        subscription["_criteria"] = {"extension": [{"url": url, "valueString": one} for one in filters]}
    return subscription


def parse_notification(body: object) -> Notification:
    """Return what a notification says: its first entry is a Parameters (R4) or a SubscriptionStatus (R4B).

    Raises
    ------
    RequestInvalid
        If it is no such Bundle.
    """
    try:
        return _notification(_status_of(body))
    except ValueError as error:
        raise RequestInvalid(
            found=f"a subscription notification in which {error}",
            allowed="a Bundle of type history (or a searchset) whose first entry is Parameters or SubscriptionStatus",
            action="see the FHIR server's subscription; what it announces is found by the next poll",
        ) from error


def missing_numbers(last: int, notification: Notification) -> tuple[range, ...]:
    """Return the numbers of events that happened and that a notification does not bring, before, between and after its own.

    Parameters
    ----------
    last : int
        Highest number heard so far; 0 for none.

    Examples
    --------
    >>> missing_numbers(4, Notification("event-notification", "active", 7, (TopicEvent(7, ""),)))
    (range(5, 7),)
    """
    brought = sorted({event.number for event in notification.events if event.number > last})
    edges = [last, *brought, highest_number(last, notification) + 1]
    gaps = (range(before + 1, after) for before, after in pairwise(edges))
    return tuple(gap for gap in gaps if gap)


def highest_number(last: int, notification: Notification) -> int:
    """Return the number of the latest event that is known of after a notification; `last` is the one known of before it."""
    return max([last, *(event.number for event in notification.events), notification.events_since_start or 0])


def restarted(last: int, notification: Notification) -> bool:
    """Tell whether the server counts from the beginning again: the subscription was made anew.

    The other kinds are made when they are sent, and say how it stands; of an event see `is_behind`.
    """
    return notification.kind != "event-notification" and _counts_less(last, notification)


def is_behind(last: int, notification: Notification) -> bool:
    """Tell whether the notification of an event counts fewer than we know: a later one overtook it, or the count began anew."""
    return notification.kind == "event-notification" and _counts_less(last, notification)


def _counts_less(last: int, notification: Notification) -> bool:
    counted = notification.events_since_start
    return counted is not None and counted < last


def _status_of(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping) or body.get("resourceType") != "Bundle":
        raise ValueError("the body is no Bundle")
    if body.get("type") not in ("history", "searchset", "subscription-notification"):
        raise ValueError("the Bundle is of another type")
    first = next(iter(objects(body, "entry")), {})
    status = optional_object(first, "resource")
    if status is None:
        raise ValueError("no first entry stands")
    return status


def _notification(status: Mapping[str, Any]) -> Notification:
    if status.get("resourceType") == "SubscriptionStatus":
        told = {name: status.get(name) for name in ("type", "status", "eventsSinceSubscriptionStart")}
        events = [_event(event) for event in objects(status, "notificationEvent")]
    elif status.get("resourceType") == "Parameters":
        values = dict(_values(objects(status, "parameter")))
        told = {"type": values.get("type"), "status": values.get("status")}
        told["eventsSinceSubscriptionStart"] = values.get("eventsSinceSubscriptionStart")
        parts = [
            objects(one, "part") for one in objects(status, "parameter") if _camel(str(one.get("name"))) == "notificationEvent"
        ]
        events = [_event(dict(_values(part))) for part in parts]
    else:
        raise ValueError("the first entry is neither Parameters nor SubscriptionStatus")
    if told["type"] not in _KINDS:
        raise ValueError("its type is none that the backport knows")
    counted = told["eventsSinceSubscriptionStart"]
    return Notification(
        str(told["type"]), str(told["status"] or ""), None if counted is None else _count(counted), tuple(events)
    )


def _event(event: Mapping[str, Any]) -> TopicEvent:
    focus = event.get("focus")
    reference = focus.get("reference") if isinstance(focus, Mapping) else None
    return TopicEvent(_count(event.get("eventNumber")), str(reference or ""))


def _values(parameters: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each parameter; names are read in both spellings that servers write."""
    for one in parameters:
        value = next((one[name] for name in one if name.startswith("value")), None)
        yield _camel(str(one.get("name"))), value


def _camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(part.capitalize() for part in rest)


def _count(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError("a number of events is none")
    return int(text)
