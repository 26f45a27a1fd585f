"""Headers of bytes that are not what they claim to be: there is one way out, and a whole file and its beginning agree on it."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.holding.files import to_part10
from dicom_node.holding.headers import InstanceHeader, read_header
from dicom_node.statuses import status_of
from domain.errors import InstanceMismatch, UnreadableInstance
from tests.builders_dicom import series_datasets

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_PREAMBLE = 132


def _file(syntax: str) -> bytes:
    ds = series_datasets(1)[0]
    ds.OtherPatientIDsSequence = [ds.__class__(), ds.__class__()]
    ds.OtherPatientIDsSequence[0].PatientID = "P-2"
    big = syntax == ExplicitVRBigEndian
    if big:
        ds["PixelData"].value = bytes(len(ds.PixelData))
        ds._is_little_endian = False
    ds.file_meta.TransferSyntaxUID = syntax
    return to_part10(ds)


FILES = [_file(syntax) for syntax in SYNTAXES]


def _header(head: bytes, whole: bytes) -> InstanceHeader | None:
    """Return the header, or None where the bytes were refused; from the disk, as the archive reads them."""
    with NamedTemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values, which is no way out
        file.write(whole)
        file.flush()

        def reader() -> BinaryIO:
            return Path(file.name).open("rb")

        try:
            return read_header(head, reader)
        except UnreadableInstance:
            return None


@pytest.mark.parametrize("data", FILES, ids=[syntax.name for syntax in SYNTAXES])
def test_the_header_is_read_from_each_uncompressed_syntax(data: bytes) -> None:
    header = _header(data, data)
    assert header is not None
    assert (header.patient_id, header.modality, header.rows) == ("P-1", "MR", 3)


@pytest.mark.requirement("DICOM-ASSOC-009")
@settings(max_examples=400, deadline=None)
@given(
    which=st.sampled_from(range(len(FILES))),
    wrong=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
    meta_too=st.booleans(),
)
def test_mutated_bytes_are_a_header_or_unreadable_and_nothing_else(
    which: int, wrong: list[tuple[float, bytes]], kept: float, meta_too: bool
) -> None:
    data = bytearray(FILES[which])
    first = _PREAMBLE if meta_too else _PREAMBLE + 12 + int.from_bytes(data[140:144], "little")
    for place, octets in wrong:
        at = first + int(place * (len(data) - first))
        data[at : at + len(octets)] = octets
    mutated = bytes(data[: int(kept * len(data))])
    header = _header(mutated, mutated)
    if not meta_too:
        # The quick look at a whole header and pydicom's own reading of it, where the beginning is too short, agree.
        assert _header(mutated[:200], mutated) == header


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_after_a_preamble_are_a_header_or_unreadable(noise: bytes) -> None:
    data = bytes(128) + b"DICM" + noise
    _header(data, data)


def test_what_the_builder_makes_is_what_pydicom_reads() -> None:
    with NamedTemporaryFile() as file:
        file.write(FILES[2])
        file.flush()
        assert dcmread(file.name).file_meta.TransferSyntaxUID == ExplicitVRBigEndian


def test_a_sequence_that_never_ends_is_unreadable_and_no_failure_of_the_disk() -> None:
    """pydicom raises OSError for it, which a caller would take for a disk that is full or broken."""
    ends_at = FILES[0].index(b"\x08\x00\x16\x00UI")
    data = FILES[0][:ends_at] + b"\x08\x00\x15\x00SQ\x00\x00\xff\xff\xff\xff"
    with pytest.raises(UnreadableInstance, match="OSError"):
        read_header(data)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_a_dataset_of_another_class_or_instance_than_its_command_does_not_match(keyword: str) -> None:
    ds = series_datasets(1)[0]
    named = str(ds[keyword].value).encode()
    other = named[:-1] + (b"7" if named[-1:] != b"7" else b"8")
    with pytest.raises(InstanceMismatch) as refused:
        read_header(to_part10(ds).replace(named, other, 1))
    assert status_of(refused.value).Status == 0xA900
