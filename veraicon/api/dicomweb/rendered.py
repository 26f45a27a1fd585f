"""Rendered resources: frames as PNG or JPEG (PS3.18 10.4.1.1.3 and 10.4.1.1.4), windowed as the caller asks.

A frame of a synthetic instance says so in the picture, in its XMP and in a header of the answer; a PNG of our own carries a
C2PA manifest too, where the site has a certificate for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastapi import APIRouter, Request, Response
from pydicom.dataset import Dataset

from dicom_node.marking.pictures import LINK_HEADER
from dicom_node.web.frames import number_of_frames, require_frames
from dicom_node.web.media_types import Wanted
from dicom_node.web.rendering import PNG, RENDERED_TYPES, Rendering, is_synthetic, parse_rendering, render
from dicom_node.web.retrieval import HeldInstance, dataset
from domain.errors import AnswerUnacceptable
from veraicon.api.dicomweb.answers import Part, accepted, multipart_answer, warning_header
from veraicon.api.dicomweb.wado import INSTANCE, SERIES, STUDY, hand_out, held_below, parse_frame_numbers
from veraicon.marking import PictureSigner, origin_of_instance
from veraicon.wiring import Site

_THUMBNAIL = "128,128"
_NOT_DONE = ("annotation", "iccprofile")


def router(site: Site, signer: PictureSigner | None = None) -> APIRouter:
    """Return the rendered routes; `signer` adds C2PA manifests to pictures of ours, None: none."""
    routes = APIRouter()

    @routes.get(STUDY + "/rendered")
    @routes.get(SERIES + "/rendered")
    @routes.get(INSTANCE + "/rendered")
    def rendered(request: Request) -> Response:
        """Give the first frame of each instance as parts; as one picture, that of the instance in the middle."""
        return _answer(site, signer, request, held_below(site, request), (1,), request.query_params)

    @routes.get(STUDY + "/thumbnail")
    @routes.get(SERIES + "/thumbnail")
    @routes.get(INSTANCE + "/thumbnail")
    def thumbnail(request: Request) -> Response:
        """Give one small picture that stands for the whole."""
        parameters = {"viewport": _THUMBNAIL, **request.query_params}
        held = held_below(site, request)
        return _answer(site, signer, request, held[len(held) // 2 :][:1], (1,), parameters)

    @routes.get(INSTANCE + "/frames/{numbers}/rendered")
    def rendered_frames(request: Request, numbers: str) -> Response:
        """Give frames by number, from 1."""
        return _answer(site, signer, request, held_below(site, request), parse_frame_numbers(numbers), request.query_params)

    @routes.get(INSTANCE + "/frames/{numbers}/thumbnail")
    def frame_thumbnail(request: Request, numbers: str) -> Response:
        """Give small pictures of frames."""
        parameters = {"viewport": _THUMBNAIL, **request.query_params}
        return _answer(site, signer, request, held_below(site, request), parse_frame_numbers(numbers), parameters)

    return routes


def _answer(
    site: Site,
    signer: PictureSigner | None,
    request: Request,
    held: Sequence[HeldInstance],
    numbers: Sequence[int],
    parameters: Mapping[str, str],
) -> Response:
    rendering = parse_rendering(parameters)
    media_type, multipart = _form(accepted(request), several=len(numbers) > 1)
    hand_out(site, request, held)
    if multipart:
        return multipart_answer(media_type, _parts(site, signer, held, numbers, media_type, rendering))
    ds = dataset(site.archive, held[len(held) // 2])
    require_frames(ds, numbers)
    warnings = [f"The {name} parameter is not supported." for name in _NOT_DONE if name in parameters]
    headers = {**warning_header(warnings), **_marks(ds)}
    return Response(_picture(site, signer, ds, numbers[0], media_type, rendering), headers=headers, media_type=media_type)


def _marks(ds: Dataset) -> Mapping[str, str]:
    return LINK_HEADER if is_synthetic(ds) else {}


def _picture(
    site: Site, signer: PictureSigner | None, ds: Dataset, number: int, media_type: str, rendering: Rendering
) -> bytes:
    picture = render(ds, number, media_type, rendering)
    if signer is None or media_type != PNG or not is_synthetic(ds):
        return picture
    origin = origin_of_instance(ds, site.keyring.public_jwks())
    return signer.sign(picture, origin) if origin else picture


def _form(wanted: Sequence[Wanted], *, several: bool) -> tuple[str, bool]:
    for one in wanted:
        for media_type in RENDERED_TYPES:
            if one.takes(media_type) and not (several and one.multipart is False):
                return media_type, several or bool(one.multipart)
    raise AnswerUnacceptable(
        found="an Accept header that allows no picture that is made here",
        allowed=f"{' or '.join(RENDERED_TYPES)}; several frames as multipart/related",
        action="accept it",
    )


def _parts(
    site: Site,
    signer: PictureSigner | None,
    held: Sequence[HeldInstance],
    numbers: Sequence[int],
    media_type: str,
    rendering: Rendering,
) -> Iterator[Part]:
    for one in held:
        ds = dataset(site.archive, one)
        if len(held) > 1 and number_of_frames(ds) == 0:
            continue  # a report in the midst of images
        require_frames(ds, numbers)
        for number in numbers:
            yield {"Content-Type": media_type, **_marks(ds)}, [_picture(site, signer, ds, number, media_type, rendering)]
