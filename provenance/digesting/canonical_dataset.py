"""One byte form of a data set, whatever transfer syntax, padding and kind of lengths it came with.

It is the Explicit VR Little Endian encoding (PS3.5 section A.2) with explicit lengths, without file meta information, group
lengths, Data Set Trailing Padding, and the padding of values. Private attributes of others count as UN, which is what they
become on their way through Implicit VR.

Most values of an instance that was just read are in this form already, but for their padding: those are taken as they are,
without being decoded and encoded again, which is what makes a long series quick to verify. `encoded_anew` takes no such way,
and both give the same bytes.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from pydicom.charset import default_encoding, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from provenance.digesting.plain_elements import (
    PADDED_AROUND,
    PADDED_BEHIND,
    plain_content,
    plain_sequence,
    with_header,
    with_item_header,
)

_TRAILING_PADDING = 0xFFFCFFFC
_UNDEFINED_LENGTH = 0xFFFFFFFF
# The command set and the file meta information.
_NO_GROUPS = frozenset({0x0000, 0x0002})
# In these, and only in these, ASCII bytes are surely the text that they look like.
_ASCII_SETS = frozenset({"", default_encoding, "ISO_IR 6", "ISO_IR 100", "ISO_IR 192"})


class _Ambiguous(Exception):
    """A value representation that only the rest of the data set decides (US or SS)."""


def canonical_bytes(ds: Dataset, left_out: frozenset[int]) -> bytes:
    """Return the canonical encoding of `ds` without the top-level tags `left_out`.

    Raises
    ------
    ValueError, TypeError, AttributeError, KeyError, NotImplementedError, OSError, struct.error, RecursionError
        If an attribute cannot be encoded, or the character set does not exist.
    """
    try:
        return _encode(ds, left_out, default_encoding)
    except _Ambiguous:
        return encoded_anew(ds, left_out)


def encoded_anew(ds: Dataset, left_out: frozenset[int]) -> bytes:
    """Return the canonical encoding of `ds` with every value decoded and encoded again; see `canonical_bytes`."""
    buffer = _buffer()
    write_dataset(buffer, _canonical(ds, left_out))
    return buffer.getvalue()


def _encode(ds: Dataset, left_out: frozenset[int], outer: Any) -> bytes:
    """Encode one level; `outer` is the character set of the level above (PS3.5 section 7.5.3)."""
    known = _known_encodings(ds)
    plain = isinstance(known, str) and known in _ASCII_SETS
    written = ds.get("SpecificCharacterSet", outer)
    parts: list[bytes] = []
    for tag, item in sorted(((int(tag), item) for tag, item in ds.items()), key=itemgetter(0)):
        if tag in left_out or _is_no_content(tag):
            continue
        quick = _taken_as_it_is(tag, item, plain) if isinstance(item, RawDataElement) else None
        parts.append(quick if quick is not None else _encode_element(ds[tag], known, written))
    return b"".join(parts)


def _is_no_content(tag: int) -> bool:
    return tag >> 16 in _NO_GROUPS or not tag & 0xFFFF or tag == _TRAILING_PADDING


def _encode_element(element: DataElement, known: Any, written: Any) -> bytes:
    vr = str(element.VR)
    if len(vr) != 2:
        raise _Ambiguous
    if vr == "SQ":
        items = [_encode(item, frozenset(), written) for item in element.value]
        return with_header(element.tag, "SQ", b"".join(map(with_item_header, items)))
    buffer = _buffer()
    write_data_element(buffer, _canonical_element(element, known), written)
    return buffer.getvalue()


def _taken_as_it_is(tag: int, raw: RawDataElement, plain: bool) -> bytes | None:
    """Return an element that was read and not decoded in its canonical form; None where it has to be decoded for that."""
    vr = raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
    if len(vr) > 2:
        raise _Ambiguous
    if not raw.is_little_endian or raw.length == _UNDEFINED_LENGTH or _is_private_value(tag):
        return None
    value = raw.value or b""
    if vr == "SQ":
        content = plain_sequence(value) if plain and raw.VR and not raw.is_implicit_VR else None
    else:
        content = plain_content(vr, value, ascii_set=plain)
    return None if content is None else with_header(tag, vr, content)


def _is_private_value(tag: int) -> bool:
    return bool(tag >> 16 & 1) and not 0x10 <= tag & 0xFFFF < 0x100


def _buffer() -> DicomBytesIO:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    return buffer


def _canonical(ds: Dataset, left_out: frozenset[int]) -> Dataset:
    """Return a copy of `ds` with each value in one form, and sequences and items of explicit length."""
    encodings = _known_encodings(ds)
    canonical = Dataset()
    for element in ds:
        if element.tag not in left_out and not _is_no_content(element.tag):
            canonical[element.tag] = _canonical_element(element, encodings)
    return canonical


def _known_encodings(ds: Dataset) -> Any:
    """Specific Character Set, if PS3.3 C.12.1.1.2 knows it: with another one text would be digested as something else."""
    named = ds.get("SpecificCharacterSet", default_encoding)
    terms = [named] if named is None or isinstance(named, str) else named
    if any(str(term or "") not in python_encoding and term != default_encoding for term in terms):
        raise ValueError("a character set that does not exist")
    return named


def _canonical_element(element: DataElement, encodings: Any) -> DataElement:
    tag: BaseTag = Tag(element.tag)
    vr = str(element.VR)
    if vr == "SQ":
        items = [_canonical(item, frozenset()) for item in element.value]
        return DataElement(tag, "SQ", Sequence(items))
    if tag.is_private and not tag.is_private_creator:
        return DataElement(tag, "UN", _implicit_value(element, encodings), already_converted=True)
    return DataElement(tag, vr, _without_padding(vr, element.value), already_converted=True)


def _implicit_value(element: DataElement, encodings: Any) -> bytes:
    """The value field of the element in Implicit VR Little Endian: all that is left where nobody knows the VR."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_data_element(buffer, element, encodings)
    return buffer.getvalue()[8:]  # tag and length come before the value


def _without_padding(vr: str, value: Any) -> Any:
    if value is None or vr not in PADDED_AROUND | PADDED_BEHIND:
        return value
    if isinstance(value, (list, MultiValue)):
        return [_without_padding(vr, one) for one in value]
    text = str(value).rstrip(" \0")
    if vr == "PN":
        return PersonName(text)
    return text.lstrip(" ") if vr in PADDED_AROUND else text
