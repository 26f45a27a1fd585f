"""The client against a server that misbehaves in each way that servers do; on loopback, no waiting."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerRefused, PeerUnreachable, RequestInvalid
from fhir_adapter.server.client import ClientLimits, FhirClient
from fhir_adapter.server.retrying import RetryPolicy
from fhir_adapter.store import Search
from tests.builders_fhir import observation, patient, transaction
from veraicon.fhir_server import look_at_fhir_server
from veraicon.sections import FhirSettings

LIMITS = ClientLimits(connect_timeout_s=2, read_timeout_s=0.5, answer_timeout_s=1.5, answer_bytes=20_000, pages=5)


class Script:
    """Answers in order; the last one is repeated. An answer is (status, body, headers) or a function of the handler."""

    def __init__(self):
        self.answers, self.requests = [], []

    def next(self, handler):
        # One handler serves a whole connection, so what it holds now is copied.
        seen = {"command": handler.command, "path": handler.path, "headers": handler.headers, "body": handler.body}
        self.requests.append(SimpleNamespace(**seen))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.script.next(self)
        if callable(answer):
            answer(self)
            self.close_connection = True
            return
        status, body, headers = (*answer, {})[:3]
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/fhir+json", "Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def _serving(script):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.script, server.released = script, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def server(script):
    with _serving(script) as server:
        yield server


@pytest.fixture
def waits():
    return []


@pytest.fixture
def client(server, waits):
    url = f"http://127.0.0.1:{server.server_port}/fhir"
    retry = RetryPolicy(attempts=3, first_wait_s=0.5, longest_wait_s=20)
    with FhirClient(url, bearer_token="secret-token", limits=LIMITS, retry=retry, sleep=waits.append) as client:
        yield client


def page(*ids, following=None):
    entries = [{"resource": {"resourceType": "Observation", "id": identity}} for identity in ids]
    links = [{"relation": "next", "url": following}] if following else []
    return 200, {"resourceType": "Bundle", "type": "searchset", "entry": entries, "link": links}


def outcome(status, code="processing"):
    issue = {"severity": "error", "code": code, "diagnostics": "JOHN DOE is unknown"}
    return status, {"resourceType": "OperationOutcome", "issue": [issue]}


def search(client):
    return [resource.body["id"] for resource in client.search("Observation", {"patient": "Patient/p1"})]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((200, b"<html><body>Sign in JOHN DOE</body></html>"), PeerAnswerInvalid, "an HTML page"),
        ((200, b'{"resourceType": "Bundle", "type": "sear'), PeerAnswerInvalid, "cut off"),
        ((200, b"\x00\x01"), PeerAnswerInvalid, "no JSON"),
        ((200, patient()), PeerAnswerInvalid, "Patient"),
        ((200, {"resourceType": "Bundle", "type": "history"}), PeerAnswerInvalid, "history"),
        (outcome(200), PeerAnswerInvalid, "error/processing"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), PeerAnswerInvalid, "302"),
        (outcome(400, "invalid"), PeerRefused, "400 with issue error/invalid"),
        (outcome(401, "login"), PeerRefused, "valid token"),
        (outcome(403, "forbidden"), PeerRefused, "scope"),
        (outcome(404, "not-found"), PeerRefused, "error/not-found"),
        ((500, b"<html>JOHN DOE</html>"), PeerRefused, "500 with an HTML page"),
        ((200, b"x" * 30_000), PeerAnswerInvalid, "more than 20000 bytes"),
        ((200, b"no gzip", {"Content-Encoding": "gzip"}), PeerAnswerInvalid, "does not decode"),
        ((200, b'{"resourceType": "Bundle", "total": 1e99999999999999999999}'), PeerAnswerInvalid, "no resource"),
        ((200, gzip.compress(b" " * 3_000_000), {"Content-Encoding": "gzip"}), PeerAnswerInvalid, "more than 20000 bytes"),
    ],
)
def test_an_answer_that_cannot_be_used_is_named_without_repeating_it(client, script, waits, answer, kind, words):
    script.answers = [answer]
    with capture_logs() as logs, pytest.raises(kind, match=words) as caught:
        search(client)
    assert "JOHN" not in str(caught.value) + repr(logs)
    assert waits == []
    assert len(script.requests) == 1


def test_patience_asked_for_by_the_server_is_honoured_up_to_the_longest_wait(client, script, waits):
    script.answers = [(429, b"", {"Retry-After": "7"}), (503, b"", {"Retry-After": "3600"}), page("a")]
    assert search(client) == ["a"]
    assert waits == [7.0, 20]


def test_back_off_doubles_and_ends_in_an_error_that_says_so(client, script, waits):
    script.answers = [(503, b"")]
    with pytest.raises(PeerUnreachable, match=r"503 from http://127\.0\.0\.1"):
        search(client)
    assert waits == [0.5, 1.0]


def test_a_server_that_is_not_there_is_unreachable_after_all_attempts(free_port, waits):
    retry = RetryPolicy(attempts=3)
    with (
        FhirClient(f"http://127.0.0.1:{free_port()}/fhir", retry=retry, sleep=waits.append) as client,
        pytest.raises(PeerUnreachable, match="ConnectError"),
    ):
        client.transact(transaction(patient()))
    assert len(waits) == 2


def test_a_silent_server_is_unreachable(client, script, waits):
    script.answers = [lambda handler: handler.server.released.wait(10)]
    with pytest.raises(PeerUnreachable, match="ReadTimeout"):
        search(client)
    assert len(waits) == 2


def test_a_server_that_drips_bytes_does_not_hold_the_thread(client, script, server):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not server.released.wait(0.1):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return

    script.answers = [drip]
    with pytest.raises(PeerUnreachable, match="ReadTimeout"):
        search(client)


def test_an_answer_that_breaks_off_is_asked_for_again(client, script):
    def break_off(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"resourceType": "Bundle"')

    script.answers = [break_off, page("a")]
    assert search(client) == ["a"]


def test_a_transaction_whose_answer_was_lost_is_not_sent_twice(client, script):
    script.answers = [lambda handler: handler.server.released.wait(10)]
    with pytest.raises(PeerUnreachable):
        client.transact(transaction(patient()))
    assert len(script.requests) == 1


@pytest.mark.requirement("FHIR-REST-002")
def test_pages_are_followed_verbatim_and_a_resource_is_given_once(client, script, server):
    base = f"http://127.0.0.1:{server.server_port}/fhir"
    script.answers = [page("a", "b", following=f"{base}?_getpages=1%2B2&x=%7C"), page("b", "c")]
    assert search(client) == ["a", "b", "c"]
    assert script.requests[1].path == "/fhir?_getpages=1%2B2&x=%7C"


def test_pages_in_a_circle_are_refused(client, script, server):
    following = f"http://127.0.0.1:{server.server_port}/fhir?page=2"
    script.answers = [page("a", following=following)]
    with pytest.raises(PeerAnswerInvalid, match="followed before"):
        search(client)
    assert len(script.requests) == 2


def test_pages_without_end_are_refused(client, script, server):
    base = f"http://127.0.0.1:{server.server_port}/fhir"
    script.answers = [page(str(n), following=f"{base}?page={n}") for n in range(20)]
    with pytest.raises(PeerAnswerInvalid, match="more than 5 pages"):
        search(client)
    assert len(script.requests) == 5


@pytest.mark.requirement("FHIR-REST-002")
def test_a_next_link_to_another_origin_never_gets_the_token(client, script):
    other = Script()
    other.answers = [page("stolen")]
    with _serving(other) as elsewhere:
        script.answers = [page("a", following=f"http://127.0.0.1:{elsewhere.server_port}/fhir?page=2")]
        with pytest.raises(PeerAnswerInvalid, match="another origin"):
            search(client)
    assert other.requests == []
    assert script.requests[0].headers["Authorization"] == "Bearer secret-token"


@pytest.mark.parametrize(
    "following",
    ["http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "?page=\x00", "?page=a b", "?" + "x" * 70_000],
)
def test_a_next_link_that_is_no_url_is_refused(server, script, following):
    script.answers = [page("a", following=following)]
    with FhirClient(f"http://127.0.0.1:{server.server_port}/fhir") as client, pytest.raises(PeerAnswerInvalid, match="no URL"):
        search(client)


def test_an_expired_page_starts_the_search_again_and_repeats_nothing(client, script, server):
    following = f"http://127.0.0.1:{server.server_port}/fhir?page=2"
    script.answers = [page("a", following=following), outcome(410), page("a", following=following), page("b")]
    assert search(client) == ["a", "b"]


def test_pages_that_always_expire_end_in_an_error(client, script, server):
    following = f"http://127.0.0.1:{server.server_port}/fhir?page=2"
    script.answers = [page("a", following=following), outcome(410)] * 9
    with pytest.raises(PeerAnswerInvalid, match="expired 3 times"):
        search(client)


@pytest.mark.requirement("FHIR-REST-002")
def test_a_search_that_fails_on_its_second_page_raises(client, script, server):
    script.answers = [page("a", following=f"http://127.0.0.1:{server.server_port}/fhir?page=2"), outcome(500)]
    with pytest.raises(PeerRefused):
        search(client)


@pytest.mark.requirement("FHIR-REST-004")
def test_identifying_and_long_queries_go_into_the_body(client, script):
    script.answers = [page()]
    list(client.search("Patient", {"identifier": "urn:x|SECRET"}))
    list(client.search("Observation", {"code": ",".join(["a" * 40] * 100)}))
    list(client.search("Patient", {"_id": "p1"}))
    assert [(r.command, r.path.partition("?")[0]) for r in script.requests] == [
        ("POST", "/fhir/Patient/_search"), ("POST", "/fhir/Observation/_search"), ("GET", "/fhir/Patient"),
    ]  # fmt: skip
    assert not any("SECRET" in request.path for request in script.requests)


SEARCHES = [Search("Condition", {"patient": "Patient/p1"}), Search("Observation", {"patient": "Patient/p1"})]


def batch(*entries):
    return 200, {"resourceType": "Bundle", "type": "batch-response", "entry": list(entries)}


def entry(answer):
    status, body = answer
    return {"response": {"status": f"{status} X"}, "resource": body}


def test_a_batch_of_which_one_search_failed_gives_nothing_of_it_as_complete(client, script):
    script.answers = [batch(entry(page("a")), entry(outcome(403, "forbidden")))]
    with pytest.raises(PeerRefused, match="403"):
        list(client.search_many(SEARCHES))


@pytest.mark.parametrize("entries", [[], [entry(page("a"))], [entry(page("a")), {}], [entry(page("a")), entry((200, None))]])
def test_a_batch_with_missing_answers_is_invalid(client, script, entries):
    script.answers = [batch(*entries)]
    with pytest.raises(PeerAnswerInvalid):
        list(client.search_many(SEARCHES))


def test_a_server_without_batches_is_asked_one_search_at_a_time(client, script):
    script.answers = [outcome(405, "not-supported"), page("a"), page("b")]
    assert [resource.body["id"] for resource in client.search_many(SEARCHES)] == ["a", "b"]
    assert [request.path.partition("?")[0] for request in script.requests] == ["/fhir", "/fhir/Condition", "/fhir/Observation"]


def test_a_batch_follows_the_pages_of_each_search(client, script, server):
    following = f"http://127.0.0.1:{server.server_port}/fhir?page=2"
    script.answers = [batch(entry(page("a", following=following)), entry(page("c"))), page("b")]
    assert [resource.body["id"] for resource in client.search_many(SEARCHES)] == ["a", "b", "c"]


def test_a_read_must_give_the_resource_that_was_asked_for(client, script):
    script.answers = [(200, patient("p2"))]
    with pytest.raises(PeerAnswerInvalid, match="another resource"):
        client.read("Patient/p1")


def test_an_absolute_reference_is_read_only_below_the_base_url(client, script, server):
    script.answers = [(200, patient())]
    assert client.read(f"http://127.0.0.1:{server.server_port}/fhir/Patient/p1").reference == "Patient/p1"
    with pytest.raises(RequestInvalid):
        client.read("http://elsewhere.example/fhir/Patient/p1")
    assert len(script.requests) == 1


def test_a_transaction_gives_its_decimals_digit_by_digit_and_reads_where_it_was_written(client, script, server):
    location = f"http://127.0.0.1:{server.server_port}/fhir/Observation/77/_history/1"
    answer = {"resourceType": "Bundle", "type": "transaction-response",
              "entry": [{"response": {"status": "201 Created", "location": location}}]}  # fmt: skip
    script.answers = [(200, answer)]
    assert client.transact(transaction(observation("x"), method="POST")) == ["Observation/77"]
    assert b'"value":27.50' in script.requests[0].body
    assert script.requests[0].headers["Content-Type"] == "application/fhir+json"
    for unfit in ({"type": "collection"}, {"type": "transaction", "entry": [{"fullUrl": "\ud800"}]}):
        with pytest.raises(RequestInvalid):
            client.transact({"resourceType": "Bundle", **unfit})
    assert len(script.requests) == 1


def test_a_token_that_is_renewed_is_asked_for_each_time(server, script):
    tokens = iter(["one", "two"])
    script.answers = [(200, patient())]
    with FhirClient(f"http://127.0.0.1:{server.server_port}/fhir/", bearer_token=lambda: next(tokens)) as client:
        client.read("Patient/p1")
        client.read("Patient/p1")
    assert [request.headers["Authorization"] for request in script.requests] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/fhir", "http:///fhir", "http://user:pass@host/fhir", "http://:pass@host/fhir", "http://host/fhir?x=1", "host",
        "http://[::1/fhir", "http://host:99999/fhir", "http://host:port/fhir", "http://ho st/fhir", "http://host/fhir\n",
    ],
)  # fmt: skip
def test_a_base_url_that_is_no_plain_address_is_refused(url):
    with pytest.raises(ConfigurationError) as caught:
        FhirClient(url)
    assert "pass" not in caught.value.found


@pytest.mark.parametrize("token", ["secret\n", "secret token", "sécret"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(server, script, token):
    script.answers = [(200, patient())]
    with (
        FhirClient(f"http://127.0.0.1:{server.server_port}/fhir", bearer_token=token) as client,
        pytest.raises(ConfigurationError, match="bearer token") as caught,
    ):
        client.read("Patient/p1")
    assert "cret" not in str(caught.value)
    assert script.requests == []


def test_a_body_that_is_packed_several_times_is_refused_before_it_is_opened(client, script):
    bomb = gzip.compress(gzip.compress(b"0" * 50_000_000))
    script.answers = [(200, bomb, {"Content-Encoding": "gzip, gzip"})]
    with pytest.raises(PeerAnswerInvalid, match="packed several times"):
        client.read("Patient/p1")


def test_a_redirect_is_not_followed_and_its_target_gets_no_token(client, script):
    with _serving(Script()) as elsewhere:
        script.answers = [(307, b"", {"Location": f"http://127.0.0.1:{elsewhere.server_port}/fhir/Patient/p1"})]
        with pytest.raises(PeerAnswerInvalid, match="307"):
            client.read("Patient/p1")
        assert elsewhere.script.requests == []


def test_a_bundle_of_20_mb_is_read_where_the_limit_allows_and_refused_where_not(client, script, server):
    script.answers = [page(*(f"{'x' * 50}-{n}" for n in range(200_000)))]
    with pytest.raises(PeerAnswerInvalid, match="more than 20000 bytes"):
        list(client.search("Observation", {}))
    with FhirClient(f"http://127.0.0.1:{server.server_port}/fhir") as patient_client:
        assert sum(1 for _ in patient_client.search("Observation", {})) == 200_000


@pytest.mark.parametrize(("version", "name"), [("5.0.0", "R5"), ("4.3.0", "R4B"), ("3.0.2", "STU3"), (None, "none")])
def test_a_server_of_another_fhir_version_is_refused_by_name(client, script, version, name):
    script.answers = [(200, {"resourceType": "CapabilityStatement", "fhirVersion": version})]
    with pytest.raises(PeerAnswerInvalid, match=name):
        look_at_fhir_server(client, FhirSettings(base_url="http://ehr.example/fhir"))
