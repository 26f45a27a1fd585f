"""What an instance holds beside the attributes and pixels that are digested, and what may stand there.

An honest copy has another preamble of zeros, other file meta information, group lengths and offset tables, so no digest can
cover them; each of them is a place in which something could be hidden.

References
----------
DICOM PS3.10 section 7.1 (preamble, file meta information); PS3.5 sections 7.2 (group length) and 7.3 (Data Set Trailing
Padding); PS3.3 section C.7.6.3.1.8 (Extended Offset Table).
"""

from __future__ import annotations

import struct

from pydicom.dataset import Dataset
from pydicom.encaps import parse_fragments

from domain.errors import UnreadableInstance

_PADDING = 0xFFFCFFFC
_OFFSETS, _LENGTHS, _PIXEL_DATA = 0x7FE00001, 0x7FE00002, 0x7FE00010
# From File Meta Information Group Length to Receiving Presentation Address; Private Information is not among them.
_META = frozenset(
    0x00020000 + element for element in (0x00, 0x01, 0x02, 0x03, 0x10, 0x12, 0x13, 0x16, 0x17, 0x18, 0x26, 0x27, 0x28)
)


def require_nothing_undigested(ds: Dataset) -> None:
    """Check that what no digest covers is what the standard puts there, and nothing else.

    Raises
    ------
    UnreadableInstance
        If the preamble or the padding holds anything, the file meta information is of another instance or holds private
        information, or a group length or an offset table is none.
    """
    reason = _of_file(ds) or _of_elements(ds) or _of_offsets(ds)
    if reason:
        raise UnreadableInstance(
            found=reason,
            allowed="an instance as it was published",
            action="ask the sender for the instance as it was published",
        )


def _of_file(ds: Dataset) -> str:
    if (getattr(ds, "preamble", None) or b"").strip(b"\0"):
        return "a preamble that is not empty"
    meta = getattr(ds, "file_meta", None)
    if meta is None:
        return ""
    if not set(map(int, meta.keys())) <= _META:
        return "file meta information with private information or unknown attributes"
    named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
    held = (ds.get("SOPClassUID"), ds.get("SOPInstanceUID"))
    if any(name and name != uid for name, uid in zip(named, held, strict=True)):
        return "the file meta information of another instance"
    return ""


def _of_elements(ds: Dataset) -> str:
    for tag in map(int, ds.keys()):
        if tag >> 16 in {0x0000, 0x0002}:
            return "an attribute of a message or of file meta information among those of the instance"
        if tag == _PADDING and bytes(ds[tag].value or b"").strip(b"\0"):
            return "Data Set Trailing Padding that holds something"
        if not tag & 0xFFFF and not isinstance(ds[tag].value, int):
            return "a group length that is no number"
    return ""


def _of_offsets(ds: Dataset) -> str:
    """An Extended Offset Table has to be that of the fragments below it."""
    if _OFFSETS not in ds and _LENGTHS not in ds:
        return ""
    try:
        offsets, lengths = (_numbers(ds[tag].value) for tag in (_OFFSETS, _LENGTHS))
        starts, sizes = _fragments(ds[_PIXEL_DATA].value)
    except (KeyError, TypeError, ValueError, struct.error):
        return "an Extended Offset Table that cannot be read"
    fits = len(lengths) == len(sizes) and all(size - 1 <= length <= size for length, size in zip(lengths, sizes, strict=True))
    return "" if offsets == starts and fits else "an Extended Offset Table that is not that of the pixels"


def _numbers(value: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(value) // 8}Q", value))


def _fragments(value: bytes) -> tuple[list[int], list[int]]:
    """Where the item of each frame begins, counted from the first one behind the Basic Offset Table, and its length."""
    first = 8 + int.from_bytes(value[4:8], "little")
    _, starts = parse_fragments(value[first:])
    sizes = [int.from_bytes(value[first + start + 4 : first + start + 8], "little") for start in starts]
    return starts, sizes
