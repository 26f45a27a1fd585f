"""Media types of DICOMweb: headers parsed, and what a caller accepts matched with what is held. Pure.

References
----------
DICOM PS3.18 8.7.3 (DICOM media type sets), 8.7.3.4 and 8.7.8.2 (transfer syntax); RFC 9110 12.5.1 (Accept).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGTransferSyntaxes,
    MPEGTransferSyntaxes,
    RLELossless,
)

from dicom_node.recoding import is_compressed

DICOM = "application/dicom"
DICOM_JSON = "application/dicom+json"
OCTETS = "application/octet-stream"
ANY = "*/*"

# Syntaxes that an instance or frame is encoded in when a caller names them: lossless, so it stays the same instance.
ENCODABLE = (RLELossless, JPEGLSLossless, JPEG2000Lossless)

_LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1)

# PS3.18 Table 8.7.3-4 and 8.7.3-5.
_IMAGE_TYPES: Mapping[str, str] = MappingProxyType(
    {
        RLELossless: "image/dicom-rle",
        JPEGLSLossless: "image/jls",
        JPEGLSNearLossless: "image/jls",
        JPEG2000Lossless: "image/jp2",
        "1.2.840.10008.1.2.4.91": "image/jp2",
        JPEG2000MCLossless: "image/jpx",
        "1.2.840.10008.1.2.4.93": "image/jpx",
        "1.2.840.10008.1.2.4.201": "image/jphc",
        "1.2.840.10008.1.2.4.202": "image/jphc",
        "1.2.840.10008.1.2.4.203": "image/jphc",
        "1.2.840.10008.1.2.4.110": "image/jxl",
        "1.2.840.10008.1.2.4.111": "image/jxl",
        "1.2.840.10008.1.2.4.112": "image/jxl",
        "1.2.840.10008.1.2.4.100": "video/mpeg2",
        "1.2.840.10008.1.2.4.101": "video/mpeg2",
        **dict.fromkeys(JPEGTransferSyntaxes, "image/jpeg"),
    }
)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z/-]+"
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_NAME = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*")
_RANGE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')

# More than this is no negotiation.
_MAX_HEADER = 4096


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type with its parameters; names in lower case."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that a caller accepts.

    Attributes
    ----------
    media_type : str
        Of a part, or of the body where it is one; may hold wildcards.
    transfer_syntax : str
        UID, ``*`` for any, empty where the caller names none.
    multipart : bool or None
        Whether the parts come in multipart/related; None where either will do.
    """

    media_type: str
    transfer_syntax: str = ""
    multipart: bool | None = None

    def takes(self, media_type: str) -> bool:
        """Return whether the media type is among what is accepted."""
        kind, _, subtype = self.media_type.partition("/")
        return kind in ("*", media_type.partition("/")[0]) and subtype in ("*", media_type.partition("/")[2])


def parse_media_type(text: str) -> MediaType | None:
    """Return a Content-Type or one range of an Accept header; None where it is none.

    Examples
    --------
    >>> parse_media_type('multipart/related; type="application/dicom"; boundary=x').parameters["type"]
    'application/dicom'
    """
    named = _NAME.match(text[:_MAX_HEADER])
    if named is None:
        return None
    parameters: dict[str, str] = {}
    position = named.end()
    while found := _PARAMETER.match(text, position):
        value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        parameters.setdefault(found[1].lower(), value)
        position = found.end()
    return MediaType(named[1].lower(), parameters) if not text[position:].strip(" ;\t") else None


def parse_accept(text: str) -> tuple[Wanted, ...]:
    """Return what an Accept header asks for, the most wanted first; an empty one asks for anything.

    Examples
    --------
    >>> parse_accept('image/png;q=0.5, multipart/related; type="application/dicom"; transfer-syntax=*')[0]
    Wanted(media_type='application/dicom', transfer_syntax='*', multipart=True)
    """
    if not text.strip():
        return (Wanted(ANY),)
    ranked: list[tuple[float, Wanted]] = []
    for one in _RANGE.findall(text[:_MAX_HEADER]):
        found = parse_media_type(one)
        quality = _quality(found) if found else 0.0
        if found and quality > 0:
            ranked.append((quality, _wanted(found)))
    return tuple(wanted for _, wanted in sorted(ranked, key=lambda item: -item[0]))


def image_type(transfer_syntax: str) -> str:
    """Return the media type of frames in a transfer syntax: image/* where it is compressed, else octets."""
    if transfer_syntax in MPEGTransferSyntaxes:
        return _IMAGE_TYPES.get(transfer_syntax, "video/mp4")
    return _IMAGE_TYPES.get(transfer_syntax, OCTETS)


def choose_syntax(wanted: Sequence[Wanted], held: str) -> str | None:
    """Return the transfer syntax in which an instance is given as application/dicom; None where no accepted one can be made.

    What the caller leaves open is given as held. A caller that asks for application/dicom and names no syntax asks for
    Explicit VR Little Endian, or for the held one where that is lossy.

    References
    ----------
    DICOM PS3.18 8.7.3.4.
    """
    for one in wanted:
        if not one.takes(DICOM):
            continue
        if one.transfer_syntax in ("*", held) or (not one.transfer_syntax and one.media_type != DICOM):
            return held
        target = one.transfer_syntax or str(ExplicitVRLittleEndian)
        if can_recode(held, target):
            return target
        if not one.transfer_syntax and is_lossy(held):
            return held
    return None


def can_recode(held: str, target: str) -> bool:
    """Return whether this installation can give what it holds in another transfer syntax without a loss."""
    if target not in (ExplicitVRLittleEndian, *ENCODABLE):
        return held == target
    if is_compressed(held) and not _decodes(held):
        return False
    return target == ExplicitVRLittleEndian or bool(get_encoder(target).is_available)


def is_lossy(transfer_syntax: str) -> bool:
    """Return whether Pixel Data in a transfer syntax may have lost something."""
    lossless = {*ENCODABLE, *_LOSSLESS_JPEG, JPEG2000MCLossless, "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202"}
    return is_compressed(transfer_syntax) and transfer_syntax not in lossless | {"1.2.840.10008.1.2.4.110"}


def _decodes(transfer_syntax: str) -> bool:
    try:
        return bool(get_decoder(transfer_syntax).is_available)
    except NotImplementedError:
        return False


def _quality(found: MediaType) -> float:
    try:
        return float(found.parameters.get("q", "1"))
    except ValueError:
        return 0.0


def _wanted(found: MediaType) -> Wanted:
    syntax = found.parameters.get("transfer-syntax", "")
    if found.name.startswith("multipart/"):
        return Wanted(found.parameters.get("type", ANY).lower(), syntax, multipart=True)
    return Wanted(found.name, syntax, multipart=None if found.name == ANY else False)
