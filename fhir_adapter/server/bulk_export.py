"""Bulk data of a FHIR server: kick-off, status, files. Each call is one step; whoever calls keeps what it returned."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from fhir_adapter.server.addresses import origin_text, require_base_url
from fhir_adapter.server.answers import invalid, require_success
from fhir_adapter.server.bulk_files import Arrived, ExportFile, write_file
from fhir_adapter.server.exchange import Answer, ClientLimits, Exchange
from fhir_adapter.server.retrying import RetryPolicy

NDJSON = "application/fhir+ndjson"
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_LARGEST_MANIFEST = 16 * 1024 * 1024
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = ClientLimits(read_timeout_s=timeout_s, answer_bytes=_LARGEST_MANIFEST)
        self._wire = Exchange(base_url, bearer_token=bearer_token, limits=limits, retry=retry, verify=verify, sleep=sleep)
        self.base_url = self._wire.base_url
        self._origins = {origin_text(self.base_url), *(origin_text(require_base_url(one)) for one in file_origins)}
        self._monotonic = monotonic

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._wire.close()

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
        answer = self._send("GET", url, {"Prefer": "respond-async"}, idempotent=False)
        if answer.status != HTTPStatus.ACCEPTED:
            require_success(answer.status, answer.content)
            raise invalid(f"status {answer.status} to an export", "202 with Content-Location")
        return self._require_near(answer.headers.get("Content-Location", ""))

    def status(self, status_url: str) -> Waiting | Finished | None:
        """Return how far an export is; None where the server no longer knows it."""
        answer = self._send("GET", self._require_near(status_url), {"Accept": "application/json"})
        if answer.status in _GONE:
            return None
        if answer.status == HTTPStatus.ACCEPTED:
            asked = RetryPolicy(longest_wait_s=600.0).wait_s(1, answer.headers.get("Retry-After"), now=datetime.now(UTC))
            return Waiting(asked if "Retry-After" in answer.headers else None, answer.headers.get("X-Progress", "")[:100])
        if not answer.is_success:
            require_success(answer.status, answer.content)
        return _manifest(answer.content)

    def download(self, file: ExportFile, path: Path, *, with_token: bool) -> Arrived | None:
        """Write a file, line by line; None where the server no longer has it. The caller gives a name that is not final.

        Raises
        ------
        PeerUnreachable
            If it did not arrive whole, or comes at less than 1 KiB/s.
        """
        written: list[Arrived] = []

        def take(response: httpx.Response) -> None:
            written.append(write_file(response, path, file, self._monotonic))

        answer = self._send("GET", self._require_near(file.url), {"Accept": NDJSON}, with_token=with_token, take=take)
        if answer.status in _GONE:
            return None
        if not answer.is_success:
            require_success(answer.status, answer.content)
            raise invalid(f"status {answer.status} for a file", "the file")
        return written[-1]

    def delete(self, status_url: str) -> bool:
        """Tell the server that its copy is no longer needed; whether it took that."""
        answer = self._send("DELETE", self._require_near(status_url), {})
        return answer.is_success or answer.status in _GONE

    def _send(self, method: str, url: str, headers: Mapping[str, str], *, idempotent: bool = True, **more: Any) -> Answer:
        try:
            return self._wire.send(method, url, headers=headers, idempotent=idempotent, **more)
        except PeerUnreachable as error:
            again = "run the same command again: it goes on where it stopped"
            raise PeerUnreachable(f"{error.found} during an export", allowed=error.allowed, action=again) from error

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


def require_instant(text: object) -> datetime:
    """Return a FHIR instant.

    Raises
    ------
    ValueError
        If it is none: a date alone, a time without a zone, another text.
    """
    if not isinstance(text, str) or not _INSTANT.fullmatch(text):
        raise ValueError("no FHIR instant")
    return datetime.fromisoformat(text)


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
        require_instant(value["transactionTime"])
        return Finished(value["transactionTime"], bool(value["requiresAccessToken"]), tuple(files))
    except (ValueError, KeyError, TypeError, AttributeError, RequestInvalid) as error:
        allowed = "transactionTime (an instant with its zone), requiresAccessToken, output"
        raise invalid("a manifest of an export that cannot be read", allowed) from error


_TYPE_OF = {"error": "OperationOutcome", "deleted": "Bundle"}


def _require_id(identity: str) -> str:
    return split_reference(f"Group/{identity}")[1]
