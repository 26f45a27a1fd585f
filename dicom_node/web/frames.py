"""Frames of an instance as WADO-RS gives them: as held, decoded, or in a lossless syntax that the caller names.

References
----------
DICOM PS3.18 8.7.3.3 (bulk data media types), 10.4 (Retrieve Transaction); PS3.5 A.4 (encapsulated frames).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicom_node.holding.headers import PARSE_ERRORS, text_of, whole_number
from dicom_node.recoding import is_compressed, recode
from dicom_node.web.media_types import OCTETS, Wanted, can_recode, image_type
from domain.errors import AnswerUnacceptable, ResourceNotFound

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# PS3.18 Table 8.7.3-5: what an image type means where no syntax is named, as far as it is encoded here.
_DEFAULT_SYNTAX = {"image/dicom-rle": RLELossless, "image/jls": JPEGLSLossless, "image/jp2": JPEG2000Lossless}


@dataclass(frozen=True, slots=True)
class FrameForm:
    """How frames are given.

    Attributes
    ----------
    media_type : str
        Of each part.
    transfer_syntax : str
        Of each part; Explicit VR Little Endian for uncompressed pixels.
    multipart : bool
        Whether the caller wants them as parts.
    """

    media_type: str
    transfer_syntax: str
    multipart: bool = True

    @property
    def content_type(self) -> str:
        """Content-Type of a part."""
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax}"


def choose_form(wanted: Sequence[Wanted], held: str) -> FrameForm:
    """Return the first accepted form in which frames that are held in a transfer syntax can be given.

    Raises
    ------
    AnswerUnacceptable
        If there is none.
    """
    for one in wanted:
        form = _form(one, held)
        if form is not None:
            return form
    raise AnswerUnacceptable(
        found="an Accept header that allows no form in which these frames can be given",
        allowed=f"{image_type(held)} with transfer-syntax={held}, or */*",
        action="accept one of these",
    )


def number_of_frames(ds: Dataset) -> int:
    """Return how many frames an instance has; none where it has no Pixel Data."""
    if not any(keyword in ds for keyword in PIXEL_KEYWORDS):
        return 0
    return whole_number(text_of(ds, "NumberOfFrames")) or 1


def require_frames(ds: Dataset, numbers: Sequence[int]) -> None:
    """Stop where a frame that is asked for (from 1) does not exist.

    Raises
    ------
    ResourceNotFound
        Naming how many there are.
    """
    count = number_of_frames(ds)
    if any(not 1 <= number <= count for number in numbers):
        raise ResourceNotFound(
            found="a frame number that the instance does not have",
            allowed=f"1 to {count}" if count else "an instance with Pixel Data",
            action="ask for frames that exist",
        )


def frames(ds: Dataset, numbers: Sequence[int], form: FrameForm) -> Iterator[bytes]:
    """Yield frames by number (from 1).

    Raises
    ------
    ResourceNotFound
        If one does not exist.
    AnswerUnacceptable
        If they cannot be decoded or encoded here.
    """
    require_frames(ds, numbers)
    held = str(ds.file_meta.TransferSyntaxUID)
    try:
        if is_compressed(held) and form.transfer_syntax == ExplicitVRLittleEndian:
            yield from _decoded(ds, numbers)
            return
        if form.transfer_syntax != held:
            ds = recode(ds, form.transfer_syntax)
        yield from (_encapsulated if is_compressed(form.transfer_syntax) else _native)(ds, numbers)
    except (*PARSE_ERRORS, OSError, RuntimeError) as error:
        raise AnswerUnacceptable(
            found=f"frames that cannot be given in the accepted form ({type(error).__name__})",
            allowed=f"the form in which they are held: transfer-syntax={held}",
            action="accept that, or retrieve the instance as it is held (application/dicom; transfer-syntax=*)",
        ) from error


def _form(one: Wanted, held: str) -> FrameForm | None:
    multipart = one.multipart is not False
    as_held = str(ExplicitVRLittleEndian) if not is_compressed(held) else held
    if one.takes(image_type(held)) and one.transfer_syntax in ("", "*", held, as_held):
        return FrameForm(image_type(held), as_held, multipart)
    if one.media_type == OCTETS and one.transfer_syntax in ("*", held):
        return FrameForm(OCTETS, as_held, multipart)
    default = str(ExplicitVRLittleEndian) if one.takes(OCTETS) else _DEFAULT_SYNTAX.get(one.media_type, "")
    target = one.transfer_syntax or default
    if target and one.takes(image_type(target)) and can_recode(held, target):
        return FrameForm(image_type(target), target, multipart)
    return None


def _native(ds: Dataset, numbers: Sequence[int]) -> Iterator[bytes]:
    keyword = next(keyword for keyword in PIXEL_KEYWORDS if keyword in ds)
    count = number_of_frames(ds)
    bits = int(ds.BitsAllocated) * int(ds.Rows) * int(ds.Columns) * int(ds.get("SamplesPerPixel", 1))
    if bits % 8 and count > 1:
        # Single bits, where the last byte of a frame holds the first bits of the next (PS3.5 8.1.1).
        values = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
        yield from (np.packbits(values[(n - 1) * bits : n * bits], bitorder="little").tobytes() for n in numbers)
        return
    if keyword == "PixelData":
        for buffer, _ in get_decoder(ds.file_meta.TransferSyntaxUID).iter_buffer(ds, indices=[n - 1 for n in numbers]):
            yield bytes(buffer)
        return
    for number in numbers:
        yield ds[keyword].value[(number - 1) * bits // 8 : number * bits // 8]


def _encapsulated(ds: Dataset, numbers: Sequence[int]) -> Iterator[bytes]:
    offsets = None
    if "ExtendedOffsetTable" in ds and "ExtendedOffsetTableLengths" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    for number in numbers:
        yield get_frame(ds.PixelData, number - 1, number_of_frames=number_of_frames(ds), extended_offsets=offsets)


def _decoded(ds: Dataset, numbers: Sequence[int]) -> Iterator[bytes]:
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    for array, _ in decoder.iter_array(ds, indices=[number - 1 for number in numbers]):
        if int(ds.BitsAllocated) == 1:
            yield np.packbits(array.astype(np.uint8).ravel(), bitorder="little").tobytes()
        else:
            yield array.astype(array.dtype.newbyteorder("<")).tobytes()
