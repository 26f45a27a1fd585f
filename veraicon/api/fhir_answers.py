"""What our FHIR service reads from a call beside its content, and how it answers: negotiation, versions, pages, Bundles."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Request, Response

from domain.errors import AnswerUnacceptable, RequestInvalid, VeraiconError
from fhir_adapter.json_text import write_json
from fhir_adapter.local.capabilities import SORTED_BY
from fhir_adapter.local.index import known_parameters, parameter_kind
from fhir_adapter.local.linking import relative_to
from fhir_adapter.local.store import Page, Written
from fhir_adapter.outcomes import to_outcome
from fhir_adapter.search import IDENTIFYING, split_escaped
from fhir_adapter.store import RawResource

FHIR_JSON = "application/fhir+json"
_JSON_FORMS = frozenset({FHIR_JSON, "application/json", "text/json", "json", "application/*", "text/*", "*/*", ""})
_DEFAULT_PAGE, _LARGEST_PAGE = 100, 1000
# What shapes the answer, and is not searched for.
_CONTROLS = frozenset({"_count", "_sort", "_total", "_format", "_summary", "_page", "_pretty"})


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type (RFC 9110) with its parameters; all in lower case."""

    name: str
    parameters: Mapping[str, str]


def media_type(text: str) -> MediaType:
    """Return one media type of a Content-Type or an Accept header.

    Examples
    --------
    >>> media_type('application/fhir+json; fhirVersion="4.0"').parameters
    {'fhirversion': '4.0'}
    """
    name, *rest = (part.strip().lower() for part in text.split(";"))
    pairs = (part.partition("=") for part in rest)
    return MediaType(name, {key.strip(): value.strip('" ') for key, _, value in pairs})


def of_r4(kind: MediaType) -> bool:
    """Tell whether a media type means FHIR R4, by name or by saying no version."""
    return kind.parameters.get("fhirversion", "4.0") in ("4.0", "4.0.1")


def require_json(request: Request) -> None:
    """Refuse a caller who wants another form than JSON, or another version than R4.

    Raises
    ------
    AnswerUnacceptable
        If neither ``_format`` nor Accept allows FHIR R4 JSON.
    """
    wanted = request.query_params.get("_format", "").replace(" ", "+") or request.headers.get("Accept", "")
    if not any(_acceptable(media_type(form)) for form in wanted.split(",")):
        raise AnswerUnacceptable(
            found="a call that takes no FHIR R4 JSON",
            allowed=FHIR_JSON,
            action="ask for application/fhir+json, or leave Accept out",
        )


def _acceptable(form: MediaType) -> bool:
    # RFC 9110 12.4.2: a weight of zero means "not this".
    unwanted = re.fullmatch(r"0(\.0{0,3})?", form.parameters.get("q", "1"))
    return form.name in _JSON_FORMS and of_r4(form) and not unwanted


def preference(request: Request, name: str) -> str:
    """Return a preference of the Prefer header (RFC 7240), empty where there is none."""
    for part in ",".join(request.headers.getlist("Prefer")).replace(";", ",").split(","):
        key, _, value = part.strip().partition("=")
        if key.lower() == name:
            return value.strip('" ').lower()
    return ""


def base_of(request: Request) -> str:
    """Return the base URL under which the caller reached our FHIR service."""
    return f"{str(request.base_url).rstrip('/')}/fhir"


def own_references(pairs: Sequence[tuple[str, str]], base: str) -> list[tuple[str, str]]:
    """Return search parameters with references below our own base made relative, as the store holds them.

    Examples
    --------
    >>> own_references([("patient", "http://us/fhir/Patient/a"), ("code", "http://us/fhir/Patient/a")], "http://us/fhir")
    [('patient', 'Patient/a'), ('code', 'http://us/fhir/Patient/a')]
    """
    return [(name, _relative(value, base) if parameter_kind(name) == "reference" else value) for name, value in pairs]


def _relative(value: str, base: str) -> str:
    return ",".join(relative_to(one, {base}) for one in split_escaped(value, ","))


