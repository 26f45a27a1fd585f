"""Bulk data of a FHIR server: kick-off, status, files. Each call is one step; whoever calls keeps what it returned.

Every line is parsed while it is written, so a file that arrived is known to be readable, or its bad lines are known by number.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urljoin

import httpx

from domain.errors import PeerAnswerInvalid, PeerUnreachable, RequestInvalid
from fhir_adapter.json_text import parse_json
from fhir_adapter.search import require_resource_type, split_reference
from fhir_adapter.server.addresses import origin_text, require_base_url, require_token
from fhir_adapter.server.answers import invalid, require_success
from fhir_adapter.server.retrying import RetryPolicy, may_retry

NDJSON = "application/fhir+ndjson"
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_LONGEST_LINE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export.

    Attributes
    ----------
    group : str
        Id of the Group whose members are exported; empty: all patients.
    types : tuple of str
        Resource types; empty: all that the server has.
    since : str
        FHIR instant: only what changed after it; empty: everything.
    """

    group: str = ""
    types: tuple[str, ...] = ()
    since: str = ""


@dataclass(frozen=True, slots=True)
class ExportFile:
    """One file of a finished export; `kind` is ``output``, ``error`` or ``deleted``."""

    kind: str
    resource_type: str
    url: str = field(repr=False)
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The manifest of a finished export."""

    transaction_time: str
    requires_token: bool
    files: tuple[ExportFile, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An export under way: seconds that the server asks for, and its progress in its own words."""

    wait_s: float | None
    progress: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file on disk: size in bytes, lines, SHA-256 in hex, and the numbers of lines that are no such resource."""

    size: int
    lines: int
    sha256: str
    bad_lines: tuple[int, ...]


class BulkClient:
    """The Bulk Data Access API of one server.

    Parameters
    ----------
    base_url : str
        Service base URL.
    bearer_token : callable or None
        Asked before each request, so that a token which expires can be renewed during a long export; one that can `forget`
        (`fhir_adapter.server.exchange.Renewable`) is asked once more where the server refuses its token (401).
    file_origins : sequence of str
        Other origins (``https://files.example``) from which files may be fetched; the server's own always may.

    References
    ----------
    HL7 FHIR Bulk Data Access 2.0.0; FHIR R4 async.html.
    """

    def __init__(
        self,
        base_url: str,
        *,
        bearer_token: Callable[[], str | None] | None = None,
        file_origins: Sequence[str] = (),
        timeout_s: float = 60.0,
        verify: Any = True,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = require_base_url(base_url)
        self._token = bearer_token or (lambda: None)
        self._origins = {origin_text(self.base_url), *(origin_text(require_base_url(one)) for one in file_origins)}
        self._retry, self._sleep = retry or RetryPolicy(), sleep
        self._http = httpx.Client(timeout=timeout_s, verify=verify, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def kick_off(self, request: ExportRequest) -> str:
        """Start an export; return the address of its status.

        Raises
        ------
        PeerRefused, PeerUnreachable, PeerAnswerInvalid
            See `domain.errors`. A lost answer is not repeated: the server may have started.
        """
        where = f"Group/{_require_id(request.group)}" if request.group else "Patient"
        asked = {"_outputFormat": NDJSON}
        if request.types:
            asked["_type"] = ",".join(require_resource_type(one) for one in request.types)
        if request.since:
            asked["_since"] = request.since
        url = f"{self.base_url}/{where}/$export?{urlencode(asked)}"
        answer = self._ask("GET", url, {"Accept": "application/fhir+json", "Prefer": "respond-async"}, idempotent=False)
        if answer.status_code != HTTPStatus.ACCEPTED:
            require_success(answer.status_code, answer.content)
            raise invalid(f"status {answer.status_code} to an export", "202 with Content-Location")
        return self._require_near(answer.headers.get("Content-Location", ""))

    def status(self, status_url: str) -> Waiting | Finished | None:
        """Return how far an export is; None where the server no longer knows it."""
        answer = self._ask("GET", self._require_near(status_url), {"Accept": "application/json"})
        if answer.status_code in _GONE:
            return None
        if answer.status_code == HTTPStatus.ACCEPTED:
            asked = RetryPolicy(longest_wait_s=600.0).wait_s(1, answer.headers.get("Retry-After"), now=datetime.now(UTC))
            return Waiting(asked if "Retry-After" in answer.headers else None, answer.headers.get("X-Progress", "")[:100])
        if not answer.is_success:
            require_success(answer.status_code, answer.content)
        return _manifest(answer.content)

    def download(self, file: ExportFile, path: Path, *, with_token: bool) -> Arrived | None:
        """Write a file, line by line; None where the server no longer has it. The caller gives a name that is not final.

        Raises
        ------
        PeerUnreachable
            If it did not arrive whole.
        """
        url = self._require_near(file.url)
        for attempt in range(1, self._retry.attempts + 1):
            try:
                with self._http.stream("GET", url, headers=self._headers({"Accept": NDJSON}, with_token)) as response:
                    if response.status_code in _GONE:
                        return None
                    if response.is_success:
                        return _written(response, path, file.resource_type)
                    response.read()
                    if attempt == 1 and self._forgot(response):
                        continue
                    if not may_retry(response.status_code, idempotent=True) or attempt == self._retry.attempts:
                        require_success(response.status_code, response.content)
                    asked = response.headers.get("Retry-After")
            except httpx.TransportError as error:
                if attempt == self._retry.attempts:
                    raise _unreachable(error, url) from error
                asked = None
            self._sleep(self._retry.wait_s(attempt, asked, now=datetime.now(UTC)))
        raise invalid("no answer that could be used", "the file")

    def delete(self, status_url: str) -> bool:
        """Tell the server that its copy is no longer needed; whether it took that."""
        answer = self._ask("DELETE", self._require_near(status_url), {"Accept": "application/fhir+json"})
        return answer.is_success or answer.status_code in _GONE

    def _ask(self, method: str, url: str, headers: Mapping[str, str], *, idempotent: bool = True) -> httpx.Response:
        attempt = 1
        while True:
            last = attempt >= self._retry.attempts
            try:
                answer = self._http.request(method, url, headers=self._headers(headers, True))
            except httpx.TransportError as error:
                if last or not (idempotent or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise _unreachable(error, url) from error
                asked = None
            else:
                if attempt == 1 and self._forgot(answer):
                    attempt += 1
                    continue
                if last or not may_retry(answer.status_code, idempotent=idempotent):
                    return answer
                asked = answer.headers.get("Retry-After")
            self._sleep(self._retry.wait_s(attempt, asked, now=datetime.now(UTC)))
            attempt += 1

    def _forgot(self, answer: httpx.Response) -> bool:
        """Drop a token that was refused, where another one can be had."""
        sent = answer.request.headers.get("Authorization", "").removeprefix("Bearer ")
        forget = getattr(self._token, "forget", None)
        if answer.status_code != HTTPStatus.UNAUTHORIZED or not sent or forget is None:
            return False
        forget(sent)
        return True

    def _headers(self, headers: Mapping[str, str], with_token: bool) -> dict[str, str]:
        token = self._token() if with_token else None
        return dict(headers) | ({"Authorization": f"Bearer {require_token(token)}"} if token else {})

    def _require_near(self, url: str) -> str:
        """Another origin would get our token and choose what we take for the cohort."""
        absolute = urljoin(f"{self.base_url}/", url) if url else ""
        try:
            near = bool(absolute) and origin_text(absolute) in self._origins and httpx.URL(absolute).userinfo == b""
        except (ValueError, httpx.InvalidURL):
            near = False
        if not near:
            raise PeerAnswerInvalid(
                found="an address of an export that is missing, is no URL, or leads to an origin that is not listed",
                allowed=f"addresses below {', '.join(sorted(self._origins))}",
                action="name the file server's origin with --file-origin if it belongs to this FHIR server",
            )
        return absolute


def _written(response: httpx.Response, path: Path, resource_type: str) -> Arrived:
    digest, size, lines, bad, rest = hashlib.sha256(), 0, 0, list[int](), bytearray()

    def take(line: bytes) -> None:
        nonlocal lines
        lines += 1
        if line.strip() and not _is_resource(line, resource_type):
            bad.append(lines)

    with path.open("wb") as stream:
        for part in response.iter_bytes(1024 * 1024):
            stream.write(part)
            digest.update(part)
            size += len(part)
            *whole, tail = (bytes(rest) + part).split(b"\n") if b"\n" in part else (bytes(rest) + part,)
            for line in whole:
                take(line)
            rest = bytearray(tail)
            if len(rest) > _LONGEST_LINE:
                raise invalid(f"a line of more than {_LONGEST_LINE} bytes in a bulk file", "one resource in a line")
        if rest.strip():
            take(bytes(rest))
    return Arrived(size, lines, digest.hexdigest(), tuple(bad))


def _is_resource(line: bytes, resource_type: str) -> bool:
    try:
        value = parse_json(line)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("resourceType") == resource_type and isinstance(value.get("id", ""), str)


def _manifest(content: bytes) -> Finished:
    try:
        value: Any = parse_json(content)
        files = [
            ExportFile(
                kind,
                require_resource_type(str(one["type"] if kind == "output" else one.get("type", _TYPE_OF[kind]))),
                str(one["url"]),
                int(one["count"]) if "count" in one else None,
            )
            for kind in ("output", "error", "deleted")
            for one in value.get(kind) or ()
        ]
        return Finished(str(value["transactionTime"]), bool(value["requiresAccessToken"]), tuple(files))
    except (ValueError, KeyError, TypeError, AttributeError, RequestInvalid) as error:
        raise invalid("a manifest of an export that cannot be read", "transactionTime, requiresAccessToken, output") from error


_TYPE_OF = {"error": "OperationOutcome", "deleted": "Bundle"}


def _require_id(identity: str) -> str:
    return split_reference(f"Group/{identity}")[1]


def _unreachable(error: httpx.TransportError, url: str) -> PeerUnreachable:
    return PeerUnreachable(
        found=f"{type(error).__name__} at {origin_text(url)} during an export",
        allowed="a whole answer",
        action="run the same command again: it goes on where it stopped",
    )
