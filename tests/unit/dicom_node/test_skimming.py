"""The quick look into a header sees what pydicom sees, or says that it is not plain."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.holding.files import file_meta, part10_head, to_part10
from dicom_node.holding.headers import _parsed, _skimmed, read_header
from dicom_node.holding.skimming import file_meta_of
from domain.errors import UnreadableInstance
from tests.builders_dicom import part10_series, series_datasets

_HEAD = 2**18


def test_every_real_header_reads_as_pydicom_reads_it(data_folder: Callable[[str], Path]) -> None:
    files = list(data_folder("dicom").rglob("*.dcm"))
    plain = 0
    for path in files:
        data = path.read_bytes()
        skimmed = _skimmed(data[:_HEAD])
        if skimmed is not None:
            plain += 1
            assert skimmed == _parsed(BytesIO(data)), path.name
    assert plain > 0.8 * len(files), f"{plain} of {len(files)} were plain"


def _with_sequences(ds: Dataset, *, undefined: bool) -> Dataset:
    inner = Dataset()
    inner.PatientID, inner.SeriesInstanceUID = "another", "1.2.3.4.5"
    outer = Dataset()
    outer.ReferencedSeriesSequence = Sequence([inner])
    ds.ReferencedStudySequence = Sequence([outer, Dataset()])
    if undefined:
        for element in (ds["ReferencedStudySequence"], outer["ReferencedSeriesSequence"]):
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
    return ds


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_attributes_within_sequences_are_not_those_of_the_instance(syntax: str, undefined: bool) -> None:
    ds = _with_sequences(series_datasets(1)[0], undefined=undefined)
    ds.file_meta.TransferSyntaxUID = syntax
    data = to_part10(ds)
    skimmed = _skimmed(data)
    assert skimmed is not None
    assert skimmed == _parsed(BytesIO(data))
    assert skimmed["PatientID"] == "P-1"


@pytest.mark.parametrize(
    ("keyword", "value", "charset"),
    [
        ("PatientName", "Müller^Jörg", "ISO_IR 192"),
        ("StudyDescription", "a~b", "ISO_IR 13"),
        ("StudyDescription", ["a", "b"], ""),
    ],
)
@pytest.mark.filterwarnings("ignore:.*multiple values|.*is not valid")
def test_what_is_not_plain_is_left_to_pydicom(keyword: str, value: object, charset: str) -> None:
    ds = series_datasets(1)[0]
    ds.SpecificCharacterSet = charset
    setattr(ds, keyword, value)
    data = to_part10(ds)
    assert _skimmed(data) is None
    assert read_header(data).sop_instance_uid == ds.SOPInstanceUID


def test_big_endian_is_left_to_pydicom() -> None:
    ds = series_datasets(1)[0]
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    ds["PixelData"].value = b"\0" * len(ds.PixelData)
    data = to_part10(ds)
    assert _skimmed(data) is None
    assert read_header(data).transfer_syntax_uid == ExplicitVRBigEndian


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(132, 880), st.integers(0, 255)), min_size=1, max_size=4), cut=st.integers(0, 1200)
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it finds odd in damaged bytes, and so it should
def test_damaged_bytes_never_give_another_identity_than_pydicom_gives(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(to_part10(_with_sequences(series_datasets(1)[0], undefined=True)))
    for place, value in changes:
        data[min(place, len(data) - 1)] = value
    damaged = bytes(data[:cut] if cut < 880 else data)
    skimmed = _skimmed(damaged)
    if skimmed is None:
        return
    try:
        parsed = _parsed(BytesIO(damaged))
    except UnreadableInstance:
        return
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID")
    assert {name: skimmed[name] for name in names} == {name: parsed[name].strip("\0 ") for name in names}


def test_the_head_that_we_write_is_the_one_that_pydicom_writes() -> None:
    ds = series_datasets(1)[0]
    uid = str(ds.SOPInstanceUID)
    ds.file_meta = file_meta(ds.SOPClassUID, uid, ExplicitVRLittleEndian)
    head = part10_head(ds.SOPClassUID, uid, ExplicitVRLittleEndian)
    data = to_part10(ds)
    assert data.startswith(head)
    assert file_meta_of(data) == ((ds.SOPClassUID, uid, ExplicitVRLittleEndian), len(head))
    assert dcmread(BytesIO(head + data[len(head) :])).to_json() == ds.to_json()
    assert file_meta_of(b"no file at all") is None
    assert file_meta_of(part10_series(1)[0][:140]) is None
