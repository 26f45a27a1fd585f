"""Digests: blind to honest re-encoding, sighted for everything else."""

from __future__ import annotations

import copy
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from domain.errors import UnreadableInstance
from provenance.as_dicom import embed
from provenance.digesting.series_tree import SeriesTree
from provenance.digests import dataset_digest, pixel_digest, resource_digest
from provenance.signing import SigningKey
from tests.builders_provenance import make_instance, make_series, through_file

LITTLE_ENDIAN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]

# Letters of several alphabets; spaces stay inside, because at the ends they are padding.
_TEXT = st.text(st.sampled_from("abcXYZ019-_äßéжλ語 "), max_size=40).map(str.strip)
_ASCII_TEXT = st.text(st.sampled_from("abcXYZ019-_ "), max_size=40).map(str.strip)
_UID = st.lists(st.integers(0, 99999), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, ["1", *parts])))
_DECIMAL = st.floats(-1e6, 1e6).map(lambda x: f"{x:.6g}")


@st.composite
def _datasets(draw: st.DrawFn, *, depth: int = 0) -> Dataset:
    """Attributes of each kind of VR, sequences in sequences, and a private block of somebody else."""
    ds = Dataset()
    ds.PatientName = draw(_TEXT)
    ds.SeriesDescription = draw(_TEXT)
    ds.ImageComments = draw(_TEXT)
    ds.DerivationDescription = draw(_TEXT)
    ds.ImageType = draw(st.lists(st.sampled_from(["DERIVED", "SECONDARY", "OTHER", ""]), max_size=4))
    ds.PixelSpacing = draw(st.lists(_DECIMAL, max_size=2))
    ds.InstanceNumber = draw(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)))
    ds.FrameOfReferenceUID = draw(_UID)
    ds.StudyDate = draw(st.sampled_from(["", "20260304"]))
    ds.B1rms = draw(st.floats(width=32, allow_nan=False))
    ds.RealWorldValueSlope = draw(st.floats(allow_nan=False))
    ds.FrameIncrementPointer = draw(st.sampled_from([0x00181063, [0x00181063, 0x00189074]]))
    ds.ICCProfile = draw(st.binary(max_size=9))
    ds.PixelRepresentation = 1
    ds.PixelPaddingValue = draw(st.integers(-(2**15), 2**15 - 1))
    block = ds.private_block(0x0099, "SOMEBODY ELSE", create=True)
    block.add_new(0x01, "LO", draw(_ASCII_TEXT))
    block.add_new(0x02, "DS", draw(st.lists(_DECIMAL, min_size=1, max_size=3)))
    if depth < 2:
        ds.SourceImageSequence = draw(st.lists(_datasets(depth=depth + 1), max_size=2))
    return ds


@pytest.mark.requirement("PROV-DIGEST-001")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(content=_datasets())
def test_the_attributes_digest_does_not_depend_on_the_transfer_syntax(content: Dataset) -> None:
    ds = make_instance("request-1", 1)
    ds.update({element.tag: element for element in content})
    before = dataset_digest(ds)
    for transfer_syntax in LITTLE_ENDIAN:
        assert dataset_digest(through_file(copy.deepcopy(ds), transfer_syntax)) == before, transfer_syntax.name


@pytest.mark.requirement("PROV-DIGEST-001")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_attribute_that_is_changed_taken_out_or_added_changes_the_digest(data: st.DataObject) -> None:
    ds = through_file(make_instance("request-1", 1))
    before = dataset_digest(ds)
    tags = [element.tag for element in ds if element.tag != 0x7FE00010]
    changed = copy.deepcopy(ds)
    way = data.draw(st.sampled_from(["change", "delete", "add", "nested"]))
    tag = data.draw(st.sampled_from(tags))
    if way == "delete":
        del changed[tag]
    elif way == "add":
        changed.PatientComments = "x"
    elif way == "nested" or changed[tag].VR == "SQ":
        changed.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeMeaning += "x"
    else:
        changed[tag].value = {
            "US": 7,
            "SS": 7,
            "US or SS": 7,
            "UI": "1.2.3",
            "CS": "ISO_IR 100",
            "DA": "19990101",
            "TM": "0101",
        }.get(changed[tag].VR, "7")
    assert dataset_digest(changed) != before


def test_undefined_lengths_group_lengths_and_padding_are_no_part_of_the_digest() -> None:
    ds = make_instance("request-1", 1)
    before = dataset_digest(ds)
    ds["SourceImageSequence"].is_undefined_length = True
    ds.SourceImageSequence[0].is_undefined_length_sequence_item = True
    ds.add_new(0x00080000, "UL", 1234)
    ds.add_new(0xFFFCFFFC, "OB", b"\0" * 10)
    ds.SeriesDescription = " Synthetic T1  "
    ds.DerivationDescription = "Generated "
    assert dataset_digest(ds) == before
    assert dataset_digest(through_file(ds)) == before


