"""What exactly is digested of an instance and of a FHIR resource.

An honest re-encoding keeps each digest, any change of a value breaks it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from domain.errors import UnreadableInstance
from provenance.as_dicom import block_tags
from provenance.canonical import canonical_json, json_digest, sha256_digest
from provenance.digesting.canonical_dataset import canonical_bytes

_PIXEL_DATA = 0x7FE00010
# MAC Parameters and Digital Signatures: a signature covers our block, and the block holds this digest, so it cannot cover them.
SIGNATURE_TAGS = frozenset({0x4FFE0001, 0xFFFAFFFA})
# Extended Offset Table, and its lengths: where each compressed frame begins (PS3.3 section C.7.6.3.1.8).
OFFSET_TAGS = frozenset({0x7FE00001, 0x7FE00002})
# An instance that claims more is refused before anything of this size is allocated.
_MAX_PIXEL_BYTES = 2**32
# Deflation ends with the reading of the file.
_UNCOMPRESSED = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
# Labels are sets: a server may give them back in another order and with its own display text.
_LABELS = ("profile", "security", "tag")
_SERVER_META = ("versionId", "lastUpdated", "source")


def resource_content(resource: Mapping[str, Any], *, without_signature: bool = False) -> dict[str, Any]:
    """Return the part of a FHIR resource that we answer for.

    Left out: the narrative, what a server writes into ``meta`` and, where asked, ``signature``. The labels of ``meta`` are
    sorted by their canonical JSON and stripped of their display text, because servers keep them as sets. Our resources are
    published in this form, so anybody can repeat it without us: take out ``text`` and ``signature``, canonicalise (RFC 8785).

    References
    ----------
    FHIR R4 JSON format, canonical JSON (the ``#data`` method leaves out the narrative); Resource.meta.
    """
    content = {name: value for name, value in resource.items() if name != "text"}
    if without_signature:
        content.pop("signature", None)
    meta = content.pop("meta", None)
    if isinstance(meta, Mapping):
        kept = {name: _sorted_labels(value) if name in _LABELS else value for name, value in meta.items()}
        kept = {name: value for name, value in kept.items() if name not in _SERVER_META and value}
        if kept:
            content["meta"] = kept
    return content


def resource_digest(resource: Mapping[str, Any], *, without_signature: bool = False) -> str:
    """Return the digest of `resource_content` as canonical JSON.

    Raises
    ------
    ValueError
        If the resource has no canonical form.
    """
    return json_digest(resource_content(resource, without_signature=without_signature))


def pixel_digest(ds: Dataset) -> str:
    """Return the digest of the decoded pixel values, each in Bits Allocated, little endian, frame by frame, row by row.

    For uncompressed little endian Pixel Data of 8, 16 or 32 bits these are the bytes of its value without the padding byte.
    A PACS that compresses without loss, or decompresses, keeps this digest.

    Parameters
    ----------
    ds : Dataset
        With its file meta information; without it, Pixel Data counts as uncompressed.

    Raises
    ------
    UnreadableInstance
        If there is no Pixel Data, or it cannot be decoded, or it holds more bytes than the image.
    """
    size, syntax = _plausible_bytes(ds), _transfer_syntax(ds)
    _require_no_surplus(ds, size, syntax)
    if _is_plain(ds, size, syntax):
        return sha256_digest(ds.PixelData[:size])
    try:
        array, _ = get_decoder(syntax).as_array(ds, raw=True)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError, MemoryError) as error:
        raise _unreadable("Pixel Data that cannot be decoded") from error
    return sha256_digest(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())


def has_pixels(ds: Dataset) -> bool:
    """Return whether `ds` holds Pixel Data; a document (PDF, structured report) holds none."""
    return _PIXEL_DATA in ds


def can_decode(ds: Dataset) -> bool:
    """Return whether a decoder for the transfer syntax of `ds` is installed; without one nothing can be said of its pixels."""
    try:
        return bool(get_decoder(_transfer_syntax(ds)).is_available)
    except NotImplementedError:
        return False


def dataset_digest(ds: Dataset) -> str:
    """Return the digest of every attribute but Pixel Data, our own signed block and DICOM Digital Signatures.

    Digested is the Explicit VR Little Endian encoding (PS3.5 section A.2) of the data set with explicit lengths, without file
    meta information, group lengths, Data Set Trailing Padding, the padding of values and the offsets of compressed frames: what
    these may hold, `around_dataset` says. Private attributes of others count as UN, which is what they become on their way
    through Implicit VR. So the digest does not depend on the transfer syntax;
    any other change (a value, an attribute more or less, another character set) changes it.

    Raises
    ------
    UnreadableInstance
        If an attribute cannot be encoded.

    References
    ----------
    DICOM PS3.5 sections 6.2 (padding), 7.8 (private attributes), A.2.
    """
    try:
        left_out = frozenset(map(int, block_tags(ds))) | SIGNATURE_TAGS | {_PIXEL_DATA}
        if _transfer_syntax(ds).is_encapsulated:
            left_out |= OFFSET_TAGS  # they are of the compressed form, as the pixels' own offset table is
        content = canonical_bytes(ds, left_out)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        NotImplementedError,
        OSError,
        struct.error,
        RecursionError,
    ) as error:
        raise _unreadable("an attribute that cannot be encoded") from error
    return sha256_digest(content)


def _transfer_syntax(ds: Dataset) -> UID:
    meta = getattr(ds, "file_meta", None)
    named = getattr(meta, "TransferSyntaxUID", None)
    if named:
        return UID(named)
    return ExplicitVRBigEndian if ds.original_encoding[1] is False else ExplicitVRLittleEndian


def _is_plain(ds: Dataset, size: int, syntax: UID) -> bool:
    """Whether the value of Pixel Data is what is digested: whole bytes, little endian, one sample, nothing missing."""
    return (
        syntax in _UNCOMPRESSED
        and ds.original_encoding[1] is not False
        and ds.get("BitsAllocated") in {8, 16, 32}
        and ds.get("SamplesPerPixel") == 1
        and isinstance(ds.PixelData, bytes)
        and len(ds.PixelData) >= size
    )


def _plausible_bytes(ds: Dataset) -> int:
    """Bytes of the image by its own description, if an image of ours could have so many."""
    try:
        size, present = _stated_bytes(ds), _PIXEL_DATA in ds
    except (AttributeError, TypeError, ValueError) as error:
        raise _unreadable("no description of the pixels") from error
    if not present or not 0 < size <= _MAX_PIXEL_BYTES:
        raise _unreadable("no Pixel Data, or a size of it that no image of ours has")
    return size


def _require_no_surplus(ds: Dataset, size: int, syntax: UID) -> None:
    """Refuse bytes behind the last pixel of uncompressed data: the digest would not see them."""
    if not syntax.is_encapsulated and len(ds.PixelData or b"") > size + size % 2:
        raise _unreadable("bytes behind the last pixel")


def _stated_bytes(ds: Dataset) -> int:
    """Bytes of the uncompressed image by its own description, without the padding byte (PS3.5 section 8.1.1)."""
    pixels = int(ds.Rows) * int(ds.Columns) * int(ds.get("NumberOfFrames") or 1) * int(ds.get("SamplesPerPixel") or 1)
    return -(-pixels * int(ds.BitsAllocated) // 8)


def _sorted_labels(labels: Any) -> Any:
    if not isinstance(labels, list):
        return labels
    plain = [{k: v for k, v in label.items() if k != "display"} if isinstance(label, Mapping) else label for label in labels]
    return sorted(plain, key=canonical_json)


def _unreadable(found: str) -> UnreadableInstance:
    return UnreadableInstance(
        found=found,
        allowed="an image instance that can be decoded and encoded (PS3.5)",
        action="ask the sender for the instance as it was published",
    )
