from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerUnreachable, RequestInvalid
from fhir_adapter.store import RawResource, Search
from fhir_adapter.subscribing.classic import needs_writing, rest_hook
from fhir_adapter.subscribing.polling import Watermark, parse_criteria, poll, with_revocations
from fhir_adapter.subscribing.topics import (
    Notification,
    TopicEvent,
    missing_numbers,
    parse_notification,
    restarted,
    topic_subscription,
)

_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_NO_OVERLAP = timedelta(0)
_NOW = _NOON + timedelta(days=1)


class _Server:
    """A store whose answers a test writes; keeps what it was asked."""

    def __init__(self, *resources: dict[str, Any]) -> None:
        self.resources, self.asked = list(resources), list[dict[str, str]]()

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Iterator[RawResource]:
        self.asked.append(dict(parameters))
        since = parameters.get("_lastUpdated", "ge0001-01-01T00:00:00+00:00").removeprefix("ge")
        for one in self.resources:
            at = one.get("meta", {}).get("lastUpdated")
            if at is None or datetime.fromisoformat(at) >= datetime.fromisoformat(since):
                yield RawResource(one)

    def search_many(self, searches: Sequence[Search]) -> Iterator[RawResource]:
        raise NotImplementedError

    def read(self, reference: str) -> RawResource:
        raise NotImplementedError

    def transact(self, bundle: Mapping[str, Any]) -> list[str]:
        raise NotImplementedError


def _task(identity: str, minutes: float | None) -> dict[str, Any]:
    meta = {} if minutes is None else {"lastUpdated": (_NOON + timedelta(minutes=minutes)).isoformat()}
    return {"resourceType": "Task", "id": identity, "meta": meta}


@pytest.mark.requirement("FHIR-SUB-005")
def test_a_resource_that_a_shifting_page_hid_is_found_by_the_next_poll_also_after_the_first() -> None:
    server, taken = _Server(_task("late", 60)), list[str]()
    criteria = parse_criteria("Task?status=requested")
    mark = poll(server, criteria, Watermark(), lambda raw: taken.append(raw.reference), overlap=_NO_OVERLAP, now=_NOW)
    server.resources.insert(0, _task("hidden", 0))  # an hour older than what was seen
    mark = poll(server, criteria, mark, lambda raw: taken.append(raw.reference), overlap=_NO_OVERLAP, now=_NOW)
    assert "Task/hidden" in taken
    poll(server, criteria, mark, lambda raw: None, overlap=timedelta(minutes=2), now=_NOW)
    assert server.asked[-1]["_lastUpdated"] == "ge2026-01-01T12:58:00.000+00:00", "the server's time less the overlap"


@pytest.mark.requirement("FHIR-SUB-005")
def test_times_in_the_future_hide_nothing_that_comes_before_them_also_where_they_were_kept_once() -> None:
    server, criteria = _Server(_task("far", 60 * 24 * 365), _task("also-far", 60 * 24 * 366)), parse_criteria("Task?")
    mark, taken = Watermark(_NOW + timedelta(days=9), _NOW + timedelta(days=9)), list[str]()
    for minutes in range(4):
        server.resources.append(_task(f"new-{minutes}", minutes))
        now = _NOON + timedelta(minutes=minutes)
        mark = poll(server, criteria, mark, lambda raw: taken.append(raw.reference), overlap=_NO_OVERLAP, now=now)
        assert f"Task/new-{minutes}" in taken
    assert mark == Watermark(_NOON + timedelta(minutes=3), _NOON + timedelta(minutes=2)), "the search grows narrower again"


@pytest.mark.requirement("FHIR-SUB-005")
def test_the_watermark_stays_where_one_resource_could_not_be_kept() -> None:
    def full(raw: RawResource) -> None:
        raise PeerUnreachable(found="a full book", allowed="room", action="wait")

    with pytest.raises(PeerUnreachable):
        poll(_Server(_task("a", 0)), parse_criteria("Task?"), Watermark(), full, overlap=_NO_OVERLAP, now=_NOW)


@pytest.mark.requirement("FHIR-SUB-005")
def test_a_resource_without_a_time_is_named_after_all_others_were_taken() -> None:
    taken: list[str] = []
    server = _Server(_task("timeless", None), _task("b", 1))
    with pytest.raises(PeerAnswerInvalid, match=r"meta\.lastUpdated"):
        poll(
            server, parse_criteria("Task?"), Watermark(), lambda raw: taken.append(raw.reference), overlap=_NO_OVERLAP, now=_NOW
        )
    assert taken == ["Task/timeless", "Task/b"]


