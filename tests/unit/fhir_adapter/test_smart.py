"""Where tokens come from, when that moves, and answers without bounds; no sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey

from domain.errors import PeerAnswerInvalid, PeerError, PeerUnreachable
from fhir_adapter.server.client_keys import ClientKey
from fhir_adapter.server.smart import BackendServices

BASE = "https://ehr.example/fhir"


@pytest.fixture
def services(tmp_path: Path) -> Callable[[Callable[[httpx.Request], httpx.Response]], BackendServices]:
    file = tmp_path / "client.pem"
    file.write_bytes(ECKey.generate_key("P-384").as_pem(private=True))

    def made(answer: Callable[[httpx.Request], httpx.Response], timeout_s: float = 30.0) -> BackendServices:
        made = BackendServices(BASE, client_id="c", key=ClientKey.load(file), scopes=("system/*.rs",), timeout_s=timeout_s)
        made._http.close()
        made._http = httpx.Client(transport=httpx.MockTransport(answer))
        return made

    return made


@pytest.mark.requirement("FHIR-AUTH-001")
@pytest.mark.parametrize("old", [404, 400, 503, 200])
def test_a_token_endpoint_that_moved_is_found_again(services, old: int) -> None:
    at, asked = ["https://auth.example/old"], []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if "smart-configuration" in str(request.url):
            return httpx.Response(200, json={"token_endpoint": at[0]})
        if str(request.url) != at[0]:
            return httpx.Response(old, json={"error": "invalid_client"})
        return httpx.Response(200, json={"access_token": f"t-{len(asked)}", "token_type": "bearer", "expires_in": 300})

    source = services(answer)
    source.forget(source())
    source.forget(source())
    assert sum("smart-configuration" in url for url in asked) == 1, "one that works is not looked up each time"
    at[0] = "https://auth.example/new"
    with pytest.raises(PeerError):
        source()
    source()
    assert asked[-1] == at[0]


@pytest.mark.parametrize(("body", "encoding", "kind"), [(b" " * (2 << 20), "", "more than"), (b"no gzip", "gzip", "decode")])
def test_an_answer_without_bounds_is_refused(services, body: bytes, encoding: str, kind: str) -> None:
    class Coming(httpx.SyncByteStream):
        def __iter__(self):
            yield body

    source = services(lambda _request: httpx.Response(200, headers={"Content-Encoding": encoding}, stream=Coming()))
    with pytest.raises(PeerAnswerInvalid, match=kind):
        source()


def test_an_authority_that_drips_is_given_up(services) -> None:
    class Drip(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                yield b" "

    with pytest.raises(PeerUnreachable, match="ReadTimeout"):
        services(lambda _request: httpx.Response(200, stream=Drip()), timeout_s=0.0001)()
