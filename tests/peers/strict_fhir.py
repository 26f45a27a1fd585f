"""A proxy before a real FHIR server that refuses what HAPI FHIR (JPA, R4) refuses, and that can fail where a test says.

Each rule names what HAPI does; the messages are ours. What passes goes to the server behind as it came.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

_PAGE = 20
_HEAD_BYTES = 8 * 1024
_CACHED_S = 60.0
_LITERAL = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/\w+)?")
_CRITERIA = re.compile(r"[A-Z][A-Za-z]+\?.+")
_RESULT_PARAMETERS = {
    "_id", "_lastUpdated", "_tag", "_profile", "_security", "_source", "_text", "_content", "_list", "_has", "_filter", "_format",
    "_pretty", "_count", "_sort", "_include", "_revinclude", "_summary", "_elements", "_total", "_contained", "_offset",
}  # fmt: skip
_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"

Json = dict[str, Any]


class Refused(Exception):
    """What the proxy answers instead of the server behind it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass
class StrictFhir:
    """The proxy's state, and what a test may do with it.

    Attributes
    ----------
    url : str
        Base URL for clients.
    faults : list of str or int
        Taken by the next writes, one each: a status ("that is the answer, nothing written"), ``"dies-before"`` (the connection
        ends, nothing written), ``"lost-answer"`` (written, then the connection ends), ``"partial-answer"`` (written, half of the
        answer).
    refusals : list of (int, str)
        What was refused by rule: a test that expects a clean client asserts that it is empty.
    """

    upstream: str
    url: str = ""
    faults: list[str | int] = field(default_factory=list)
    refusals: list[tuple[int, str]] = field(default_factory=list)
    writes: int = 0
    _pages: dict[str, list[Json]] = field(default_factory=dict)
    _cache: dict[str, tuple[float, list[Json]]] = field(default_factory=dict)
    _writing: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http = httpx.Client(timeout=120)

    def expire_pages(self) -> None:
        """Forget each page id that was given out: HAPI then answers 410."""
        self._pages.clear()

    def search(self, resource_type: str, parameters: list[tuple[str, str]], *, fresh: bool) -> Json:
        """Return the first page of a search: at most 20 entries, no total, cached unless the client says otherwise."""
        self._require_known(resource_type, parameters)
        key = f"{resource_type}?{sorted(parameters)}"
        held = self._cache.get(key)
        if fresh or held is None or time.monotonic() - held[0] > _CACHED_S:
            held = (time.monotonic(), self._all_entries(resource_type, parameters))
            self._cache[key] = held
        if dict(parameters).get("_summary") == "count":
            return {"resourceType": "Bundle", "type": "searchset", "total": len(held[1])}
        asked = int(dict(parameters).get("_count", _PAGE) or _PAGE)
        identity = str(uuid.uuid4())
        self._pages[identity] = held[1]
        return self._page(identity, 0, min(asked, _PAGE) or _PAGE)

    def page(self, query: dict[str, str]) -> Json:
        """Return a further page by its opaque id."""
        if query["_getpages"] not in self._pages:
            raise Refused(410, "search id does not exist any more")
        return self._page(query["_getpages"], int(query["_getpagesoffset"]), int(query["_count"]))

    def check_write(self, resource: Json, method: str, url: str, *, together: frozenset[str], transaction: bool) -> None:
        """Refuse what HAPI refuses of one written resource."""
        if method == "PUT":
            self._check_identity(resource, url)
        for reference in _references(resource):
            self._check_reference(reference, together, transaction=transaction)
        if resource.get("resourceType") == "Subscription":
            _check_subscription(resource)

    def check_version(self, url: str, if_match: str | None) -> None:
        """Refuse a stale write: If-Match may be weak or strong."""
        if not if_match:
            return
        found = self.http.get(f"{self.upstream}/{url}", headers=_JSON)
        current = found.json().get("meta", {}).get("versionId") if found.is_success else None
        if if_match.removeprefix("W/").strip('"') != current:
            raise Refused(412, "If-Match names another version than the current one")

    @contextmanager
    def writing(self, urls: set[str]) -> Iterator[None]:
        """Refuse a second writer of a resource while the first is not done."""
        with self._lock:
            if self._writing & urls:
                raise Refused(409, "another transaction writes this resource")
            self._writing |= urls
        try:
            yield
        finally:
            with self._lock:
                self._writing -= urls

    def _page(self, identity: str, offset: int, count: int) -> Json:
        entries = self._pages[identity]
        links = [{"relation": "self", "url": self.url}]
        if offset + count < len(entries):
            query = f"_getpages={identity}&_getpagesoffset={offset + count}&_count={count}&_bundletype=searchset"
            links.append({"relation": "next", "url": f"{self.url}?{query}"})
        return {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries[offset : offset + count]}

    def _all_entries(self, resource_type: str, parameters: list[tuple[str, str]]) -> list[Json]:
        kept = [(name, value) for name, value in parameters if name != "_count"]
        body = httpx.QueryParams([*kept, ("_count", "500")])
        answer = self.http.post(f"{self.upstream}/{resource_type}/_search", headers=_JSON | _FORM, content=str(body))
        entries: list[Json] = []
        while True:
            if not answer.is_success:
                raise Refused(answer.status_code, answer.text[:200])
            page = answer.json()
            entries += page.get("entry", [])
            following = [link["url"] for link in page.get("link", []) if link["relation"] == "next"]
            if not following:
                return entries
            answer = self.http.get(following[0], headers=_JSON)

    def _require_known(self, resource_type: str, parameters: list[tuple[str, str]]) -> None:
        if not self._known:
            stated = self.http.get(f"{self.upstream}/metadata", headers=_JSON).json()["rest"][0]["resource"]
            self._known.update({one["type"]: {p["name"] for p in one.get("searchParam", [])} for one in stated})
        if resource_type not in self._known:
            raise Refused(404, f"unknown resource type {resource_type!r}")
        unknown = {n.split(":")[0].split(".")[0] for n, _ in parameters} - self._known[resource_type] - _RESULT_PARAMETERS
        if unknown:
            raise Refused(400, f"unknown search parameter {sorted(unknown)} of {resource_type}")

    def _check_identity(self, resource: Json, url: str) -> None:
        if "?" in url:
            return
        matched = _LITERAL.fullmatch(url)
        if matched is None or resource.get("resourceType") != matched[1]:
            raise Refused(400, "URL and resource name different types")
        if resource.get("id") != matched[2]:
            raise Refused(400, "id in the body is not the id in the URL")
        if matched[2].isdigit():
            raise Refused(400, "clients may only assign ids with at least one character that is no digit")

    def _check_reference(self, reference: str, together: frozenset[str], *, transaction: bool) -> None:
        if reference.startswith("#") or reference in together:
            return
        if reference.startswith("urn:"):
            where = "that no entry has" if transaction else "outside a transaction"
            raise Refused(400, f"a urn reference {where}")
        local = reference.removeprefix(f"{self.url}/")
        matched = _LITERAL.fullmatch(local)
        if matched is None and ("?" not in local or "://" in local):
            raise Refused(400, "external reference: this server does not allow it")
        if matched is not None and not self.http.get(f"{self.upstream}/{matched[1]}/{matched[2]}", headers=_JSON).is_success:
            raise Refused(400, f"reference to a {matched[1]} that is not here")


