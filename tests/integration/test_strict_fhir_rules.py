"""The strict proxy itself: each rule refuses what breaks it and lets pass what keeps it, before a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable
from fhir_adapter.bundles import publication_bundle
from fhir_adapter.server.client import FhirClient
from tests.conftest import free_port  # noqa: F401 (a fixture)
from tests.peers.sekmet import running_sekmet
from tests.peers.strict_fhir import StrictFhir, running_strict_fhir

_HEADERS = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json"}
PATIENT = {"resourceType": "Patient", "id": "p-1"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictFhir]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running_sekmet(tmp_path_factory.mktemp("sekmet"), port) as ehr, running_strict_fhir(ehr) as proxy:
        assert _put(proxy, PATIENT).is_success
        yield proxy


def _put(strict: StrictFhir, resource: dict[str, Any], url: str = "", **headers: str) -> httpx.Response:
    where = url or f"{resource['resourceType']}/{resource['id']}"
    return httpx.put(f"{strict.url}/{where}", json=resource, headers=_HEADERS | headers, timeout=20)


def _observation(reference: str) -> dict[str, Any]:
    status = {"resourceType": "Observation", "id": "o-1", "status": "final", "code": {"text": "x"}}
    return status | {"subject": {"reference": reference}}


def _subscription(**changed: str) -> dict[str, Any]:
    channel = {"type": "rest-hook", "endpoint": "http://127.0.0.1:9/hook"}
    usual = {
        "resourceType": "Subscription",
        "id": "s-1",
        "status": "requested",
        "reason": "r",
        "criteria": "Task?status=requested",
    }
    return usual | {"channel": channel} | changed


@pytest.mark.parametrize(
    ("resource", "url", "status"),
    [
        (PATIENT | {"id": "12"}, "", 400),
        (PATIENT, "Patient/p-2", 400),
        (_observation("Patient/nobody"), "", 400),
        (_observation("https://other.example/fhir/Patient/p-1"), "", 400),
        (_observation("urn:uuid:4aae2430-030d-5329-be34-bc9e336b08b8"), "", 400),
        (_subscription(criteria="anything"), "", 422),
        (_subscription(status="active"), "", 422),
        (_observation("Patient/p-1"), "", 201),
    ],
)
def test_what_hapi_refuses_to_write_is_refused(strict: StrictFhir, resource: dict[str, Any], url: str, status: int) -> None:
    assert _put(strict, resource, url).status_code == status


def test_a_stale_write_is_refused_and_a_strong_etag_is_taken(strict: StrictFhir) -> None:
    assert _put(strict, PATIENT, **{"If-Match": 'W/"99"'}).status_code == 412
    current = httpx.get(f"{strict.url}/Patient/p-1", headers=_HEADERS).json()["meta"]["versionId"]
    assert _put(strict, PATIENT, **{"If-Match": f'"{current}"'}).is_success


def test_searches_are_paged_cached_and_strict(strict: StrictFhir) -> None:
    for number in range(25):
        assert _put(strict, PATIENT | {"id": f"many-{number}", "gender": "other"}).is_success
    with FhirClient(strict.url) as client:
        assert len(list(client.search("Patient", {"gender": "other", "_count": "500"}))) == 25
        searching = client.search("Patient", {"gender": "other"})
        next(searching)
        strict.expire_pages()
        assert len(list(searching)) == 24, "an expired page starts the search again, and gives nothing twice"
        with pytest.raises(PeerRefused, match="status 400"):
            list(client.search("Patient", {"colour": "blue"}))
    asked = f"{strict.url}/Patient?gender=other"
    assert "total" not in httpx.get(asked, headers=_HEADERS).json()
    httpx.delete(f"{strict.url}/Patient/many-0", headers=_HEADERS).raise_for_status()
    cached = httpx.get(f"{asked}&_count=20", headers=_HEADERS | {"Cache-Control": "no-cache"}).json()
    assert httpx.get(f"{asked}&_count=20", headers=_HEADERS).json()["entry"] == cached["entry"]
    assert httpx.get(asked, headers=_HEADERS | {"X-Long": "x" * 9000}).status_code == 431
    assert httpx.get(asked, headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.requirement("FHIR-PUB-002")
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("dies-before", PeerUnreachable),
        ("lost-answer", PeerUnreachable),
        ("partial-answer", PeerUnreachable),
        (409, PeerRefused),
        (412, PeerRefused),
    ],
)
def test_a_transaction_that_fails_is_told_and_its_repeat_doubles_nothing(
    strict: StrictFhir, fault: str | int, error: type[Exception]
) -> None:
    bundle = publication_bundle([PATIENT | {"id": f"published-{fault}", "active": True}])
    strict.faults.append(fault)
    with FhirClient(strict.url) as client:
        with pytest.raises((error, PeerAnswerInvalid)):
            client.transact(bundle)
        assert client.transact(bundle) == [f"Patient/published-{fault}"]
        assert len(list(client.search("Patient", {"_id": f"published-{fault}"}))) == 1
