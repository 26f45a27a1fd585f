"""Topic events that are lost, repeated, overtaken and counted anew: each is read, and the number moves over nothing unread."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.errors import PeerRefused, PeerUnreachable
from fhir_adapter.store import RawResource
from fhir_adapter.subscribing.topics import Notification, parse_notification
from veraicon.orders.announcing import Announcements
from veraicon.settings import load_settings
from veraicon.subscriptions.keeping import SubscriptionKeeper
from veraicon.subscriptions.recovering import TopicEvents
from veraicon.subscriptions.service import SubscriptionService, poller_of
from veraicon.subscriptions.watches import Watches
from veraicon.wiring import Site, open_site

_CRITERIA = "Task?"


def _bundle(kind: str, counted: int, numbers: list[int]) -> dict[str, Any]:
    events = [{"eventNumber": str(one), "focus": {"reference": f"Task/e{one}"}} for one in numbers]
    status = {
        "resourceType": "SubscriptionStatus",
        "type": kind,
        "status": "active",
        "eventsSinceSubscriptionStart": str(counted),
        "notificationEvent": events,
    }
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": status}]}


def _event(counted: int, *numbers: int) -> Notification:
    return parse_notification(_bundle("event-notification", counted, list(numbers)))


class _TopicServer:
    """A server that counts events, and gives past ones a few at a time; says what was asked of it."""

    def __init__(self) -> None:
        self.counted, self.away, self.keeps_events, self.most = 0, False, True, 3
        self.asked: list[str] = []

    def read(self, reference: str) -> RawResource:
        if self.away:
            raise PeerUnreachable(found="nobody", allowed="an answer", action="wait")
        code = {"coding": [{"system": "https://veraicon.dev/fhir/CodeSystem/task", "code": "generate"}]}
        identity = reference.split("/")[1]
        return RawResource({"resourceType": "Task", "id": identity, "status": "requested", "intent": "order", "code": code})

    def invoke(self, reference: str, operation: str, parameters: dict[str, str]) -> dict[str, Any]:
        self.asked.append(operation)
        if self.away:
            raise PeerUnreachable(found="nobody", allowed="an answer", action="wait")
        if operation == "status":
            return _bundle("query-status", self.counted, [])
        if not self.keeps_events:
            raise PeerRefused(found="HTTP status 404", allowed="2xx", action="look")
        first, last = int(parameters["eventsSinceNumber"]), int(parameters["eventsUntilNumber"])
        return _bundle("query-event", self.counted, list(range(first, min(last, self.counted) + 1))[: self.most])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as opened:
        yield opened


@pytest.fixture
def server(site: Site, monkeypatch: pytest.MonkeyPatch) -> _TopicServer:
    made = _TopicServer()
    monkeypatch.setattr(site.fhir, "read", made.read)
    return made


@pytest.fixture
def topics(site: Site, server: _TopicServer) -> TopicEvents:
    client: Any = server
    return TopicEvents(client, poller_of(site), Watches(site.engine))


def _read(site: Site) -> set[int]:
    return {int(row.reference.removeprefix("Task/e")) for row in site.orders.recent(limit=1_000)}


def _number(site: Site) -> int:
    return Watches(site.engine).get(_CRITERIA).event_number


@pytest.mark.requirement("FHIR-SUB-004")
@pytest.mark.parametrize(
    ("notification", "read"),
    [(_event(9, 5), range(1, 10)), (_event(8, 5, 8), range(1, 9)), (_event(9, 8, 5), range(1, 10))],
    ids=["counts more than it brings", "holes in a bundle", "backwards"],
)
def test_every_event_that_a_notification_shows_to_exist_is_read(
    site: Site, server: _TopicServer, topics: TopicEvents, notification: Notification, read: range
) -> None:
    Watches(site.engine).follow(_CRITERIA, 4)
    server.counted = 9
    topics.heard(_CRITERIA, notification)
    assert _read(site) == set(read) - {1, 2, 3, 4}
    assert _number(site) == read.stop - 1


@pytest.mark.requirement("FHIR-SUB-004")
def test_the_number_stays_while_the_server_cannot_be_reached_and_moves_on_where_it_keeps_no_events(
    site: Site, server: _TopicServer, topics: TopicEvents
) -> None:
    server.counted, server.away = 3, True
    topics.heard(_CRITERIA, _event(3, 3))
    assert (_number(site), _read(site)) == (0, set())
    server.away, server.keeps_events = False, False
    topics.heard(_CRITERIA, _event(3, 3))
    assert (_number(site), _read(site)) == (3, {3})


@pytest.mark.requirement("FHIR-SUB-004")
def test_a_subscription_that_was_made_anew_is_followed_from_its_first_event_also_without_its_handshake(
    site: Site, server: _TopicServer, topics: TopicEvents
) -> None:
    Watches(site.engine).follow(_CRITERIA, 50)
    server.counted = 50
    topics.heard(_CRITERIA, _event(49, 49))  # overtaken only: the server says so
    assert _number(site) == 50
    server.counted = 3
    topics.heard(_CRITERIA, _event(3, 3))
    assert (_number(site), _read(site)) == (3, {1, 2, 3, 49})
    Watches(site.engine).follow(_CRITERIA, 2)
    keeper = SubscriptionKeeper(site.fhir, Watches(site.engine), site.settings.subscriptions, "token")
    keeper.keep(_CRITERIA)  # there was none, so one that begins at 1 was written
    assert _number(site) == 0


@pytest.mark.requirement("FHIR-SUB-004")
@pytest.mark.parametrize("seed", range(5))
def test_events_that_are_lost_repeated_batched_and_reordered_are_all_read(
    site: Site, server: _TopicServer, topics: TopicEvents, seed: int
) -> None:
    chance, server.counted = random.Random(seed), 60
    sent: list[Notification] = []
    first = 1
    while first <= 60:
        size = chance.randint(1, 4)
        batch = list(range(first, min(first + size, 61)))
        first += size
        sent += [_event(batch[-1], *batch)] * (0 if chance.random() < 0.4 else chance.randint(1, 2))
    for start in range(0, len(sent), 5):
        overtaking = sent[start : start + 5]
        chance.shuffle(overtaking)
        for notification in overtaking:
            topics.heard(_CRITERIA, notification)
    topics.heard(_CRITERIA, parse_notification(_bundle("heartbeat", 60, [])))
    assert _read(site) == set(range(1, 61))
    assert _number(site) == 60


@pytest.mark.requirement("FHIR-SUB-005")
def test_what_nobody_foresaw_ends_neither_a_poll_nor_the_thread_and_is_seen(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"coding": [{"system": "https://veraicon.dev/fhir/CodeSystem/task", "code": "generate"}]}
    for name in ("a", "b"):
        task = {"resourceType": "Task", "id": name, "status": "requested", "intent": "order", "code": code}
        entry = {"resource": task, "request": {"method": "PUT", "url": f"Task/{name}"}}
        site.fhir.transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    real = Announcements.take

    def breaks(self: Announcements, raw: RawResource) -> object:
        if raw.body["id"] == "a":
            raise KeyError("a name that nobody may read")
        return real(self, raw)

    criteria = site.settings.subscriptions.criteria[0]
    service = SubscriptionService(site)
    with monkeypatch.context() as patch:
        patch.setattr(Announcements, "take", breaks)
        service.look()
        watch = Watches(site.engine).get(criteria)
        assert [row.reference for row in site.orders.recent()] == ["Task/b"], "what comes after it is taken"
        assert watch.newest is None, "so it is read again"
        assert watch.error is not None
        assert "KeyError" in str(watch.error["found"])
        assert "nobody may read" not in str(watch.error)
    assert poller_of(site).poll(criteria, nudged=False, subscribed=False)
    assert len(site.orders.recent()) == 2


@pytest.mark.requirement("FHIR-SUB-003")
def test_who_calls_all_the_time_does_not_keep_us_from_looking(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    criteria, service, calls = site.settings.subscriptions.criteria[0], SubscriptionService(site), [0]

    def calls_again(*_: object, **__: object) -> None:
        calls[0] += 1
        assert calls[0] < 100, "the turn does not end"
        service.hear(criteria, None)

    monkeypatch.setattr(Watches, "heard", calls_again)
    service.hear(criteria, None)
    service.look()
    service.look()
    assert calls == [2]
