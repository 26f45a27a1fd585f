"""A quick look into a header: the values of a few elements, without an object for each element that stands before them. Pure.

pydicom needs about a millisecond for the header of one slice, which is as long as making its bytes durable. This walk reads
lengths and skips. Whatever is not plain (a deflated or big-endian dataset, tags out of order, text beyond ASCII, several
values) it leaves to pydicom, by returning nothing: it never guesses.

References
----------
DICOM PS3.5 7.1 (data elements), 7.5 (sequences), A.1, A.2 (little endian transfer syntaxes); PS3.10 7.1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Container

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

_TAG = struct.Struct("<HH")
_ITEM = struct.Struct("<HHL")
_SHORT = struct.Struct("<H")
_LONG = struct.Struct("<L")

_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST"}
    | {b"TM", b"UI", b"UL", b"US"}
)
_UNDEFINED = 0xFFFFFFFF
_ITEM_START, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEEPEST = 16

_PREAMBLE_BYTES = 132
_META_TAGS = frozenset({0x00020002, 0x00020003, 0x00020010})
_META_GROUP, _LAST_OF_META = 0x0002, 0x0002FFFF
_TRANSFER_SYNTAX = 0x00020010
_NOT_PLAIN = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})

# Printable ASCII without the backslash that parts values.
_PLAIN_TEXT = re.compile(rb"[ -\[\]-~]*[\0 ]*")

Elements = dict[int, bytes]


class _NotPlainError(Exception):
    """Something that pydicom has to look at."""


def skim(head: bytes | bytearray, wanted: Container[int], last: int) -> Elements | None:
    """Return the raw values of some elements of a Part 10 file, by tag.

    Parameters
    ----------
    head : bytes
        The file, or its beginning.
    wanted : container of int
        Tags of the dataset, none above `last`.
    last : int
        The walk ends before the first tag above this one.

    Returns
    -------
    dict of int to bytes, or None
        With the three names of the file meta information; None where it is not plain, or the beginning is too short.
    """
    if head[128:_PREAMBLE_BYTES] != b"DICM":
        return None
    try:
        found, at = _meta_walk(head)
        syntax = plain_text(found.get(_TRANSFER_SYNTAX, b""))
        if not syntax or syntax in _NOT_PLAIN:
            return None
        dataset, at = _walk(head, at, wanted, last, explicit=syntax != ImplicitVRLittleEndian)
    except (_NotPlainError, struct.error):
        return None
    return found | dataset


def file_meta_of(head: bytes) -> tuple[tuple[str, str, str], int] | None:
    """Return SOP class, SOP instance and transfer syntax of a Part 10 file, and where its dataset starts; None for others."""
    if head[128:_PREAMBLE_BYTES] != b"DICM":
        return None
    try:
        found, at = _meta_walk(head)
    except (_NotPlainError, struct.error):
        return None
    sop_class, instance, syntax = (plain_text(found.get(tag, b"")) for tag in sorted(_META_TAGS))
    return ((sop_class, instance, syntax), at) if sop_class and instance and syntax else None


def plain_text(value: bytes) -> str | None:
    """Return a single ASCII value without its padding; None where it is something else.

    Examples
    --------
    >>> plain_text(b"1.2.3" + bytes(1))
    '1.2.3'
    >>> plain_text("Ärzte".encode()) is None
    True
    """
    return value.decode("ascii").strip("\0 ") if _PLAIN_TEXT.fullmatch(value) else None


def _meta_walk(head: bytes | bytearray) -> tuple[Elements, int]:
    """Return the file meta information, and where the dataset starts."""
    found, at = _walk(head, _PREAMBLE_BYTES, _META_TAGS, _LAST_OF_META, explicit=True)
    if _TAG.unpack_from(head, _PREAMBLE_BYTES)[0] != _META_GROUP:
        raise _NotPlainError
    return found, at


def _walk(head: bytes | bytearray, at: int, wanted: Container[int], last: int, *, explicit: bool) -> tuple[Elements, int]:
    """Return the wanted elements and where the first one above `last` stands."""
    found: Elements = {}
    previous = -1
    while at < len(head):
        group, element = _TAG.unpack_from(head, at)
        tag = group << 16 | element
        if tag > last:
            return found, at
        if tag <= previous:
            raise _NotPlainError
        previous = tag
        start, length, inner_explicit = _length(head, at, explicit)
        if length == _UNDEFINED:
            at = _after_items(head, start, inner_explicit, 0)
            continue
        at = start + length
        if at > len(head):
            raise _NotPlainError
        if tag in wanted:
            found[tag] = bytes(head[start:at])
    return found, at


def _length(head: bytes | bytearray, at: int, explicit: bool) -> tuple[int, int, bool]:
    """Return where the value of an element starts, its length, and whether what lies within has explicit VRs."""
    if not explicit:
        return at + 8, _LONG.unpack_from(head, at + 4)[0], False
    vr = bytes(head[at + 4 : at + 6])
    if vr in _SHORT_VRS:
        return at + 8, _SHORT.unpack_from(head, at + 6)[0], True
    if vr not in _LONG_VRS:
        raise _NotPlainError
    length = _LONG.unpack_from(head, at + 8)[0]
    if length == _UNDEFINED and vr not in (b"SQ", b"UN"):
        raise _NotPlainError
    return at + 12, length, vr != b"UN"  # PS3.5 6.2.2: an UN of undefined length is implicit within


def _after_items(head: bytes | bytearray, at: int, explicit: bool, depth: int) -> int:
    """Return where a sequence of undefined length ends."""
    if depth > _DEEPEST:
        raise _NotPlainError
    while True:
        group, element, length = _ITEM.unpack_from(head, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM_START:
            raise _NotPlainError
        at = _after_item(head, at, explicit, depth) if length == _UNDEFINED else at + length


def _after_item(head: bytes | bytearray, at: int, explicit: bool, depth: int) -> int:
    """Return where an item of undefined length ends."""
    while True:
        group, element = _TAG.unpack_from(head, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        start, length, inner_explicit = _length(head, at, explicit)
        at = _after_items(head, start, inner_explicit, depth + 1) if length == _UNDEFINED else start + length