_JSON = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@contextmanager
def running_strict_fhir(upstream: str) -> Iterator[StrictFhir]:
    """Run the proxy before the server at `upstream` (its base URL)."""
    strict = StrictFhir(upstream)

    class Handler(_Handler):
        state = strict

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        strict.url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield strict
        finally:
            server.shutdown()
            thread.join()
            strict.http.close()


class _Handler(BaseHTTPRequestHandler):
    state: StrictFhir
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answered(self._read)

    def do_POST(self) -> None:
        self._answered(self._post)

    def do_PUT(self) -> None:
        self._answered(self._write_one)

    def do_DELETE(self) -> None:
        self._answered(lambda _body: self._forward(b""))

    def log_message(self, *_: object) -> None:
        pass

    def _answered(self, work: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self._check_head()
            work(body)
        except Refused as refused:
            self.state.refusals.append((refused.status, refused.why))
            self._send(refused.status, _outcome(refused.why))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _check_head(self) -> None:
        head = len(self.raw_requestline) + len(str(self.headers))
        if head > _HEAD_BYTES:
            raise Refused(431, f"a request head of {head} bytes")
        if "text/html" in self.headers.get("Accept", ""):
            raise Refused(406, "a browser gets a page here, not FHIR")
        if "application/fhir+json" not in self.headers.get("Accept", "") and "bulk" not in self.path:
            raise Refused(406, "no Accept: application/fhir+json")

    @property
    def _local(self) -> str:
        return self.path.removeprefix("/fhir").strip("/")

    @property
    def _fresh(self) -> bool:
        return "no-cache" in self.headers.get("Cache-Control", "")

    def _read(self, _body: bytes) -> None:
        parts = urlsplit(self._local)
        query = dict(parse_qsl(parts.query))
        if not parts.path.strip("/") and "_getpages" in query:
            self._send(200, self.state.page(query))
        elif re.fullmatch(r"[A-Z][A-Za-z]+", parts.path):
            pairs = parse_qsl(parts.query, keep_blank_values=True)
            self._send(200, self.state.search(parts.path, pairs, fresh=self._fresh))
        else:
            self._forward(b"")

    def _post(self, body: bytes) -> None:
        if self._local.endswith("/_search"):
            pairs = parse_qsl(body.decode(), keep_blank_values=True)
            self._send(200, self.state.search(self._local.removesuffix("/_search"), pairs, fresh=self._fresh))
        elif self._local:
            self._forward(body) if "$" in self._local else self._write_one(body)
        else:
            bundle = json.loads(body)
            self._batch(bundle) if bundle.get("type") == "batch" else self._transaction(bundle, body)

    def _write_one(self, body: bytes) -> None:
        resource = json.loads(body)
        self.state.check_write(resource, self.command, self._local, together=frozenset(), transaction=False)
        self.state.check_version(self._local, self.headers.get("If-Match"))
        self._faulty(body, {self._local})

    def _batch(self, bundle: Json) -> None:
        entries = []
        for entry in bundle.get("entry", []):
            parts = urlsplit(entry["request"]["url"])
            try:
                found = self.state.search(parts.path, parse_qsl(parts.query), fresh=self._fresh)
                entries.append({"response": {"status": "200 OK"}, "resource": found})
            except Refused as refused:
                self.state.refusals.append((refused.status, refused.why))
                entries.append({"response": {"status": str(refused.status), "outcome": _outcome(refused.why)}})
        self._send(200, {"resourceType": "Bundle", "type": "batch-response", "entry": entries})

    def _transaction(self, bundle: Json, body: bytes) -> None:
        written = [one for one in bundle.get("entry", []) if one["request"]["method"] in ("PUT", "POST")]
        together = frozenset(
            name
            for one in written
            for name in (one.get("fullUrl"), one["request"]["url"], one["request"].get("fullUrl"))
            if name
        )
        for one in written:
            request = one["request"]
            self.state.check_write(one["resource"], request["method"], request["url"], together=together, transaction=True)
            self.state.check_version(request["url"], request.get("ifMatch"))
        self._faulty(body, {one["request"]["url"] for one in written if one["request"]["method"] == "PUT"})

    def _faulty(self, body: bytes, urls: set[str]) -> None:
        """Write, as the next fault has it."""
        fault = self.state.faults.pop(0) if self.state.faults else None
        if isinstance(fault, int):
            self._send(fault, _outcome("as the test says"))
        elif fault == "dies-before":
            self._hang_up()
        else:
            # Committed before anything is told, as a database does it: who hears half an answer may repeat at once.
            with self.state.writing(urls):
                answer = self._asked_upstream(body)
            self._tell(answer, lose=fault)

    def _forward(self, body: bytes) -> None:
        self._tell(self._asked_upstream(body))

    def _asked_upstream(self, body: bytes) -> httpx.Response:
        kept = {n: v for n, v in self.headers.items() if n.lower() not in ("host", "content-length", "connection", "if-match")}
        answer = self.state.http.request(
            self.command, f"{self.state.upstream}/{self._local}".rstrip("/"), headers=kept, content=body
        )
        if self.command != "GET" and answer.is_success:
            self.state.writes += 1
        return answer

    def _tell(self, answer: httpx.Response, *, lose: str | int | None = None) -> None:
        if lose == "lost-answer":
            self._hang_up()
            return
        told = answer.content.replace(self.state.upstream.encode(), self.state.url.encode())
        passed = ("content-type", "location", "content-location", "etag", "retry-after", "x-progress", "last-modified")
        headers = {
            name: value.replace(self.state.upstream, self.state.url) for name, value in answer.headers.items() if name in passed
        }
        self._send_bytes(answer.status_code, told, headers, half=lose == "partial-answer")

    def _send(self, status: int, resource: Json) -> None:
        self._send_bytes(status, json.dumps(resource).encode(), {"content-type": "application/fhir+json;charset=utf-8"})

    def _send_bytes(self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)


def _check_subscription(resource: Json) -> None:
    if any(str(profile).startswith(_BACKPORT) for profile in resource.get("meta", {}).get("profile", [])):
        return
    if resource.get("status") not in ("requested", "off"):
        raise Refused(422, "Subscription.status of a client is requested")
    if not _CRITERIA.fullmatch(str(resource.get("criteria", ""))):
        raise Refused(422, "Subscription.criteria is no Type?parameters")


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for member in value.values():
            yield from _references(member)
    elif isinstance(value, list):
        for member in value:
            yield from _references(member)


def _outcome(why: str) -> Json:
    issue = {"severity": "error", "code": "processing", "diagnostics": why}
    return {"resourceType": "OperationOutcome", "issue": [issue]}
