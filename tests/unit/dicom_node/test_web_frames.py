from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dicom_node.holding.files import to_part10
from dicom_node.recoding import recoded_file
from dicom_node.web.frames import choose_form, frames
from dicom_node.web.media_types import parse_accept
from dicom_node.web.metadata import bulk_value, to_metadata
from dicom_node.web.rendering import PNG, parse_rendering, render
from domain.errors import AnswerUnacceptable, RequestInvalid, ResourceNotFound
from tests.builders_dicom import slice_dataset

_FRAMES = np.arange(3 * 4 * 6, dtype=np.uint16).reshape(3, 4, 6)


def _multiframe(syntax: str = ExplicitVRLittleEndian, **attributes: object) -> Dataset:
    ds = slice_dataset(1, _FRAMES[0], NumberOfFrames=3, **attributes)
    ds.PixelData = _FRAMES.astype("<u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax, generate_instance_uid=False)
    return ds


def _given(ds: Dataset, numbers: list[int], accept: str = "") -> list[bytes]:
    return list(frames(ds, numbers, choose_form(parse_accept(accept), str(ds.file_meta.TransferSyntaxUID))))


_OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.mark.requirement("DICOM-WEB-004")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_decoded_frames_are_those_of_the_image_in_the_order_asked_for(syntax: str) -> None:
    given = _given(_multiframe(syntax), [3, 1], _OCTETS)
    assert [np.frombuffer(frame, "<u2").reshape(4, 6).tolist() for frame in given] == [_FRAMES[2].tolist(), _FRAMES[0].tolist()]


@pytest.mark.requirement("DICOM-WEB-004")
@pytest.mark.parametrize("table", ["basic", "empty", "fragments", "extended"])
def test_compressed_frames_are_found_with_and_without_an_offset_table(table: str) -> None:
    ds = _multiframe(RLELossless)
    encoded = [bytes(frame) for frame in get_encoder(RLELossless).iter_encode(_multiframe())]
    if table == "extended":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(encoded)
    else:
        count = 2 if table == "fragments" else 1
        ds.PixelData = encapsulate(encoded, fragments_per_frame=count, has_bot=table != "empty")
    given = _given(ds, [2, 3])
    assert [frame.rstrip(b"\0") for frame in given] == [frame.rstrip(b"\0") for frame in encoded[1:]]


def test_frames_of_single_bits_that_share_a_byte_are_packed_one_by_one() -> None:
    bits = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]], np.uint8)
    ds = slice_dataset(1, np.zeros((1, 3), np.uint16), NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
    assert [int(frame[0]) for frame in _given(ds, [1, 2, 3])] == [0b101, 0b110, 0b111]


def test_big_endian_words_are_given_little_endian() -> None:
    ds = _multiframe()
    ds.PixelData = _FRAMES.astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data = to_part10(ds)
    assert _given(dcmread(BytesIO(data)), [2]) == [_FRAMES[1].astype("<u2").tobytes()]
    again = dcmread(BytesIO(recoded_file(dcmread(BytesIO(data)), ExplicitVRLittleEndian)))
    assert (again.pixel_array == _FRAMES).all()
    assert bulk_value(dcmread(BytesIO(data)), "7FE00010") == _FRAMES.astype("<u2").tobytes()


def test_refuses_frames_that_do_not_exist_and_forms_that_cannot_be_made() -> None:
    for numbers in ([0], [4], [1, 99]):
        with pytest.raises(ResourceNotFound):
            _given(_multiframe(), numbers)
    with pytest.raises(AnswerUnacceptable):
        _given(_multiframe(), [1], 'multipart/related; type="video/mp4"')
    broken = _multiframe(RLELossless)
    broken.PixelData = encapsulate([b"noise!"] * 3)
    with pytest.raises(AnswerUnacceptable):
        _given(broken, [1], _OCTETS)
    with pytest.raises(AnswerUnacceptable):
        recoded_file(broken, ExplicitVRLittleEndian)
    with pytest.raises(AnswerUnacceptable):
        choose_form(parse_accept("image/png"), JPEGBaseline8Bit)


@pytest.mark.requirement("DICOM-WEB-005")
def test_metadata_holds_what_json_cannot_say_by_its_address() -> None:
    ds = _multiframe()
    ds.add(DataElement(0x00189087, "FD", float("nan")))
    item = Dataset()
    item.add(DataElement(0x00091001, "OB", b"x" * 2000))
    ds.add(DataElement(0x00081140, "SQ", [Dataset(), item]))
    held = dcmread(BytesIO(to_part10(ds)))
    told = to_metadata(held, "http://here/bulkdata")
    assert told["00189087"] == {"vr": "FD", "BulkDataURI": "http://here/bulkdata/00189087"}
    nested = told["00081140"]["Value"][1]["00091001"]["BulkDataURI"].removeprefix("http://here/bulkdata/")
    assert nested == "00081140/2/00091001"
    assert bulk_value(dcmread(BytesIO(to_part10(ds))), nested) == b"x" * 2000
    assert len(bulk_value(dcmread(BytesIO(to_part10(ds))), "00189087")) == 8
    assert told["00083002"]["Value"] == [ExplicitVRLittleEndian]
    for path in ("00081140/3/00091001", "0008", "../x", "00081140/1"):
        with pytest.raises(ResourceNotFound):
            bulk_value(held, path)


def _grey(ds: Dataset, number: int = 1, **parameters: str) -> list[int]:
    return np.asarray(Image.open(BytesIO(render(ds, number, PNG, parse_rendering(parameters))))).ravel().tolist()


@pytest.mark.requirement("DICOM-WEB-006")
def test_a_picture_follows_window_rescale_and_photometric_interpretation() -> None:
    values = np.array([[0, 10, 20, 30]], np.uint16)
    ds = slice_dataset(1, values)
    assert _grey(ds) == [0, 85, 170, 255]
    assert _grey(ds, window="15,10,linear-exact") == [0, 0, 255, 255]
    ds.RescaleSlope, ds.RescaleIntercept = 2, -10
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = 20, 20, "LINEAR_EXACT"
    assert _grey(ds) == [0, 0, 255, 255]
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert _grey(ds) == [255, 255, 0, 0]


def test_each_frame_of_an_enhanced_instance_has_its_own_window() -> None:
    ds = _multiframe()
    groups = []
    for center in (0, 100, 30):
        window = Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 0.5, "LINEAR_EXACT"
        group = Dataset()
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    assert [round(sum(_grey(ds, number)) / 255 / 24, 1) for number in (1, 2, 3)] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "parameters", [{"window": "1"}, {"window": "a,b"}, {"window": "1,2,cubic"}, {"viewport": "0,5"}, {"quality": "0"}]
)
def test_refuses_a_rendering_that_is_none(parameters: dict[str, str]) -> None:
    with pytest.raises(RequestInvalid):
        parse_rendering(parameters)