@pytest.mark.parametrize("charset", ["7", "LATIN 1", ["ISO_IR 100", "ISO 2022 IR 999"]])
def test_text_in_a_character_set_that_does_not_exist_has_no_digest(charset: object) -> None:
    ds = make_instance("request-1", 1)
    ds.SpecificCharacterSet = charset
    with pytest.raises(UnreadableInstance):
        dataset_digest(ds)


def test_a_leading_space_of_a_text_where_it_means_something_changes_the_digest() -> None:
    ds = make_instance("request-1", 1)
    before = dataset_digest(ds)
    ds.DerivationDescription = " Generated"
    assert dataset_digest(ds) != before


def test_our_own_block_is_outside_of_the_digest_and_another_block_is_inside() -> None:
    ds = make_instance("request-1", 1)
    before = dataset_digest(ds)
    embed(
        ds, SigningKey.generate().sign({"a": 1}, kind="x"), "Provenance/1", SeriesTree(make_series([ds]).instances).proofs()[0]
    )
    assert dataset_digest(ds) == before
    ds.private_block(0x7FDF, "SOMEBODY ELSE", create=True).add_new(0x01, "LO", "x")
    assert dataset_digest(ds) != before


def test_a_block_of_ours_inside_a_sequence_is_inside_the_digest() -> None:
    ds = make_instance("request-1", 1)
    before = dataset_digest(ds)
    ds.SourceImageSequence[0].private_block(0x7FDF, "VERAICON PROVENANCE", create=True).add_new(0x02, "UT", "x")
    assert dataset_digest(ds) != before


@pytest.mark.requirement("PROV-DIGEST-001")
@pytest.mark.parametrize("transfer_syntax", [JPEG2000Lossless, RLELossless], ids=lambda uid: uid.name)
def test_the_pixel_digest_survives_lossless_compression(transfer_syntax: str) -> None:
    ds = make_instance("request-1", 1)
    ds.Rows = ds.Columns = 64  # JPEG 2000 needs room for its resolutions
    ds.PixelData = np.random.default_rng(3).integers(-40, 1200, size=(64, 64)).astype("<i2").tobytes()
    native, before, attributes = ds.PixelData, pixel_digest(ds), dataset_digest(ds)
    ds.compress(transfer_syntax, generate_instance_uid=False)
    packed = through_file(ds, transfer_syntax)
    assert packed.PixelData != native
    assert pixel_digest(packed) == before
    assert dataset_digest(packed) == attributes


def test_the_pixel_digest_is_the_one_of_the_little_endian_value() -> None:
    ds = make_instance("request-1", 1)
    big = copy.deepcopy(ds)
    big.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert pixel_digest(big) == pixel_digest(ds)


@pytest.mark.requirement("PROV-DIGEST-001")
@settings(max_examples=30, deadline=None)
@given(place=st.integers(0, 59), bit=st.integers(0, 7))
def test_any_flipped_bit_changes_the_pixel_digest(place: int, bit: int) -> None:
    ds = make_instance("request-1", 1)
    before = pixel_digest(ds)
    pixels = bytearray(ds.PixelData)
    pixels[place] ^= 1 << bit
    ds.PixelData = bytes(pixels)
    assert pixel_digest(ds) != before


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelData", bytes(62)),
        ("PixelData", bytes(10)),
        ("PixelData", None),
        ("Rows", 0),
        ("BitsAllocated", 13),
        ("Rows", None),
    ],
    ids=["too many bytes", "too few bytes", "no bytes", "no rows", "odd bits", "rows not told"],
)
def test_pixels_that_do_not_fill_the_image_have_no_digest(keyword: str, value: object) -> None:
    ds = make_instance("request-1", 1)
    setattr(ds, keyword, value)
    with pytest.raises(UnreadableInstance):
        pixel_digest(ds)


def test_an_image_that_claims_terabytes_is_refused_before_it_is_decoded() -> None:
    ds = make_instance("request-1", 1)
    ds.Rows = ds.Columns = 65535
    ds.NumberOfFrames = 1000
    with pytest.raises(UnreadableInstance):
        pixel_digest(ds)


def test_a_resource_keeps_its_digest_on_a_server() -> None:
    ours = {
        "resourceType": "Device",
        "id": "a",
        "meta": {"security": [{"system": "s", "code": "B", "display": "x"}, {"system": "s", "code": "A"}]},
        "property": [{"valueQuantity": [{"value": 1.5}]}],
    }
    theirs = {
        "property": [{"valueQuantity": [{"value": Decimal("1.50")}]}],
        "meta": {
            "versionId": "3",
            "lastUpdated": "2026-03-04T05:06:07Z",
            "source": "#abc",
            "security": [{"code": "A", "system": "s"}, {"code": "B", "system": "s"}],
            "tag": [],
        },
        "id": "a",
        "text": {"status": "generated"},
        "resourceType": "Device",
    }
    assert resource_digest(theirs) == resource_digest(ours)
    assert resource_digest(theirs | {"status": "inactive"}) != resource_digest(ours)
    theirs["meta"]["security"].pop()
    assert resource_digest(theirs) != resource_digest(ours)
