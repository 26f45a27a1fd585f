"""The bytes that a DICOM Digital Signature is made over, and their digest.

References
----------
DICOM PS3.3 C.12.1.1.3.1.1 (which elements may be signed), C.12.1.1.3.1.2 (in which form they enter the digest).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from provenance.as_dicom import block_vrs
from provenance.digests import SIGNATURE_TAGS

# Of a signature's item everything is signed but these: what it results in, and what is added later.
NOT_SIGNED = frozenset({0x04000115, 0x04000120, 0x04000305, 0x04000310})

_ITEM_TAG, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_TRAILING_PADDING = 0xFFFCFFFC


def message_digest(ds: Dataset, signed: list[BaseTag], signature: Dataset, algorithm: str) -> bytes:
    """The digest over the signed elements and those of the signature itself (PS3.3 C.12.1.1.3.1.2)."""
    digest = hashlib.new(algorithm.lower())
    encodings = ds.get("SpecificCharacterSet")
    for tag in signed:
        for piece in _stream(typed(ds, ds[tag]), encodings):
            digest.update(piece)
    for element in signature:
        if element.tag not in NOT_SIGNED:
            for piece in _stream(element, encodings):
                digest.update(piece)
    return digest.digest()


def _stream(element: DataElement, encodings: Any) -> Iterator[bytes]:
    """An element as it enters the digest: whole, but sequences and items without their lengths and with their end."""
    if element.VR != "SQ":
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = False, True
        write_data_element(buffer, element, encodings)
        yield buffer.getvalue()
        return
    yield element.tag.group.to_bytes(2, "little") + element.tag.element.to_bytes(2, "little") + b"SQ\0\0"
    for item in element.value:
        yield _ITEM_TAG
        own = item.get("SpecificCharacterSet") or encodings
        for inner in item:
            if signable(inner):
                yield from _stream(inner, own)
    yield _SEQUENCE_END


def signable(element: DataElement) -> bool:
    """Whether PS3.3 C.12.1.1.3.1.1 lets an element be signed."""
    tag = element.tag
    if tag.group < 0x0008 or tag.element == 0 or tag == 0x00080001 or tag.group == 0xFFFA:
        return False
    if tag in SIGNATURE_TAGS or tag == _TRAILING_PADDING:
        return False
    if element.VR == "SQ":
        return not any(_has_unknown(item) for item in element.value)
    return bool(element.VR != "UN")


def _has_unknown(item: Dataset) -> bool:
    return any(
        element.VR == "UN" or (element.VR == "SQ" and any(_has_unknown(inner) for inner in element.value)) for element in item
    )


def typed(ds: Dataset, element: DataElement) -> DataElement:
    """The element, with its type where it is of our own block and a reader without our dictionary made it unknown."""
    vr = block_vrs(ds).get(element.tag) if element.VR == "UN" else None
    if vr is None:
        return element
    return DataElement(element.tag, vr, bytes(element.value or b"").decode("ascii").rstrip(" \0"), already_converted=True)
