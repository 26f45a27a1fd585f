"""Stored values of Pixel Data: decoded, with the right sign, and with the padding around the image known. Pure.

References
----------
DICOM PS3.3 C.7.6.3 (Image Pixel), C.7.5.1.1.2 (Pixel Padding); PS3.5 section 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from dicom_node.holding.headers import PARSE_ERRORS, text_of
from domain.errors import UnreadableInstance, UnsupportedSeries

# What the extra `gpl-codecs` (pylibjpeg-libjpeg, GPLv3) decodes and nothing under our own licence does.
_GPL_DECODED = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
# Decoders that know the syntax only with eight bits.
_EIGHT_BIT_ONLY = frozenset({"pillow"})


def decode_pixels(ds: Dataset) -> NDArray[np.generic]:
    """Return the stored values of one instance, (row, column) or (frame, row, column), decompressed where needed.

    Bits above Bits Stored are no part of a value: they are cleared, or filled with the sign.

    Raises
    ------
    UnsupportedSeries
        If nothing here decodes the transfer syntax, or values do not stand in the low bits of their words.
    UnreadableInstance
        If Pixel Data is missing or damaged.
    """
    _require_low_bits(ds)
    _require_decoder(ds)
    try:
        return pixel_array(ds)
    except (*PARSE_ERRORS, RuntimeError) as error:
        raise UnreadableInstance(
            found=f"Pixel Data that does not decode ({type(error).__name__})",
            allowed="as many values as rows, columns and bits ask for (PS3.3 C.7.6.3)",
            action="send the instance again",
        ) from error


def is_padding(ds: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which stored values are padding around the image and no measurement; None where the instance has no padding.

    References
    ----------
    DICOM PS3.3 C.7.5.1.1.2: from Pixel Padding Value to Pixel Padding Range Limit, in stored values before the rescale.
    """
    first = _stored_number(ds, "PixelPaddingValue")
    if first is None:
        return None
    limit = _stored_number(ds, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if limit is None else limit))
    padded: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padded if padded.any() else None


def _stored_number(ds: Dataset, keyword: str) -> int | None:
    """An attribute that has the sign of the pixels, whatever VR the sender wrote it with (US or SS)."""
    text = text_of(ds, keyword)
    try:
        number: int | None = int(text) if text else None
    except ValueError:
        raise UnsupportedSeries(
            found=f"a {keyword} that is no number", allowed="one stored value (PS3.3 C.7.5.1.1.2)", action="correct the sender"
        ) from None
    if number is None:
        return None
    bits, signed = int(ds.BitsAllocated), int(ds.PixelRepresentation) == 1
    number %= 2**bits
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number


def _require_low_bits(ds: Dataset) -> None:
    stored, high = text_of(ds, "BitsStored"), text_of(ds, "HighBit")
    if stored.isdigit() and high.isdigit() and int(high) != int(stored) - 1:
        raise UnsupportedSeries(
            found=f"High Bit {high} with {stored} Bits Stored",
            allowed="High Bit one less than Bits Stored (PS3.5 8.1.1)",
            action="send the series as a system of today writes it",
        )


def _require_decoder(ds: Dataset) -> None:
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    if _can_decode(syntax, text_of(ds, "BitsStored")):
        return
    action = "send the series uncompressed, or install a decoder for it"
    if syntax in _GPL_DECODED:
        action = "send the series uncompressed, or install the extra gpl-codecs (pylibjpeg-libjpeg, under the GPL)"
    bits = f" with {text_of(ds, 'BitsStored')} bits" if syntax == JPEGExtended12Bit else ""
    raise UnsupportedSeries(
        found=f"Pixel Data in transfer syntax {syntax.name} ({syntax}){bits}",
        allowed="uncompressed, RLE, JPEG-LS or JPEG 2000 (others where a decoder is installed)",
        action=action,
    )


def _can_decode(syntax: UID, bits_stored: str) -> bool:
    """Whether a decoder is installed; a syntax newer than the installed dictionary is simply one without."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return False
    if not decoder.is_available:
        return False
    return syntax != JPEGExtended12Bit or bits_stored == "8" or bool(set(decoder.available_plugins) - _EIGHT_BIT_ONLY)
