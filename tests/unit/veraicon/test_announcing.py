from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.errors import PeerRefused, PeerUnreachable
from fhir_adapter.store import RawResource
from veraicon.orders.announcing import Announcements, Heard
from veraicon.settings import load_settings
from veraicon.subscriptions.service import SubscriptionService, poller_of
from veraicon.subscriptions.watches import Watches
from veraicon.wiring import Site, open_site

_DEFAULT = "Task?code=https://veraicon.dev/fhir/CodeSystem/task|generate"
_CODE = {"coding": [{"system": "https://veraicon.dev/fhir/CodeSystem/task", "code": "generate"}]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as opened:
        yield opened


def _task(status: str = "requested", identity: str = "a", **elements: Any) -> RawResource:
    return RawResource({"resourceType": "Task", "id": identity, "status": status, "intent": "order", "code": _CODE, **elements})


@pytest.mark.requirement("FHIR-SUB-002")
@pytest.mark.parametrize(
    "statuses", [("requested", "cancelled"), ("cancelled", "requested"), ("cancelled", "requested", "cancelled")]
)
def test_what_was_taken_back_stays_so_in_whatever_order_it_is_heard(site: Site, statuses: tuple[str, ...]) -> None:
    announcements = Announcements(site.orders, "fhir")
    for status in statuses:
        announcements.take(_task(status))
    assert [(row.reference, row.state) for row in site.orders.recent()] == [("Task/a", "revoked")]


@pytest.mark.parametrize(
    "raw",
    [
        _task(
            input=[{"type": {"coding": [{"system": _CODE["coding"][0]["system"], "code": "model"}]}, "valueString": "\ud800"}]
        ),
        _task(input="none"),
        _task(identity="x" * 4_000),
        _task(identity="../../etc"),
    ],
)
def test_an_unreadable_resource_is_kept_as_refused_and_stops_nothing(site: Site, raw: RawResource) -> None:
    announcements = Announcements(site.orders, "fhir")
    assert announcements.take(raw) is Heard.UNREADABLE
    assert announcements.take(_task(identity="next")) is Heard.NEW
    assert sorted(row.state for row in site.orders.recent()) == ["received", "refused"]


@pytest.mark.requirement("FHIR-SUB-005")
def test_a_site_without_a_fhir_server_finds_the_orders_in_its_own_store_once(site: Site) -> None:
    entry = {"resource": dict(_task().body), "request": {"method": "PUT", "url": "Task/a"}}
    site.fhir.transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    service = SubscriptionService(site)
    service.look()
    for _ in range(2):
        assert poller_of(site).poll(_DEFAULT, nudged=False, subscribed=False)
    assert [row.reference for row in site.orders.recent()] == ["Task/a"]
    watch = Watches(site.engine).get(_DEFAULT)
    assert (watch.found, watch.heard, watch.error) == (1, 0, None)
    assert watch.newest is not None


@pytest.mark.requirement("FHIR-SUB-005")
def test_a_server_that_is_away_is_noted_and_asked_again_from_the_same_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> Iterator[RawResource]:
        raise PeerUnreachable(found="nobody", allowed="an answer", action="wait")

    poller = poller_of(site)
    with monkeypatch.context() as patch:
        patch.setattr(site.fhir, "search", away)
        assert not poller.poll(_DEFAULT, nudged=True, subscribed=True)
    noted = Watches(site.engine).get(_DEFAULT)
    assert noted.error is not None
    assert (noted.error["found"], noted.newest) == ("nobody", None)
    assert poller.poll(_DEFAULT, nudged=True, subscribed=True)
    assert Watches(site.engine).get(_DEFAULT).error is None


@pytest.mark.requirement("FHIR-SUB-004")
@pytest.mark.parametrize(("kind", "reached"), [(PeerUnreachable, False), (PeerRefused, True)])
def test_one_named_resource_that_cannot_be_read_does_not_hide_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: type[PeerUnreachable] | type[PeerRefused], reached: bool
) -> None:
    def read(reference: str) -> RawResource:
        if reference == "Task/gone":
            raise kind(found="it", allowed="an answer", action="wait")
        return _task(identity=reference.split("/")[1])

    monkeypatch.setattr(site.fhir, "read", read)
    assert poller_of(site).take_focus(_DEFAULT, ["Task/gone", "Task/b", "Task/b"]) is reached
    assert [row.reference for row in site.orders.recent()] == ["Task/b"]
