"""STOW-RS: instances taken as a stream and landed one by one (PS3.18 10.5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from dicom_node.web.media_types import DICOM, parse_media_type
from dicom_node.web.multipart import boundary_of
from dicom_node.web.query import require_path_uid
from dicom_node.web.store import Outcome, StoreSession, http_status, store_response, with_failure
from domain.errors import BodyUnsupported, RequestInvalid, VeraiconError
from veraicon.api.dicomweb.answers import json_answer, require_json, service_url
from veraicon.wiring import Site

# Bodies that are worked on at the same time; the others wait, and their senders with them.
_AT_ONCE = 4

# A body without a byte for this long is given up.
_SILENCE_S = 60.0

# What is still read of a body that was refused, so that its sender comes to read the answer.
_DRAINED_BYTES = 16 * 2**20


def router(site: Site) -> APIRouter:
    """Return the store routes."""
    routes = APIRouter()
    limiter = CapacityLimiter(_AT_ONCE)

    @routes.post("/studies")
    async def store(request: Request) -> Response:
        """Take instances of any study."""
        return await _store(site, request, "", limiter)

    @routes.post("/studies/{study}")
    async def store_study(request: Request, study: str) -> Response:
        """Take instances of one study; those of another are refused, each by name."""
        return await _store(site, request, require_path_uid("StudyInstanceUID", study), limiter)

    return routes


async def _store(site: Site, request: Request, study_uid: str, limiter: CapacityLimiter) -> Response:
    """Take a body to its end or its first fault; the answer names each instance and what became of it."""
    stream = request.stream()
    try:
        require_json(request)
        limit = site.settings.http.max_instance_mib * 2**20
        session = StoreSession(site.archive, _boundary(request), max_instance_bytes=limit, study_uid=study_uid)
    except VeraiconError:
        await _drain(stream)
        raise
    try:
        outcomes = await _take(stream, session, limiter)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it
    finally:
        session.close()
    return json_answer(store_response(outcomes, service_url(request)), status=http_status(outcomes))


async def _take(stream: AsyncIterator[bytes], session: StoreSession, limiter: CapacityLimiter) -> list[Outcome]:
    try:
        while (piece := await _next(stream)) is not None:
            await to_thread.run_sync(session.take, piece, limiter=limiter)
        session.end()
        if not session.outcomes:
            raise RequestInvalid(
                found="a body without a part", allowed="one part for each instance", action="send at least one instance"
            )
    except VeraiconError as error:
        await _drain(stream)
        return with_failure(session.outcomes, error)
    return session.outcomes


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    try:
        with fail_after(_SILENCE_S):
            return await anext(stream, None)
    except TimeoutError as error:
        raise RequestInvalid(
            found=f"a body without a byte for {_SILENCE_S:g} s", allowed="a steady body", action="send the request again"
        ) from error


async def _drain(stream: AsyncIterator[bytes]) -> None:
    left = _DRAINED_BYTES
    with suppress(ClientDisconnect, TimeoutError), fail_after(_SILENCE_S):
        while left > 0 and (piece := await anext(stream, None)) is not None:
            left -= len(piece)


def _boundary(request: Request) -> str:
    """Return the boundary of a body that we take.

    Raises
    ------
    BodyUnsupported
        If its media type is another than instances in multipart/related.
    RequestInvalid
        If there is no boundary.
    """
    content_type = parse_media_type(request.headers.get("content-type", ""))
    encoding = request.headers.get("content-encoding", "identity").lower()
    if (
        content_type is None
        or content_type.name != "multipart/related"
        or content_type.parameters.get("type", DICOM).lower() != DICOM
        or encoding != "identity"
    ):
        raise BodyUnsupported(
            found="a body that is not made of DICOM instances (metadata in JSON or XML with bulk data apart is not taken)",
            allowed=f'multipart/related; type="{DICOM}"; boundary=..., not compressed on the way',
            action="send Part 10 files as parts",
        )
    return boundary_of(content_type)
