"""Webhooks: orders that come by signed calls, and what receivers are told, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerError, PeerRefused, PeerUnreachable, Retry
from domain.identifiers import PatientIdentifier
from domain.ordering import JobNews, News, Order, OrderOrigin, OrderState
from tests.peers.http_stub import answering, stub
from veraicon.api.app import create_app
from veraicon.orders.webhooks import WebhookChannel
from veraicon.sections_webhooks import WebhookSettings
from veraicon.settings import load_settings
from veraicon.signing_hooks import is_signed, signature
from veraicon.wiring import Site, open_site

NEW, OLD = "whsec_" + "bmV3" * 8, "whsec_" + "b2xk" * 8
NOW = datetime(2026, 5, 1, tzinfo=UTC)
ORDER = Order(OrderOrigin.HL7V2, "engine", "ORM^O01 1", "ORM^O01", NOW, PatientIdentifier("MRN-77"), accession="ACC-9")
NEWS = News(
    "news-1", "order.completed", NOW, ORDER, OrderState.REQUESTED, (JobNews("job-1", "attested", "hippocampus-t1", NOW),)
)


def channel(url: str, **more: Any) -> WebhookChannel:
    return WebhookChannel(WebhookSettings(name="engine", url=url, secret=NEW, old_secrets=(OLD,), **more))


@pytest.mark.requirement("WEBHOOK-OUT-001")
def test_a_receiver_verifies_what_it_is_told_with_the_new_and_the_old_secret_and_no_patient_is_in_it() -> None:
    calls: list[tuple[dict[str, str], bytes]] = []

    def take(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        calls.append(({name.lower(): value for name, value in handler.headers.items()}, body))
        handler.send_response(204)
        handler.end_headers()

    with stub(take) as url:
        channel(url).send(NEWS)
        channel(url).send(NEWS)
    assert [headers["webhook-id"] for headers, _ in calls] == ["news-1", "news-1"]
    headers, body = calls[0]
    for secret in (NEW, OLD):
        told = (headers["webhook-id"], int(headers["webhook-timestamp"]), body, headers["webhook-signature"])
        assert is_signed([secret], *told)
    assert json.loads(body)["data"]["order"]["id"] == ORDER.order_id
    assert b"MRN-77" not in body
    assert b"ACC-9" not in body


@pytest.mark.requirement("WEBHOOK-OUT-001")
@pytest.mark.parametrize(("status", "kind", "retry"), [
    (503, PeerError, Retry.BY_ITSELF), (429, PeerError, Retry.BY_ITSELF), (400, PeerRefused, Retry.BY_HAND),
    (410, PeerRefused, Retry.BY_HAND), (302, PeerAnswerInvalid, Retry.BY_HAND),
])  # fmt: skip
def test_what_may_pass_is_told_again_by_itself_and_what_will_not_waits_for_a_person(
    status: int, kind: type[PeerError], retry: Retry
) -> None:
    with stub(answering(status, "text/plain", b"no")) as url, pytest.raises(kind) as refused:
        channel(url).send(NEWS)
    assert refused.value.retry is retry


@pytest.mark.requirement("WEBHOOK-OUT-001")
def test_a_receiver_that_hangs_or_is_away_is_told_again_by_itself() -> None:
    hanging = stub(lambda handler: time.sleep(0.5))
    with hanging as url, pytest.raises(PeerUnreachable, match="ReadTimeout"):
        channel(url, timeout_s=0.1).send(NEWS)
    with pytest.raises(PeerUnreachable):
        channel(url).send(NEWS)


def test_a_receiver_hears_only_what_its_patterns_cover() -> None:
    assert channel("http://h", events=("order.*",)).wants(NEWS)
    assert not channel("http://h", events=("job.*", "order.refused")).wants(NEWS)


@pytest.mark.parametrize("secret", ["letmein", "whsec_c2hvcnQ=", "whsec_!"])
def test_a_weak_secret_is_refused_at_start(secret: str) -> None:
    with pytest.raises(ValidationError, match="whsec_"):
        WebhookSettings(name="engine", url="http://h", secret=secret)


@pytest.mark.parametrize("url", ["http://[::1/x", "http://h:99999/", "https://:443/x", "http://user:word@h/", "http://a b/"])
def test_a_url_that_nothing_can_be_sent_to_is_refused_at_start(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        WebhookSettings(name="engine", url=url, secret=NEW)


def test_a_url_that_slipped_through_is_an_error_that_is_noted() -> None:
    settings = WebhookSettings(name="engine", url="http://h", secret=NEW).model_copy(update={"url": "http://[::1/x"})
    with pytest.raises(ConfigurationError, match="engine"):
        WebhookChannel(settings).send(NEWS)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    senders = [{"name": "his", "secret": NEW}]
    with open_site(load_settings(storage={"folder": str(tmp_path / "data")}, webhook_senders=senders)) as opened:
        yield opened


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(create_app(site)) as caller:
        yield caller


def _post(client: TestClient, content: object, *, call: str = "c1", late_s: int = 0, secret: str = NEW, to: str = "his") -> Any:
    body, at = content if isinstance(content, bytes) else json.dumps(content).encode(), int(time.time()) - late_s
    headers = {"webhook-id": call, "webhook-timestamp": str(at), "webhook-signature": signature(secret, call, at, body)}
    return client.post(f"/hooks/webhook/{to}", content=body, headers=headers)


@pytest.mark.requirement("WEBHOOK-IN-001")
def test_a_signed_call_is_one_order_however_often_it_comes(client: TestClient, site: Site) -> None:
    asked = {"accession": "ACC-9", "ask": {"hippocampus-volume": "3.1 cm3"}, "patient": {"value": "MRN-77"}}
    answers = [_post(client, asked) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3, answers[0].text
    assert len({answer.json()["order"] for answer in answers}) == 1
    (listed,) = client.get("/orders").json()
    assert client.get(f"/orders/{listed['order']}").json() == listed
    assert "MRN-77" not in answers[0].text + json.dumps(listed)
    order = site.orders.order(listed["order"])
    assert order is not None
    assert (order.accession, order.asked[0].value, order.asked[0].unit) == ("ACC-9", 3.1, "cm3")
    assert _post(client, {"reference": "c1", "cancel": True}, call="c2").json()["state"] == "revoked"


@pytest.mark.requirement("WEBHOOK-IN-001")
def test_another_order_under_a_reference_that_is_worked_on_is_refused_and_not_dropped(client: TestClient, site: Site) -> None:
    asked = {"reference": "4711", "accession": "ACC-9", "ask": {"hippocampus-volume": "3.1 cm3"}}
    order = _post(client, asked).json()["order"]
    site.orders.requested(site.orders.row(order), ["job-1"], rule="r")
    assert _post(client, asked, call="c2").status_code == 202
    refused = _post(client, asked | {"accession": "ACC-10"}, call="c3")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:veraicon:error:VI-2015")
    assert _post(client, {"reference": "early", "cancel": True}).json()["state"] == "revoked"
    late = _post(client, {"reference": "early", "accession": "ACC-1"}, call="c4")
    assert (late.status_code, late.json()["state"]) == (202, "revoked"), "taken back before it came"


@pytest.mark.requirement("WEBHOOK-IN-001")
def test_an_unknown_sender_is_answered_as_a_known_one_with_a_wrong_signature(client: TestClient) -> None:
    asked = {"accession": "A"}
    for more in ({}, {"late_s": 400}):
        known, unknown = (_post(client, asked, secret=OLD, to=to, **more) for to in ("his", "nobody"))
        assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    assert client.post("/hooks/webhook/his").content == client.post("/hooks/webhook/nobody").content


@pytest.mark.requirement("WEBHOOK-IN-001")
def test_a_call_that_is_unsigned_altered_old_or_of_nobody_is_refused(client: TestClient) -> None:
    asked = {"accession": "A"}
    refused = [
        client.post("/hooks/webhook/his", json=asked),
        _post(client, asked, secret=OLD),
        _post(client, asked, late_s=400),
        _post(client, asked, late_s=-400),
        _post(client, asked, to="nobody"),
    ]
    assert [answer.status_code for answer in refused] == [401] * 5
    assert all(answer.headers["Content-Type"] == "application/problem+json" for answer in refused)
    assert client.get("/orders").json() == []


@pytest.mark.requirement("WEBHOOK-IN-001")
@pytest.mark.parametrize("content", [
    b'{"accession": "A", "accession": "B"}', {"accession": "A\0"}, {"accession": "A", "reference": "\n"},
    b"{", b"\xff", b"[]", {}, {"accession": 7}, {"study_uid": "x"}, {"accession": "A", "samples": -1}, {"accession": "A", "shoe": 9},
    {"accession": "A", "ask": {"hippocampus-volume": "big"}},
])  # fmt: skip
def test_a_signed_call_of_another_schema_says_what_is_wrong(client: TestClient, content: object) -> None:
    answer = _post(client, content)
    assert answer.status_code == 422, answer.text
    assert answer.json()["type"] == "urn:veraicon:error:VI-2006"
    assert client.get("/orders").json() == []


def test_a_call_that_is_too_long_is_refused(client: TestClient) -> None:
    assert _post(client, b" " * 300_000).status_code == 413
    assert client.get("/orders/unknown").status_code == 404
