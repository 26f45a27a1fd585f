"""One request and its whole answer: authentication, time, size, patience. All that goes to a FHIR server goes this way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol, runtime_checkable

import httpx
import structlog

from domain.errors import PeerUnreachable
from fhir_adapter.server.addresses import origin_text, require_base_url, require_token
from fhir_adapter.server.answers import invalid
from fhir_adapter.server.bodies import whole_body
from fhir_adapter.server.retrying import RetryPolicy, may_retry

_log = structlog.get_logger()

FHIR_JSON = "application/fhir+json"


@runtime_checkable
class Renewable(Protocol):
    """A token that can be had again: see `fhir_adapter.server.smart.BackendServices`."""

    def __call__(self) -> str:
        """Return the token."""
        ...

    def forget(self, token: str) -> None:
        """Drop a token that was refused."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What the client puts up with.

    Attributes
    ----------
    connect_timeout_s, read_timeout_s : float
        Time to connect, and longest silence of the server.
    answer_timeout_s : float
        Time for a whole answer, so that a server which drips bytes cannot hold a thread.
    answer_bytes : int
        Largest decoded answer.
    pages : int
        Most pages of one search.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    answer_timeout_s: float = 300.0
    answer_bytes: int = 64 * 1024 * 1024
    pages: int = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status."""

    status: int
    headers: httpx.Headers
    content: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    content: bytes | None
    headers: Mapping[str, str]
    with_token: bool
    take: Callable[[httpx.Response], None] | None


class Exchange:
    """Sends requests to one server; parameters as `fhir_adapter.server.client.FhirClient` has them.

    Attributes
    ----------
    requests : int
        Requests sent so far, repeats included.
    """

    def __init__(
        self,
        base_url: str,
        *,
        bearer_token: str | Callable[[], str | None] | None = None,
        limits: ClientLimits | None = None,
        retry: RetryPolicy | None = None,
        verify: Any = True,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.base_url = require_base_url(base_url)
        self.limits = limits or ClientLimits()
        self.requests = 0
        self._token = bearer_token
        self._retry = retry or RetryPolicy()
        self._sleep, self._clock = sleep, clock
        self._sent = threading.local()
        timeout = httpx.Timeout(self.limits.read_timeout_s, connect=self.limits.connect_timeout_s)
        self._http = httpx.Client(timeout=timeout, verify=verify, follow_redirects=False)

    def close(self) -> None:
        """Close all connections, those for tokens too."""
        self._http.close()
        if isinstance(self._token, Renewable):
            self._token.close()

    def send(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        content_type: str = "",
        *,
        idempotent: bool,
        headers: Mapping[str, str] | None = None,
        with_token: bool = True,
        take: Callable[[httpx.Response], None] | None = None,
    ) -> Answer:
        """Send a request, again where that is safe, and return the whole answer whatever its status.

        Parameters
        ----------
        headers : mapping or None
            In place of ours, or beside them.
        with_token : bool
            Whether who answers may have our token.
        take : callable or None
            Reads the body of a 2xx answer, anew at each attempt, instead of having it returned.

        Raises
        ------
        PeerUnreachable, PeerAnswerInvalid
            If no whole answer came, or none with another status than 429, 502, 503 or 504.
        """
        sent = {**({"Content-Type": content_type} if content_type else {}), **(headers or {})}
        return self._repeated(_Request(method, url, content, sent, with_token, take), idempotent=idempotent)

    def _repeated(self, request: _Request, *, idempotent: bool) -> Answer:
        attempt, renewals = 1, 1
        while True:
            last = attempt >= self._retry.attempts
            try:
                answer = self._once(request)
            except httpx.TransportError as error:
                # A connection that never stood has carried nothing; after that only an idempotent request may be repeated.
                if last or not (idempotent or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise self._unreachable(error, request.url) from error
                retry_after, reason = None, type(error).__name__
            else:
                if answer.status == HTTPStatus.UNAUTHORIZED and self._renewed(renewals):
                    renewals -= 1
                    continue
                if not may_retry(answer.status, idempotent=idempotent):
                    return answer
                if last:
                    raise self._still_busy(answer.status, request.url)
                retry_after, reason = answer.headers.get("Retry-After"), f"HTTP {answer.status}"
            wait_s = self._retry.wait_s(attempt, retry_after, now=self._clock())
            _log.info("FHIR request waits for another attempt", attempt=attempt, wait_s=wait_s, reason=reason)
            self._sleep(wait_s)
            attempt += 1

    def _once(self, request: _Request) -> Answer:
        end_s = time.monotonic() + self.limits.answer_timeout_s
        self.requests += 1
        headers = self._headers(request)
        with self._http.stream(request.method, request.url, content=request.content, headers=headers) as response:
            if request.take is not None and response.is_success:
                request.take(response)
                return Answer(response.status_code, response.headers, b"")
            content = whole_body(response, invalid, limit=self.limits.answer_bytes, end_s=end_s)
            return Answer(response.status_code, response.headers, content)

    def _headers(self, request: _Request) -> dict[str, str]:
        # HAPI answers a search from its cache for 60 s unless told otherwise.
        headers = {"Accept": FHIR_JSON, "Cache-Control": "no-cache", "Prefer": "return=minimal, handling=strict"}
        headers |= request.headers
        token = (self._token() if callable(self._token) else self._token) if request.with_token else None
        if token:
            headers["Authorization"] = f"Bearer {require_token(token)}"
        self._sent.token = token or ""
        return headers

    def _renewed(self, renewals: int) -> bool:
        """Drop the token that was refused, where another can be had; a request with status 401 was not acted upon."""
        if not renewals or not self._sent.token or not isinstance(self._token, Renewable):
            return False
        self._token.forget(self._sent.token)
        _log.info("access token was refused: another is fetched once")
        return True

    def _unreachable(self, error: httpx.TransportError, url: str) -> PeerUnreachable:
        return PeerUnreachable(
            found=f"{type(error).__name__} at {origin_text(url)}",
            allowed=f"an answer within {self.limits.read_timeout_s:g} s",
            action="check the FHIR server's address and that it runs; the job tries again",
        )

    def _still_busy(self, status: int, url: str) -> PeerUnreachable:
        return PeerUnreachable(
            found=f"HTTP status {status} from {origin_text(url)} at {self._retry.attempts} attempts",
            allowed="an answer",
            action="wait until the FHIR server has capacity; the job tries again",
        )
