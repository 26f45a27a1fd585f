"""WADO-RS: studies, series and instances with their metadata, frames and bulk data (PS3.18 10.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Request, Response

from dicom_node.web.frames import FrameForm, choose_form, frames, number_of_frames, require_frames
from dicom_node.web.media_types import ANY, DICOM, DICOM_JSON, OCTETS, Wanted, choose_syntax
from dicom_node.web.metadata import bulk_value, is_pixel_path, to_metadata
from dicom_node.web.query import require_path_uid
from dicom_node.web.retrieval import HeldInstance, dataset, held_instances, pieces
from domain.errors import AnswerUnacceptable, RequestInvalid
from veraicon.api.dicomweb.answers import (
    Part,
    accepted,
    as_json,
    multipart_answer,
    require_json,
    service_url,
    streamed,
)
from veraicon.wiring import Site

STUDY = "/studies/{study}"
SERIES = STUDY + "/series/{series}"
INSTANCE = SERIES + "/instances/{instance}"

_KEYWORDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_MAX_FRAMES_ASKED = 10_000


def router(site: Site) -> APIRouter:
    """Return the retrieve routes."""
    routes = APIRouter()

    @routes.get(STUDY)
    @routes.get(SERIES)
    @routes.get(INSTANCE)
    def retrieve(request: Request) -> Response:
        """Give instances as they are held, or in the transfer syntax that the caller names."""
        wanted, held = accepted(request), held_below(site, request)
        hand_out(site, request, held)
        return _instances(site, wanted, held)

    @routes.get(STUDY + "/metadata")
    @routes.get(SERIES + "/metadata")
    @routes.get(INSTANCE + "/metadata")
    def metadata(request: Request) -> Response:
        """Give all attributes but bulk data, which is told by its address."""
        require_json(request)
        return streamed(_metadata(site, held_below(site, request), service_url(request)), DICOM_JSON)

    @routes.get(INSTANCE + "/frames/{numbers}")
    def some_frames(request: Request, numbers: str) -> Response:
        """Give frames by number, from 1."""
        return _frames(site, request, parse_frame_numbers(numbers))

    @routes.get(INSTANCE + "/bulkdata/{path:path}")
    def bulk(request: Request, path: str) -> Response:
        """Give what a BulkDataURI of the metadata refers to; Pixel Data as its frames."""
        if is_pixel_path(path):
            return _frames(site, request, ())
        (held,) = held_below(site, request)
        form = _octets(accepted(request))
        hand_out(site, request, [held])
        value = bulk_value(dataset(site.archive, held), path)
        if not form.multipart:
            return Response(value, media_type=OCTETS)
        return multipart_answer(OCTETS, [({"Content-Type": OCTETS}, [value])])

    return routes


def held_below(site: Site, request: Request) -> list[HeldInstance]:
    """Return what is held under the path of a request.

    Raises
    ------
    RequestInvalid
        If a UID of the path is none.
    ResourceNotFound
        If nothing is held.
    """
    path = {keyword: request.path_params[name] for name, keyword in _KEYWORDS.items() if name in request.path_params}
    return held_instances(site.archive, {keyword: require_path_uid(keyword, uid) for keyword, uid in path.items()})


def hand_out(site: Site, request: Request, held: Sequence[HeldInstance]) -> None:
    """Note, before the first byte leaves, that instances of ours go to the address that asked for them."""
    series = {one.path.rsplit("/", 3)[1] for one in held}
    site.outputs.hand_out(series, request.client.host if request.client else "unknown", "wado")


def parse_frame_numbers(text: str) -> list[int]:
    """Return a frame list such as ``1,2,5``.

    Raises
    ------
    RequestInvalid
        If it is none.
    """
    numbers = text.split(",")
    if len(numbers) > _MAX_FRAMES_ASKED or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise RequestInvalid(
            found="a frame list that is none", allowed="numbers from 1, joined by commas", action="correct the path"
        )
    return [int(number) for number in numbers]


def _instances(site: Site, wanted: Sequence[Wanted], held: Sequence[HeldInstance]) -> Response:
    chosen = [(one, syntax) for one in held if (syntax := choose_syntax(wanted, one.transfer_syntax)) is not None]
    if len(chosen) < len(held):
        syntaxes = sorted({one.transfer_syntax for one in held})
        raise AnswerUnacceptable(
            found="an Accept header that allows no form in which these instances can be given",
            allowed=f'multipart/related; type="{DICOM}" with transfer-syntax=* (held: {", ".join(syntaxes)})',
            action="accept it",
        )
    first = next(one for one in wanted if one.takes(DICOM))
    if first.multipart is False and len(chosen) == 1:
        one, syntax = chosen[0]
        return streamed(pieces(site.archive, one, syntax), DICOM)
    if first.multipart is False and not any(one.multipart is not False for one in wanted):
        raise AnswerUnacceptable(
            found=f"an Accept header for one {DICOM} where there are {len(chosen)} instances",
            allowed=f'multipart/related; type="{DICOM}"',
            action="accept it, or retrieve a single instance",
        )
    parts: Iterator[Part] = (
        ({"Content-Type": f"{DICOM}; transfer-syntax={syntax}"}, pieces(site.archive, one, syntax)) for one, syntax in chosen
    )
    return multipart_answer(DICOM, parts)


def _metadata(site: Site, held: Sequence[HeldInstance], url: str) -> Iterator[bytes]:
    before = "["
    for one in held:
        yield (before + as_json(to_metadata(dataset(site.archive, one), f"{url}{one.path}/bulkdata"))).encode()
        before = ","
    yield b"]"


def _frames(site: Site, request: Request, numbers: Sequence[int]) -> Response:
    """Answer with frames; all of them where no number is named."""
    (held,) = held_below(site, request)
    form = choose_form(accepted(request), held.transfer_syntax)
    hand_out(site, request, [held])
    ds = dataset(site.archive, held)
    wanted = numbers or range(1, max(1, number_of_frames(ds)) + 1)
    require_frames(ds, wanted)
    if not form.multipart and len(wanted) > 1:
        raise AnswerUnacceptable(
            found=f"an Accept header for one part where there are {len(wanted)} frames",
            allowed=f'multipart/related; type="{form.media_type}"',
            action="accept it, or ask for one frame",
        )
    given = frames(ds, wanted, form)
    if not form.multipart:
        return streamed(given, form.content_type)
    # Drawn one by one, so a frame is decoded when the one before it has been sent.
    return multipart_answer(form.media_type, (({"Content-Type": form.content_type}, [frame]) for frame in given))


def _octets(wanted: Sequence[Wanted]) -> FrameForm:
    for one in wanted:
        if one.takes(OCTETS):
            return FrameForm(OCTETS, "", one.multipart is not False)
    raise AnswerUnacceptable(
        found="an Accept header without octets", allowed=f'multipart/related; type="{OCTETS}", or {ANY}', action="accept it"
    )
