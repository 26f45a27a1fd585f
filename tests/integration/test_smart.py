"""SMART Backend Services over real sockets: an authorization server that checks what RFC 7523 and SMART ask for."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from structlog.testing import capture_logs

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerRefused, PeerUnreachable
from fhir_adapter.server.client import FhirClient
from fhir_adapter.server.client_keys import ClientKey
from fhir_adapter.server.smart import BackendServices

SCOPES = ("system/*.rs", "system/Provenance.u")


class Authority:
    """Gives tokens to whoever shows a good assertion, and takes them at its FHIR endpoint until they are withdrawn."""

    def __init__(self, jwks):
        self.keys, self.seen, self.given, self.withdrawn, self.seconds = KeySet.import_key_set(jwks), set(), [], set(), 300
        self.answer, self.configuration, self.status, self.resources = None, {}, 200, 0

    def token(self, url, form):
        assert form["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
        read = jwt.decode(form["client_assertion"][0], self.keys, algorithms=["ES384", "RS384"])
        claims, now = read.claims, time.time()
        assert read.header["typ"] == "JWT"
        assert read.header["kid"]
        assert claims["iss"] == claims["sub"] == "veraicon-site"
        assert claims["aud"] == f"{url}/token"
        assert now < claims["exp"] <= now + 300
        assert claims["jti"] not in self.seen
        self.seen.add(claims["jti"])
        if self.answer is not None:
            return self.answer
        self.given.append(f"token-{len(self.given) + 1}")
        body = {"access_token": self.given[-1], "token_type": "bearer", "expires_in": self.seconds, "scope": form["scope"][0]}
        return 200, json.dumps(body), {}

    def resource(self, header):
        self.resources += 1
        token = header.removeprefix("Bearer ")
        if self.status != 200:
            return self.status, "{}", {}
        if token not in self.given or token in self.withdrawn:
            return 401, "{}", {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return 200, json.dumps({"resourceType": "Patient", "id": "p1"}), {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        authority, url = self.server.authority, f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/token":
            answer = authority.token(url, parse_qs(body.decode()))
        elif self.path.endswith("/.well-known/smart-configuration"):
            answer = 200, json.dumps({"token_endpoint": f"{url}/token", **authority.configuration}), {}
        else:
            answer = authority.resource(self.headers.get("Authorization", ""))
        status, text, headers = answer
        self.send_response_only(status)
        payload = text.encode()
        for name, value in {"Date": formatdate(usegmt=True), "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        pass


def _key(folder: Path, kind: str) -> ClientKey:
    key = ECKey.generate_key("P-384") if kind == "EC" else RSAKey.generate_key(2048)
    file = folder / "client.pem"
    file.write_bytes(key.as_pem(private=True))
    return ClientKey.load(file)


@pytest.fixture(params=["EC", "RSA"], scope="module")
def key(request, tmp_path_factory):
    return _key(tmp_path_factory.mktemp("keys"), request.param)


@pytest.fixture
def server(key):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.authority = Authority(key.public_jwks())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def authority(server):
    return server.authority


@pytest.fixture
def services(server, key):
    base = f"http://127.0.0.1:{server.server_port}/fhir"
    services = BackendServices(base, client_id="veraicon-site", key=key, scopes=SCOPES)
    yield services
    services.close()


@pytest.fixture
def client(server, services):
    with FhirClient(f"http://127.0.0.1:{server.server_port}/fhir", bearer_token=services) as client:
        yield client


@pytest.mark.requirement("FHIR-AUTH-001")
def test_one_token_serves_many_threads_and_is_in_no_log(client, authority):
    with capture_logs() as logs, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: client.read("Patient/p1").reference, range(40)))
    assert read == ["Patient/p1"] * 40
    assert authority.given == ["token-1"]
    assert "token-1" not in str(logs)


@pytest.mark.requirement("FHIR-AUTH-001")
def test_a_token_is_renewed_before_it_expires(server, authority, key):
    now = [0.0]
    base = f"http://127.0.0.1:{server.server_port}/fhir"
    services = BackendServices(base, client_id="veraicon-site", key=key, scopes=SCOPES, monotonic=lambda: now[0])
    got = [services()]
    for moment in (200.0, 241.0):
        now[0] = moment
        got.append(services())
    services.close()
    assert got == ["token-1", "token-1", "token-2"]


@pytest.mark.requirement("FHIR-AUTH-001")
def test_a_token_that_is_refused_is_fetched_once_more_and_not_for_ever(client, authority):
    client.read("Patient/p1")
    authority.withdrawn = {"token-1"}
    assert client.read("Patient/p1").reference == "Patient/p1"
    assert (authority.given, authority.resources) == (["token-1", "token-2"], 3)
    authority.withdrawn = {f"token-{n}" for n in range(10)}
    with pytest.raises(PeerRefused, match="401"):
        client.read("Patient/p1")
    assert (authority.given, authority.resources) == (["token-1", "token-2", "token-3"], 5)


@pytest.mark.requirement("FHIR-AUTH-002")
def test_a_missing_scope_is_named_and_the_token_is_not(client, authority):
    authority.status = 403
    entry = {"resource": {"resourceType": "Provenance", "id": "a"}, "request": {"method": "PUT", "url": "Provenance/a"}}
    with pytest.raises(PeerRefused, match=r"system/Provenance\.u") as caught:
        client.transact({"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
    assert "token-" not in str(caught.value)
    with pytest.raises(PeerRefused, match=r"system/Patient\.r\b"):
        client.read("Patient/p1")


def _error(code, **headers):
    return 400, json.dumps({"error": code, "error_description": "JOHN DOE"}), headers


@pytest.mark.requirement("FHIR-AUTH-002")
@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (_error("invalid_client"), PeerRefused, "veraicon keys client"),
        (_error("invalid_client", Date="Mon, 01 Jan 2024 00:00:00 GMT"), PeerRefused, "behind ours"),
        (_error("invalid_scope"), PeerRefused, r"asked for system/\*\.rs system/Provenance\.u"),
        (_error("JOHN DOE"), PeerAnswerInvalid, "unknown error code"),
        ((200, "<html>sign in, JOHN DOE</html>", {}), PeerAnswerInvalid, "no JSON object"),
        ((302, "", {"Location": "http://elsewhere.example/"}), PeerAnswerInvalid, "302"),
        ((200, '{"access_token": "a", "token_type": "bearer"}', {}), PeerAnswerInvalid, "expires_in"),
        ((200, '{"access_token": "a", "token_type": "mac", "expires_in": 60}', {}), PeerAnswerInvalid, "token_type"),
        ((200, '{"token_type": "bearer", "expires_in": 60}', {}), PeerAnswerInvalid, "access_token"),
        ((503, "", {}), PeerUnreachable, "503"),
    ],
)
def test_each_way_to_get_no_token_has_its_words(services, authority, answer, kind, words):
    authority.answer = answer
    with pytest.raises(kind, match=words) as caught:
        services()
    assert "JOHN" not in str(caught.value)
    authority.answer = None
    assert services() == "token-1"


@pytest.mark.requirement("FHIR-AUTH-002")
@pytest.mark.parametrize(
    ("configuration", "kind", "words"),
    [
        ({"token_endpoint": None}, PeerAnswerInvalid, "token_endpoint"),
        ({"token_endpoint": "/token"}, PeerAnswerInvalid, "token_endpoint"),
        ({"token_endpoint_auth_methods_supported": ["client_secret_basic"]}, PeerRefused, "private_key_jwt"),
        ({"token_endpoint_auth_signing_alg_values_supported": ["PS256"]}, PeerRefused, "[ER]S384"),
    ],
)
def test_a_server_without_backend_services_is_told_apart(services, authority, configuration, kind, words):
    authority.configuration = configuration
    with pytest.raises(kind, match=words):
        services()


@pytest.mark.parametrize(
    "text",
    [
        ECKey.generate_key("P-256").as_pem(private=True).decode(),
        ECKey.generate_key("P-384").as_pem(private=False).decode(),
        json.dumps({"kty": "oct", "k": "AAAA"}),
        "{broken",
        "",
    ],
    ids=["P-256", "public", "secret", "broken", "empty"],
)
def test_a_client_key_that_smart_does_not_know_is_refused(tmp_path, text):
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="client key"):
        ClientKey.load(file)


def test_a_key_set_for_registration_holds_nothing_private(key):
    (public,) = key.public_jwks()["keys"]
    assert not {"d", "p", "q", "dp", "dq", "qi"} & set(public)
    assert (public["kid"], public["alg"]) == (key.kid, key.algorithm)
