"""Elements that lie in Explicit VR Little Endian and are canonical but for their padding: taken as bytes, not decoded.

Each function answers None for what is not so plain: other characters than ASCII, numbers in another form, private elements,
undefined lengths. Then the value has to be decoded and encoded again (`provenance.digesting.canonical_dataset`).
"""

from __future__ import annotations

import re
import struct

_ITEM = 0xFFFEE000
_CHARACTER_SET = 0x00080005
_TRAILING_PADDING = 0xFFFCFFFC
# PS3.5 table 6.2-1: where spaces at both ends, or only at the end, are padding and no part of the value.
PADDED_AROUND = frozenset({"AE", "CS", "DS", "IS", "LO", "SH"})
PADDED_BEHIND = frozenset({"AS", "DA", "DT", "LT", "PN", "ST", "TM", "UC", "UI", "UR", "UT"})
_PADDED = PADDED_AROUND | PADDED_BEHIND
_ONE_TEXT = frozenset({"LT", "ST", "UT"})
# Bytes of one number; a value has to be a whole number of them.
_NUMBERS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})
# PS3.5 section 7.1.2: a length of 32 bits behind two reserved bytes.
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_MAX_SHORT = 0xFFFE
_DECIMALS = re.compile(rb"[-+0-9.eE]+(?: *\\ *[-+0-9.eE]+)*")
_INTEGERS = re.compile(rb"[-+0-9]+(?: *\\ *[-+0-9]+)*")


def plain_content(vr: str, value: bytes, *, ascii_set: bool) -> bytes | None:
    """Return the canonical value field of an element; None where it has to be decoded for that.

    Parameters
    ----------
    ascii_set : bool
        Whether ASCII bytes are surely the text that they look like in the character set of the element.
    """
    if vr in _NUMBERS:
        return value if len(value) % _NUMBERS[vr] == 0 and (vr in _LONG or len(value) <= _MAX_SHORT) else None
    if vr in _BYTES:
        return value if len(value) % 2 == 0 else None
    if vr not in _PADDED or not ascii_set or not value.isascii() or b"\x1b" in value:
        return None
    text = _stripped(vr, value)
    if text is None:
        return None
    if len(text) % 2:
        text += b"\0" if vr == "UI" else b" "
    return text if vr in _LONG or len(text) <= _MAX_SHORT else None


def _stripped(vr: str, value: bytes) -> bytes | None:
    text = value.rstrip(b" \0")
    if vr in {"DS", "IS"}:
        text = text.lstrip(b" ")
        legal = _DECIMALS if vr == "DS" else _INTEGERS
        if text and not legal.fullmatch(text):
            return None
        return text.replace(b" ", b"")
    if vr in _ONE_TEXT or b"\\" not in text:
        if vr == "PN" and b"=" in text:
            return None
        return text.lstrip(b" ") if vr in PADDED_AROUND else text
    if vr in {"PN", "UR"}:
        return None
    values = (one.rstrip(b" \0") for one in text.split(b"\\"))
    return b"\\".join(one.lstrip(b" ") if vr in PADDED_AROUND else one for one in values)


def plain_sequence(value: bytes) -> bytes | None:
    """Return the canonical value field of a sequence in a data set of an ASCII compatible character set."""
    parts: list[bytes] = []
    at = 0
    while at < len(value):
        if len(value) - at < 8:
            return None
        group, element, length = struct.unpack_from("<HHL", value, at)
        if (group << 16 | element) != _ITEM or at + 8 + length > len(value):
            return None
        item = _plain_item(value, at + 8, at + 8 + length)
        if item is None:
            return None
        parts.append(with_item_header(item))
        at += 8 + length
    return b"".join(parts)


def _plain_item(value: bytes, at: int, end: int) -> bytes | None:
    parts: list[bytes] = []
    before = -1
    while at < end:
        read = _header(value, at, end)
        if read is None:
            return None
        tag, vr, start, length = read
        if tag <= before or not _is_plain_tag(tag):
            return None
        content = value[start : start + length]
        plain = plain_sequence(content) if vr == "SQ" else plain_content(vr, content, ascii_set=True)
        if plain is None:
            return None
        parts.append(with_header(tag, vr, plain))
        before, at = tag, start + length
    return b"".join(parts)


def _header(value: bytes, at: int, end: int) -> tuple[int, str, int, int] | None:
    """Tag, value representation, start and length of the element at a place; None where no whole one of known length is."""
    if end - at < 8:
        return None
    group, element, vr_bytes, length = struct.unpack_from("<HH2sH", value, at)
    vr, start = vr_bytes.decode("latin-1"), at + 8
    if vr in _LONG:
        if end - at < 12:
            return None
        (length,), start = struct.unpack_from("<L", value, at + 8), at + 12
    return None if start + length > end else (group << 16 | element, vr, start, length)


def _is_plain_tag(tag: int) -> bool:
    group = tag >> 16
    return not (group & 1 or group in {0x0000, 0x0002} or not tag & 0xFFFF or tag in {_CHARACTER_SET, _TRAILING_PADDING})


def with_header(tag: int, vr: str, content: bytes) -> bytes:
    """Return an element (PS3.5 section 7.1.2)."""
    form = "<HH2s2xL" if vr in _LONG else "<HH2sH"
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(content)) + content


def with_item_header(content: bytes) -> bytes:
    """Return an item of a sequence, of explicit length (PS3.5 section 7.5)."""
    return struct.pack("<HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content