def answer(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return FHIR JSON."""
    return Response(write_json(body), status_code=status, media_type=FHIR_JSON, headers=headers)


def read_answer(resource: RawResource, request: Request) -> Response:
    """Return a resource as it is held, or 304 where the caller has this version."""
    meta = resource.body["meta"]
    headers = _version_headers(str(meta["versionId"]), datetime.fromisoformat(meta["lastUpdated"]))
    had = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    if headers["ETag"].removeprefix("W/") in had:
        return Response(status_code=304, headers=headers)
    return Response(resource.wire, media_type=FHIR_JSON, headers=headers)


def write_answer(written: Written, resource: RawResource | None, request: Request) -> Response:
    """Return what became of a create or an update, with the resource unless the caller prefers less or may not read it."""
    headers = _version_headers(written.version, written.updated)
    headers["Location"] = f"{base_of(request)}/{written.reference}"
    status = 201 if written.created else 200
    wanted = preference(request, "return")
    if wanted == "operationoutcome":
        return answer(_information("stored" if written.changed else "held already, unchanged"), status=status, headers=headers)
    if wanted == "minimal" or resource is None:
        return Response(status_code=status, headers=headers)
    return Response(resource.wire, status_code=status, media_type=FHIR_JSON, headers=headers)


def written_bundle(kind: str, results: Iterable[Written | VeraiconError]) -> dict[str, Any]:
    """Return the response to a batch or a transaction: what became of each entry, in order.

    References
    ----------
    FHIR R4 Bundle.entry.response.
    """
    return {"resourceType": "Bundle", "type": f"{kind}-response", "entry": [_entry(result) for result in results]}


def _entry(result: Written | VeraiconError) -> dict[str, Any]:
    if isinstance(result, VeraiconError):
        status = HTTPStatus(result.http_status)
        return {"response": {"status": f"{status.value} {status.phrase}", "outcome": to_outcome(result)}}
    return {
        "response": {
            "status": "201 Created" if result.created else "200 OK",
            "location": result.reference,
            "etag": f'W/"{result.version}"',
            "lastModified": result.updated.isoformat(),
        }
    }


def _version_headers(version: str, updated: datetime) -> dict[str, str]:
    return {"ETag": f'W/"{version}"', "Last-Modified": format_datetime(updated, usegmt=True)}


def _information(text: str) -> dict[str, Any]:
    issue = {"severity": "information", "code": "informational", "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it is carried out.

    Attributes
    ----------
    resource_type : str
    pairs : tuple of (str, str)
        What is searched for.
    size, after, sort : int, str, str
        See `fhir_adapter.local.store.LocalFhirStore.page`.
    left_out : int
        How many parameters were unknown and, as the caller prefers it, are not heeded.
    """

    resource_type: str
    pairs: tuple[tuple[str, str], ...]
    size: int
    after: str = ""
    sort: str = "_id"
    left_out: int = 0


class Pages:
    """Reads searches, and links their pages.

    A link to a next page is sealed with the site's secret: it holds the search, and values that name a patient stand in no URL.
    """

    def __init__(self, salt: bytes) -> None:
        self._seal = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"fhir pages" + salt).digest()))

    def asked(self, resource_type: str, pairs: Sequence[tuple[str, str]], *, lenient: bool) -> Asked:
        """Return the search that a caller asks for.

        Raises
        ------
        RequestInvalid
            If a control parameter cannot be read, or a link is not one of ours.
        """
        controls = {name: value for name, value in pairs if name in _CONTROLS}
        if "_page" in controls:
            return self._opened(resource_type, controls["_page"])
        sort, summary = controls.get("_sort", "_id"), controls.get("_summary", "false")
        _require(sort in SORTED_BY, "an order that is not offered", ", ".join(SORTED_BY))
        _require(summary in ("count", "false"), "a _summary that is not offered", "count or false")
        _require(controls.get("_total", "accurate") in ("none", "estimate", "accurate"), "a _total that is none", "accurate")
        count = controls.get("_count", str(_DEFAULT_PAGE))
        _require(count.isascii() and count.isdigit() and len(count) < 10, "a _count that is no number", "0 or more")
        size = 0 if summary == "count" else min(int(count), _LARGEST_PAGE)
        searched = [(name, value) for name, value in pairs if name not in _CONTROLS]
        heeded = tuple(pair for pair in searched if not lenient or pair[0] in known_parameters(resource_type))
        return Asked(resource_type, heeded, size, sort=sort, left_out=len(searched) - len(heeded))

    def bundle(self, asked: Asked, page: Page, request: Request) -> dict[str, Any]:
        """Return the searchset of a page."""
        base = base_of(request)
        url = f"{base}/{asked.resource_type}"
        entries: list[dict[str, Any]] = [
            {"fullUrl": f"{base}/{found.reference}", "resource": found.body, "search": {"mode": "match"}}
            for found in page.resources
        ]
        if asked.left_out:
            text = f"{asked.left_out} search parameters are unknown and were not heeded"
            entries.append({"resource": _information(text), "search": {"mode": "outcome"}})
        told = [(name, value) for name, value in asked.pairs if request.method == "GET" or name not in IDENTIFYING]
        links = [{"relation": "self", "url": f"{url}?{urlencode([*told, ('_sort', asked.sort), ('_count', asked.size)])}"}]
        if page.last:
            links.append({"relation": "next", "url": f"{url}?{urlencode({'_page': self._sealed(asked, page.last)})}"})
        found: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": page.total, "link": links}
        return {**found, "entry": entries} if entries else found

    def _sealed(self, asked: Asked, after: str) -> str:
        kept = [asked.resource_type, asked.pairs, asked.size, after, asked.sort]
        return self._seal.encrypt(json.dumps(kept).encode()).decode()

    def _opened(self, resource_type: str, token: str) -> Asked:
        try:
            kind, pairs, size, after, sort = json.loads(self._seal.decrypt(token.encode()))
        except InvalidToken:
            kind = ""
        _require(kind == resource_type, "a link to a page that is not ours", "the next link as it was given")
        return Asked(kind, tuple((str(name), str(value)) for name, value in pairs), size, after, sort)


def _require(holds: bool, found: str, allowed: str) -> None:
    if not holds:
        raise RequestInvalid(found=found, allowed=allowed, action="correct the search")