@pytest.mark.parametrize("text", ["Task", "task?x=1", "Task?_lastUpdated=ge2026", "Task?_sort=x", "Task?a=1&a=2", "?a=1"])
def test_criteria_that_no_server_would_take_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_criteria(text)


@pytest.mark.requirement("FHIR-SUB-002")
def test_criteria_for_active_orders_also_find_those_taken_back_and_others_stay_as_they_are() -> None:
    assert with_revocations(parse_criteria("ImagingStudy?status=available")).text.endswith(
        "available,cancelled,entered-in-error"
    )
    for text in ("Task?code=https://x/y|generate", "ServiceRequest?status=draft", "Patient?"):
        assert with_revocations(parse_criteria(text)).text == text


def _wanted() -> dict[str, Any]:
    return rest_hook("id-1", "Task?", "http://us/hooks/fhir/x", "secret", payload=False, end=_NOON + timedelta(days=7))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "off"}, "status"),
        ({"status": "error"}, "status"),
        ({"criteria": "Task?status=x"}, "criteria"),
        ({"end": "2026-01-03T12:00:00+14:00"}, "ends soon"),
        ({"end": "2026-01-09T01:00:00+14:00", "status": "active"}, ""),
    ],
)
def test_a_subscription_is_written_again_only_for_a_reason(change: dict[str, Any], why: str) -> None:
    held = {**_wanted(), **change}
    held["channel"] = {name: part for name, part in held["channel"].items() if name != "header"}  # a server need not show it
    said = needs_writing(held, _wanted(), renew_before=_NOON + timedelta(days=3))
    assert why in said
    assert bool(said) == bool(why)


def test_other_filters_of_a_topic_are_a_reason_to_write_it_again() -> None:
    made = [
        topic_subscription("i", "http://t", [one], "http://us", "s", end=_NOON + timedelta(days=7), heartbeat_s=60)
        for one in "ab"
    ]
    assert "criteria" in needs_writing(made[0], made[1], renew_before=_NOON)


def _r4(kind: str, counted: int, *events: int) -> dict[str, Any]:
    parts = [
        {
            "name": "notification-event",
            "part": [
                {"name": "event-number", "valueString": str(n)},
                {"name": "focus", "valueReference": {"reference": f"Task/{n}"}},
            ],
        }
        for n in events
    ]
    values = [
        {"name": "type", "valueCode": kind},
        {"name": "status", "valueCode": "active"},
        {"name": "events-since-subscription-start", "valueString": str(counted)},
    ]
    status = {"resourceType": "Parameters", "parameter": [*values, *parts]}
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}]}


@pytest.mark.requirement("FHIR-SUB-004")
def test_notifications_of_r4_and_r4b_say_the_same() -> None:
    status = {
        "resourceType": "SubscriptionStatus",
        "type": "event-notification",
        "status": "active",
        "eventsSinceSubscriptionStart": "3",
        "notificationEvent": [{"eventNumber": "3", "focus": {"reference": "Task/3"}}],
    }
    r4b = {"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}]}
    assert parse_notification(r4b) == parse_notification(_r4("event-notification", 3, 3))


@pytest.mark.requirement("FHIR-SUB-004")
@pytest.mark.parametrize(
    ("last", "body", "missing", "anew"),
    [
        (4, _r4("event-notification", 5, 5), [], False),
        (4, _r4("event-notification", 7, 7), [5, 6], False),
        (4, _r4("event-notification", 9, 5), [6, 7, 8, 9], False),  # the later ones may have been lost already
        (4, _r4("event-notification", 9, 8, 5), [6, 7, 9], False),
        (4, _r4("heartbeat", 6), [5, 6], False),
        (4, _r4("event-notification", 3, 3), [], False),  # overtaken or restarted: the server is asked
        (4, _r4("handshake", 0), [], True),
    ],
)
def test_event_numbers_show_gaps_and_new_beginnings(last: int, body: dict[str, Any], missing: list[int], anew: bool) -> None:
    notification = parse_notification(body)
    assert [number for gap in missing_numbers(last, notification) for number in gap] == missing
    assert restarted(last, notification) is anew


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"resourceType": "Bundle", "type": "history"},
        {"resourceType": "Bundle", "type": "history", "entry": [{"resource": {"resourceType": "Task"}}]},
        {"resourceType": "Bundle", "type": "document", "entry": []},
        _r4("gossip", 1),
        _r4("event-notification", 1, -3),
    ],
)
def test_what_is_no_notification_is_refused(body: object) -> None:
    with pytest.raises(RequestInvalid):
        parse_notification(body)


def test_an_event_without_a_focus_is_counted() -> None:
    assert missing_numbers(0, Notification("event-notification", "active", 2, (TopicEvent(2, ""),))) == (range(1, 2),)
