"""Bodies of calls to our FHIR service: read up to a limit, of a JSON media type, of FHIR R4, parsed in a thread."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from domain.errors import BodyTooLarge, BodyUnsupported, RequestInvalid
from fhir_adapter.json_text import parse_json
from veraicon.api.fhir_answers import FHIR_JSON, media_type, of_r4

_MAX_BODY_BYTES = 64 * 2**20


async def _content(request: Request) -> bytes:
    """Read the body up to its limit: a coroutine, since only a coroutine sees the stream."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise BodyTooLarge(
                found=f"a body of more than {_MAX_BODY_BYTES >> 20} MiB",
                allowed=f"at most {_MAX_BODY_BYTES >> 20} MiB",
                action="split the Bundle",
            )
    return bytes(content)


Content = Annotated[bytes, Depends(_content)]


def _body(request: Request, content: Content) -> Any:
    """Parse the body: in a thread, so that a large Bundle holds up nobody else.

    The media type is asked for, since a web page of anywhere can send a body without one, or as text, but none as JSON.
    """
    if not content:
        return None
    kind = media_type(request.headers.get("Content-Type", ""))
    if kind.name != "text/json" and not kind.name.endswith(("/json", "+json")):
        raise BodyUnsupported(found="a body that is not sent as JSON", allowed=FHIR_JSON, action=f"send {FHIR_JSON}")
    if not of_r4(kind):
        raise BodyUnsupported(found="a body of another FHIR version", allowed="fhirVersion=4.0", action="send R4 resources")
    try:
        return parse_json(content)
    except ValueError as error:
        raise RequestInvalid(
            found="a body that is no JSON", allowed="FHIR R4 JSON in UTF-8", action="send application/fhir+json"
        ) from error


Body = Annotated[Any, Depends(_body)]
