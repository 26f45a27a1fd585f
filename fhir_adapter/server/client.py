"""The FHIR server as a `FhirStore`: interactions and paging; `.exchange` has authentication, timeouts and retry.

Written for HAPI FHIR (JPA, R4); other servers are milder. Identifying values go by ``POST _search``, never into a URL. Where a
server writes them into its own ``next`` links, those are followed as they are: the protocol leaves no other way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import structlog

from domain.errors import RequestInvalid
from fhir_adapter.json_text import write_json
from fhir_adapter.search import IDENTIFYING, entries, matches, next_link, require_resource_type, split_reference
from fhir_adapter.server.addresses import require_origin
from fhir_adapter.server.answers import (
    batch_answer,
    invalid,
    require_allowed,
    require_bundle,
    require_success,
    written_references,
)
from fhir_adapter.server.exchange import FHIR_JSON, Answer, ClientLimits, Exchange
from fhir_adapter.server.retrying import RetryPolicy
from fhir_adapter.server.scopes import scope_needed, scopes_of_bundle
from fhir_adapter.store import RawResource, Search

__all__ = ["ClientLimits", "FhirClient"]

_log = structlog.get_logger()

_FORM = "application/x-www-form-urlencoded"
# Servers cap a request's head at 8 kB; the rest of the head needs its part of it.
_LONGEST_URL = 2_000
_RESTARTS = 2


class _PageExpired(Exception):
    """The server no longer knows a page id (HAPI: 410): the search has to start again. Never leaves this module."""


class FhirClient:
    """A FHIR R4 server.

    Parameters
    ----------
    base_url : str
        Service base URL, ``https://server/fhir``.
    bearer_token : str or callable or None
        Sent as ``Authorization: Bearer``, to `base_url`'s origin only. A callable is asked before each request, so a token
        that expires can be renewed; one that is `Renewable` is asked once more where the server refuses its token (401).
    limits, retry : ClientLimits, RetryPolicy
        Time, size and patience.
    verify : ssl.SSLContext or bool
        As in httpx.
    sleep, clock : callable
        Injected for tests.

    Raises
    ------
    ConfigurationError
        If `base_url` is no HTTP URL without user information, query and fragment.
    """

    def __init__(
        self,
        base_url: str,
        *,
        bearer_token: str | Callable[[], str] | None = None,
        limits: ClientLimits | None = None,
        retry: RetryPolicy | None = None,
        verify: Any = True,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._wire = Exchange(
            base_url, bearer_token=bearer_token, limits=limits, retry=retry, verify=verify, sleep=sleep, clock=clock
        )
        self._base_url, self._limits = self._wire.base_url, self._wire.limits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._wire.close()

    @property
    def base_url(self) -> str:
        """Where the server is; references below it are its own."""
        return self._base_url

    @property
    def requests(self) -> int:
        """Requests sent so far, repeats included."""
        return self._wire.requests

    def read(self, reference: str) -> RawResource:
        """Return the current version of ``Type/id``; an absolute reference is read if it lies below the base URL.

        Raises
        ------
        RequestInvalid
            If the reference names nothing on this server.
        PeerRefused, PeerUnreachable, PeerAnswerInvalid
            See `domain.errors`.

        References
        ----------
        FHIR R4 RESTful API, "read".
        """
        resource_type, identity = split_reference(reference.removeprefix(f"{self._base_url}/"))
        answer = self._exchange("GET", f"{self._base_url}/{resource_type}/{identity}", idempotent=True)
        body = require_success(answer.status, answer.content)
        if body.get("resourceType") != resource_type or body.get("id") != identity:
            raise invalid(f"another resource than the {resource_type} that was read", "the resource that was asked for")
        return RawResource(body, answer.content)

    def capabilities(self) -> Mapping[str, Any]:
        """Return the server's CapabilityStatement.

        References
        ----------
        FHIR R4 RESTful API, "capabilities".
        """
        answer = self._exchange("GET", f"{self._base_url}/metadata", idempotent=True)
        return require_success(answer.status, answer.content)

    def invoke(self, reference: str, operation: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        """Return the answer of an operation that changes nothing, called on a resource by GET.

        References
        ----------
        FHIR R4 operations.html: an operation with ``affectsState`` false and simple parameters may be called by GET.
        """
        resource_type, identity = split_reference(reference)
        url = f"{self._base_url}/{resource_type}/{identity}/${operation}"
        query = urlencode(dict(parameters))
        answer = self._exchange("GET", f"{url}?{query}" if query else url, idempotent=True)
        return require_success(answer.status, answer.content)

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Iterator[RawResource]:
        """Yield every match over all pages, each resource once.

        A page id that the server forgot starts the search again; what was already given is not given twice.

        References
        ----------
        FHIR R4 RESTful API, "search", "Paging".
        """
        seen: set[str] = set()
        for attempt in range(_RESTARTS + 1):
            try:
                for resource in self._all_pages(lambda: self._first_page(resource_type, parameters)):
                    if resource.reference not in seen:
                        seen.add(resource.reference)
                        yield resource
                return
            except _PageExpired as error:
                _log.warning("search starts again: page expired", resource_type=resource_type, attempt=attempt + 1)
                if attempt == _RESTARTS:
                    raise invalid(f"pages that expired {_RESTARTS + 1} times", "pages that live until they are read") from error

    def search_many(self, searches: Sequence[Search]) -> Iterator[RawResource]:
        """Yield the matches of several searches: one batch for their first pages, then one request for each further page.

        A server that takes no batch is asked one search at a time. An expired page repeats the one search it belongs to.

        References
        ----------
        FHIR R4 RESTful API, "batch/transaction".
        """
        firsts = self._batch(searches)
        if firsts is None:
            for search in searches:
                yield from self.search(search.resource_type, search.parameters)
            return
        for search, first in zip(searches, firsts, strict=True):
            yield from self._rest_of(search, first)

    def transact(self, bundle: Mapping[str, Any]) -> list[str]:
        """Write a transaction Bundle; return ``Type/id`` of each entry in order.

        A lost answer is not repeated here: only the caller knows whether its entries are idempotent.

        References
        ----------
        FHIR R4 RESTful API, "batch/transaction".
        """
        if bundle.get("type") != "transaction":
            raise RequestInvalid(
                found="a Bundle that is no transaction",
                allowed="a Bundle of type transaction",
                action="make one by fhir_adapter.bundles",
            )
        answer = self._post(bundle, idempotent=False)
        body = require_bundle(require_success(answer.status, answer.content), "transaction-response")
        return written_references(bundle, body)

    def _rest_of(self, search: Search, first: Mapping[str, Any]) -> Iterator[RawResource]:
        seen: set[str] = set()
        try:
            for resource in self._all_pages(lambda: first):
                if resource.reference not in seen:
                    seen.add(resource.reference)
                    yield resource
        except _PageExpired:
            for resource in self.search(search.resource_type, search.parameters):
                if resource.reference not in seen:
                    yield resource

    def _batch(self, searches: Sequence[Search]) -> list[Mapping[str, Any]] | None:
        """Return the first page of each search, or None where the server takes no batch."""
        wanted = [f"{require_resource_type(s.resource_type)}?{urlencode(dict(s.parameters))}" for s in searches]
        batch = {
            "resourceType": "Bundle",
            "type": "batch",
            "entry": [{"request": {"method": "GET", "url": url}} for url in wanted],
        }
        answer = self._post(batch, idempotent=True)
        if answer.status in (400, 404, 405, 415, 422, 501):
            _log.info("server takes no batch: one search at a time", status=answer.status)
            return None
        body = require_bundle(require_success(answer.status, answer.content), "batch-response")
        answers = entries(body)
        if len(answers) != len(searches):
            raise invalid(f"{len(answers)} answers to a batch of {len(searches)}", "one answer for each entry")
        pairs = zip(answers, searches, strict=True)
        return [batch_answer(entry, scope=f"system/{search.resource_type}.s") for entry, search in pairs]

    def _first_page(self, resource_type: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        url = f"{self._base_url}/{require_resource_type(resource_type)}"
        query = urlencode(dict(parameters))
        if IDENTIFYING & {name.split(":")[0] for name in parameters} or len(url) + len(query) > _LONGEST_URL:
            answer = self._exchange("POST", f"{url}/_search", query.encode(), _FORM, idempotent=True)
        else:
            answer = self._exchange("GET", f"{url}?{query}" if query else url, idempotent=True)
        return require_bundle(require_success(answer.status, answer.content), "searchset")

    def _all_pages(self, first_page: Callable[[], Mapping[str, Any]]) -> Iterator[RawResource]:
        page, seen = first_page(), set[str]()
        while True:
            yield from matches(page)
            url = next_link(page)
            if url is None:
                return
            url = require_origin(url, self._base_url)
            if url in seen:
                raise invalid("a next link that was followed before", "pages that end")
            if len(seen) + 1 >= self._limits.pages:
                raise invalid(f"more than {self._limits.pages} pages", "a search that ends")
            seen.add(url)
            page = self._next_page(url)

    def _next_page(self, url: str) -> Mapping[str, Any]:
        answer = self._exchange("GET", url, idempotent=True)
        if answer.status == HTTPStatus.GONE:
            raise _PageExpired
        return require_bundle(require_success(answer.status, answer.content), "searchset")

    def _post(self, bundle: Mapping[str, Any], *, idempotent: bool) -> Answer:
        try:
            content = write_json(bundle).encode()
        except UnicodeEncodeError as error:
            raise RequestInvalid(
                found="a Bundle with half of a surrogate pair in a string",
                allowed="text that UTF-8 can carry",
                action="correct the resource; nothing was sent",
            ) from error
        answer = self._wire.send("POST", self._base_url, content, FHIR_JSON, idempotent=idempotent)
        require_allowed(answer.status, answer.content, scopes_of_bundle(bundle))
        return answer

    def _exchange(
        self, method: str, url: str, content: bytes | None = None, content_type: str = "", *, idempotent: bool
    ) -> Answer:
        answer = self._wire.send(method, url, content, content_type, idempotent=idempotent)
        scope = scope_needed(method, url.removeprefix(self._base_url).lstrip("/"))
        require_allowed(answer.status, answer.content, (scope,) if scope else ())
        return answer
