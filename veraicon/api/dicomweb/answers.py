"""What all DICOMweb routes share: our own address, what the caller accepts, bodies in pieces, and statuses by PS3.18."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from dicom_node.web.media_types import ANY, DICOM_JSON, Wanted, parse_accept
from dicom_node.web.multipart import new_boundary, write_multipart
from domain.errors import AnswerUnacceptable, RequestInvalid, UnreadableInstance, VeraiconError

DICOMWEB = "/dicom-web"

_log = structlog.get_logger(__name__)

Part = tuple[Mapping[str, str], Iterable[bytes]]


def status_of(error: VeraiconError) -> int:
    """Return the status of an error on this face: a wrong request is 400, bytes that are damaged here are our fault.

    References
    ----------
    DICOM PS3.18 8.5 (status codes).
    """
    if type(error) is RequestInvalid:
        return 400
    return 500 if isinstance(error, UnreadableInstance) else error.http_status


def service_url(request: Request) -> str:
    """Return the address under which the caller reaches this service, without a slash at the end.

    A Host header without port that names the very address of this socket was sent to it directly, by a client that leaves
    the port out: then it is added, or no address in our answers could be called.
    """
    host = request.url.netloc
    address, port = request.scope.get("server") or ("", None)
    if port and host in (address, "localhost") and int(port) not in (80, 443):
        host = f"{host}:{port}"
    return f"{request.url.scheme}://{host}{DICOMWEB}"


def accepted(request: Request) -> tuple[Wanted, ...]:
    """Return what the caller accepts: its query parameter stands above its header (PS3.18 8.3.3.1)."""
    return parse_accept(request.query_params.get("accept") or request.headers.get("accept", ""))


def require_json(request: Request) -> None:
    """Stop where the caller does not accept DICOM JSON.

    Raises
    ------
    AnswerUnacceptable
        If it does not.
    """
    if not any(one.takes(DICOM_JSON) or one.takes("application/json") for one in accepted(request) if not one.multipart):
        raise AnswerUnacceptable(
            found="an Accept header without DICOM JSON",
            allowed=f"{DICOM_JSON}, application/json or {ANY}",
            action="accept JSON; XML is not offered here",
        )


def json_answer(body: Any, *, status: int = 200, warnings: Sequence[str] = ()) -> Response:
    """Return DICOM JSON; an empty list is told as 204 (PS3.18 10.6.3)."""
    headers = warning_header(warnings)
    if body == []:
        return Response(status_code=204, headers=headers)
    return Response(as_json(body), status, headers, DICOM_JSON)


def as_json(body: Any) -> str:
    """Return JSON without blanks; a number that JSON does not have is an error of ours."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    """Return the Warning header that PS3.18 names for what was asked for and not done."""
    return {"Warning": ", ".join(f'299 veraicon "{text}"' for text in warnings)} if warnings else {}


def multipart_answer(media_type: str, parts: Iterable[Part]) -> Response:
    """Return multipart/related whose parts are made while they are sent, one at a time."""
    boundary = new_boundary()
    content_type = f'multipart/related; type="{media_type}"; boundary={boundary}'
    return streamed(write_multipart(boundary, parts), content_type)


def streamed(body: Iterator[bytes], content_type: str) -> Response:
    """Return a body that is made while it is sent.

    What goes wrong before its first bytes still becomes a status of its own; what goes wrong later cuts the connection, so that
    the caller cannot take a part for the whole.
    """
    first = next(body, b"")
    return StreamingResponse(_told(chain((first,), body)), headers={"Content-Type": content_type})


def _told(body: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from body
    except VeraiconError as error:
        _log.error("an answer was cut off", action="wado", code=error.code, found=error.found)
        # Without its cause: the server writes what ends a connection to its log, and a cause may quote a value.
        raise ConnectionAbortedError(f"an answer was cut off ({error.code})") from None
