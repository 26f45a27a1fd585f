"""Orders that a real FHIR server announces: lost, repeated, overtaken and forged notifications, and our death in between."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import VeraiconSite, veraicon_site

_JSON = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json", "Cache-Control": "no-cache"}
_QUIET = "[generation]\non_receive = false\n[worker]\nembedded = false\n"
_TOPIC = "http://sekmet.dev/fhir/SubscriptionTopic/servicerequest-new"
_EVENTS = 1_000


class BadNetwork:
    """Stands between the FHIR server and us: drops, repeats and reorders what it is given, and always says that all is well."""

    def __init__(self, port: int, target: str, *, lost: float, repeats: Callable[[random.Random], int], delay_s: float) -> None:
        self.url, self.taken, self.sent = f"http://127.0.0.1:{port}", 0, 0
        self._target, self._lost, self._repeats, self._delay_s = target, lost, repeats, delay_s
        self._chance, self._lock = random.Random(4), threading.Lock()
        self._pool, self._caller = ThreadPoolExecutor(8), httpx.Client(verify=False, timeout=10)
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                network.take(self.command, self.path, {"Authorization": self.headers.get("Authorization", "")}, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        with self._lock:
            self.taken += 1
            if "handshake" not in body.decode() and self._chance.random() < self._lost:
                return
            delays = [self._chance.random() * self._delay_s for _ in range(self._repeats(self._chance))]
            self.sent += len(delays)
        for delay in delays:
            self._pool.submit(self._send, delay, method, path, headers, body)

    def _send(self, delay: float, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        time.sleep(delay)
        try:
            self._caller.request(method, f"{self._target}{path}", headers={**_JSON, **headers}, content=body)
        except httpx.TransportError:
            return  # our site is dead in this moment

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(cancel_futures=True)
        self._caller.close()


@pytest.fixture
def ehr(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """A FHIR server with one patient."""
    (tmp_path / "sekmet").mkdir()
    with running_sekmet(tmp_path / "sekmet", free_port()) as url:
        _put(url, {"resourceType": "Patient", "id": "p"})
        yield url


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[VeraiconSite]:
    with veraicon_site(tmp_path / "site", free_port) as one:
        yield one


def _put(base: str, resource: dict[str, Any]) -> None:
    url = f"{base}/{resource['resourceType']}/{resource['id']}"
    httpx.put(url, json=resource, headers=_JSON, timeout=30).raise_for_status()


def _service_request(identity: str, status: str = "active") -> dict[str, Any]:
    return {
        "resourceType": "ServiceRequest",
        "id": identity,
        "status": status,
        "intent": "order",
        "code": {"coding": [{"system": "http://loinc.org", "code": "24590-2"}]},
        "subject": {"reference": "Patient/p"},
    }


def _write_many(base: str, resources: list[dict[str, Any]]) -> None:
    for start in range(0, len(resources), 50):
        entries = [
            {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
            for one in resources[start : start + 50]
        ]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        httpx.post(base, json=bundle, headers=_JSON, timeout=60).raise_for_status()


def _orders(site: VeraiconSite) -> dict[str, str]:
    """State by reference, straight from the database: also while `serve` is dead."""
    with closing(sqlite3.connect(site.folder / "data" / "veraicon.sqlite", timeout=30)) as database:
        rows = database.execute("SELECT reference, state FROM asked_order").fetchall()
    assert len(rows) == len(dict(rows)), "no resource is two orders"
    return dict(rows)


def _watch(site: VeraiconSite) -> dict[str, Any]:
    listed = json.loads(site.run("subscriptions", "list", "--json").stdout)
    return dict(listed[0]) if listed else {}


def _held(ehr: str) -> dict[str, Any]:
    found = httpx.get(f"{ehr}/Subscription", headers=_JSON, timeout=30).json().get("entry", [])
    return dict(found[0]["resource"]) if found else {}


def _config(site: VeraiconSite, ehr: str, hook_url: str, more: str) -> None:
    site.write_config(
        f'{_QUIET}[fhir]\nbase_url = "{ehr}"\n[subscriptions]\ncriteria = ["ServiceRequest?status=active"]\n'
        f'hook_url = "{hook_url}"\n{more}'
    )


@pytest.mark.requirement("FHIR-SUB-001")
@pytest.mark.requirement("FHIR-SUB-002")
def test_a_thousand_events_lost_repeated_and_reordered_are_a_thousand_orders_across_a_kill(
    ehr: str, site: VeraiconSite, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    def repeats(chance: random.Random) -> int:
        return 19 if chance.random() < 0.05 else chance.randint(1, 2)

    network = BadNetwork(free_port(), site.url, lost=1 / 3, repeats=repeats, delay_s=1.0)
    try:
        _config(site, ehr, network.url, 'way = "rest-hook"\npayload = true\npoll_s = 3\n')
        serve = site.serve()
        eventually(lambda: _held(ehr).get("status") == "active")
        held = _held(ehr)
        _put(
            ehr, {**held, "status": "off"}
        )  # from here on we announce in its place, in the form of HAPI: its own calls are slow

        def announce(numbers: range) -> None:
            path, header = httpx.URL(held["channel"]["endpoint"]).path, held["channel"]["header"][0].split(": ", 1)
            for number in numbers:
                network.take("PUT", f"{path}/ServiceRequest/sr-{number}", dict([header]), b"{}")

        wanted = [_service_request(f"sr-{number}") for number in range(_EVENTS)]
        taken_back = {f"ServiceRequest/sr-{number}" for number in range(0, _EVENTS, 10)}
        _write_many(ehr, wanted[: _EVENTS // 2])
        announce(range(_EVENTS // 2))
        eventually(lambda: len(_orders(site)) > 50)
        serve.kill()
        serve.wait()
        _write_many(ehr, wanted[_EVENTS // 2 :])
        announce(range(_EVENTS // 2, _EVENTS * 3 // 4))
        _write_many(ehr, [_service_request(f"sr-{number}", "revoked") for number in range(0, _EVENTS, 10)])
        site.serve()
        announce(range(_EVENTS * 3 // 4, _EVENTS))
        announce(range(0, _EVENTS, 10))

        def settled() -> bool:
            orders = _orders(site)
            revoked = {reference for reference, state in orders.items() if state == "revoked"}
            return len(orders) == _EVENTS and revoked == taken_back and "received" not in orders.values()

        eventually(settled, deadline_s=60)
        assert set(_orders(site)) == {f"ServiceRequest/{one['id']}" for one in wanted}
        assert network.taken >= _EVENTS + _EVENTS // 10
        assert site.log().count("Traceback") == 0
    finally:
        network.close()


@pytest.mark.requirement("FHIR-SUB-003")
def test_an_empty_call_brings_the_order_at_once_and_a_forged_one_brings_nothing(
    ehr: str, site: VeraiconSite, eventually: Callable[..., object]
) -> None:
    _config(site, ehr, site.url, 'way = "rest-hook"\npoll_s = 3600\ncheck_s = 1\n')
    site.serve()
    eventually(lambda: _held(ehr).get("status") == "active")
    channel = _held(ehr)["channel"]
    assert "payload" not in channel
    hook, told = channel["endpoint"], channel["header"][0].split(": ", 1)[1]
    forged = httpx.put(f"{hook}/ServiceRequest/evil", json=_service_request("evil"), headers={"Authorization": "Bearer x"})
    assert forged.status_code == 401
    content = json.dumps({**_service_request("evil"), "note": [{"text": "x" * 3_000_000}]})
    believed = httpx.put(f"{hook}/ServiceRequest/evil", content=content, headers={"Authorization": told, "If-Match": '"3"'})
    assert (believed.status_code, believed.content) == (200, b"")
    broken = httpx.post(hook, content=b"<html>", headers={"Authorization": told})
    assert broken.json()["resourceType"] == "OperationOutcome"
    _put(ehr, _service_request("one"))
    eventually(lambda: "ServiceRequest/one" in _orders(site))
    assert "ServiceRequest/evil" not in _orders(site), "what a notification carries is never believed"
    assert (site.folder / "data" / "keys" / "fhir-hook-token").stat().st_mode & 0o777 == 0o600

    _put(ehr, {**_held(ehr), "status": "off"})
    eventually(lambda: _held(ehr).get("status") == "active")
    eventually(lambda: _watch(site).get("heard", 0) >= 2 and _watch(site)["status"] == "active")
    doctor = site.run("doctor", "--json")
    assert "subscription" in doctor.stdout


@pytest.mark.requirement("FHIR-SUB-004")
def test_a_topic_subscription_shakes_hands_beats_and_brings_what_its_events_name(
    ehr: str, site: VeraiconSite, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    lost = {"next": False}
    network = BadNetwork(free_port(), site.url, lost=0.0, repeats=lambda _: 0 if lost["next"] else 1, delay_s=0.0)
    try:
        more = f'way = "topic"\ntopic = "{_TOPIC}"\nheartbeat_s = 5\npoll_s = 3600\ncheck_s = 1\n'
        _config(site, ehr, network.url, more)
        site.serve()
        eventually(lambda: _held(ehr).get("status") == "active")
        eventually(lambda: _watch(site).get("heard", 0) >= 1)
        _put(ehr, _service_request("first"))
        eventually(lambda: "ServiceRequest/first" in _orders(site))
        assert _watch(site)["event_number"] == 1
        lost["next"] = True
        before = network.taken
        _put(ehr, _service_request("second"))
        eventually(lambda: network.taken > before)
        assert "ServiceRequest/second" not in _orders(site)
        lost["next"] = False
        eventually(lambda: "ServiceRequest/second" in _orders(site), deadline_s=20)  # the next heartbeat counts two
        assert _watch(site)["event_number"] == 2
    finally:
        network.close()
