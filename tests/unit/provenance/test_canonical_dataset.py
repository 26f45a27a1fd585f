"""Taking values as they lie gives the same bytes as decoding and encoding each of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.holding.files import to_part10
from dicom_node.writing import SummaryForm
from provenance.digesting.canonical_dataset import canonical_bytes, encoded_anew
from provenance.digesting.plain_elements import plain_sequence, with_header, with_item_header
from tests.builders_objects import written_objects
from tests.builders_provenance import make_instance, through_file

PIXELS = frozenset({0x7FE00010})
_ascii = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=14)
_any_text = st.text(st.sampled_from(" ABcd09\\\\^=-+.eE\0\x1b\nÄ漢µ"), max_size=14)
_names = ["PatientName", "PatientID", "StudyDescription", "Manufacturer", "StationName", "InstitutionAddress", "ImageComments"]
_strings = ["ImageType", "StudyDate", "SeriesTime", "AcquisitionDateTime", "PatientAge", "StationAETitle", "RetrieveURL"]
_numbers = ["SliceThickness", "PixelSpacing", "EchoTime", "SeriesNumber", "ReferencedFrameNumber"]


def _same(ds: Dataset) -> None:
    read = dcmread(io.BytesIO(to_part10(ds)))
    again = dcmread(io.BytesIO(to_part10(ds)))
    assert canonical_bytes(read, PIXELS) == encoded_anew(again, PIXELS)


@pytest.mark.requirement("PROV-DIGEST-001")
@pytest.mark.parametrize("summary", SummaryForm)
def test_every_object_of_ours_is_encoded_the_same_either_way(summary: SummaryForm) -> None:
    for instances in written_objects(summary=summary).values():
        for ds in instances:
            _same(ds)


@pytest.mark.requirement("PROV-DIGEST-001")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_however_a_file_is_encoded_it_gives_the_same_bytes(syntax: str) -> None:
    made = make_instance("request-1", 1)
    expected = encoded_anew(made, PIXELS)
    assert canonical_bytes(through_file(make_instance("request-1", 1), syntax), PIXELS) == expected


@pytest.mark.requirement("PROV-DIGEST-001")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "ISO_IR 144"]),
    st.dictionaries(st.sampled_from(_names), st.one_of(_ascii, _any_text), max_size=5),
    st.dictionaries(st.sampled_from(_strings), _ascii, max_size=5),
    st.dictionaries(st.sampled_from(_numbers), st.from_regex(r"[-+ ]?[0-9]{1,4} {0,2}(\\ ?[0-9]{1,3} ?){0,2}", fullmatch=True)),
    st.integers(0, 3),
)
def test_whatever_text_stands_in_it_both_ways_give_the_same_bytes(
    charset: str, names: dict[str, str], strings: dict[str, str], numbers: dict[str, str], depth: int
) -> None:
    raw = _raw_dataset(charset, names, strings, numbers)
    for _ in range(depth):
        raw = with_header(0x00081140, "SQ", with_item_header(raw) + with_item_header(b""))
    read, again = _read(raw), _read(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that are not legal; they are digested all the same
        expected = _result(encoded_anew, again)
        assert _result(canonical_bytes, read) == expected


def _raw_dataset(charset: str, names: dict[str, str], strings: dict[str, str], numbers: dict[str, str]) -> bytes:
    """Explicit VR Little Endian as a careless program writes it: padding anywhere."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    values = {tag_for_keyword(name): text for group in (names, strings, numbers) for name, text in group.items()}
    values |= {0x00080005: charset} if charset else {}
    parts = []
    for tag, text in sorted(values.items()):
        content = text.encode("utf-8" if charset == "ISO_IR 192" else "latin-1", errors="replace")
        parts.append(with_header(tag, dictionary_VR(tag), content + b" " * (len(content) % 2)))
    return b"".join(parts)


def _read(raw: bytes) -> Dataset:
    stream = io.BytesIO(raw)
    from pydicom.filereader import read_dataset

    return read_dataset(stream, is_implicit_VR=False, is_little_endian=True)


def _result(encode: Callable[[Dataset, frozenset[int]], bytes], ds: Dataset) -> bytes | str:
    """The bytes, or that there are none: what cannot be encoded the one way, the other may take as it lies."""
    try:
        return encode(ds, PIXELS)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__


@pytest.mark.parametrize(
    "change",
    [
        lambda item: item[:-1],
        lambda item: item[:8] + b"\x01\0" + item[10:],  # a private group
        lambda item: item.replace(b"LO", b"ZZ", 1),
        lambda item: item + b"\0" * 7,
        lambda item: item[:4] + b"\xff\xff\xff\xff" + item[8:],
    ],
)
def test_a_sequence_that_is_not_plain_is_left_to_the_library(change: Callable[[bytes], bytes]) -> None:
    item = with_item_header(with_header(0x00081030, "LO", b"text"))
    assert plain_sequence(item) == item
    assert plain_sequence(change(item)) is None
