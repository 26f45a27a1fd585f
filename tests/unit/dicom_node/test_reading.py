"""Volumes from slices: order, units, place, and each refusal by its name."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from dicom_node.reading import decode_pixels, read_volume
from dicom_node.volumes.geometry import stack_geometry
from domain.errors import IncompleteSeries, InputError, UnreadableInstance, UnsupportedSeries
from tests.builders_dicom import series_datasets, slice_dataset


def real_series(folder: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


@pytest.mark.requirement("DICOM-READ-001")
def test_axes_are_slice_row_column_and_the_affine_places_each_voxel() -> None:
    volume = read_volume(series_datasets(4))
    assert volume.shape == (4, 3, 2)
    assert volume.array[2, 1, 1] == 311
    # First slice at (10, 20, 2); 2 mm between slices, 1.5 mm between rows (along +y), 0.5 mm between columns (along +x).
    np.testing.assert_allclose(volume.affine_lps @ [2, 1, 1, 1], [10.5, 21.5, 6, 1])
    assert volume.spacing_mm == (2.0, 1.5, 0.5)
    assert (volume.modality, volume.unit) == ("MR", "1")


@pytest.mark.requirement("DICOM-READ-001")
def test_position_decides_the_order_and_neither_arrival_nor_number_does() -> None:
    datasets = series_datasets(6)
    numbers = random.Random(3).sample(range(1, 7), 6)
    for ds, number in zip(datasets, numbers, strict=True):
        ds.InstanceNumber = number
    random.Random(4).shuffle(datasets)
    np.testing.assert_array_equal(read_volume(datasets).array, read_volume(series_datasets(6)).array)


@pytest.mark.requirement("DICOM-READ-001")
def test_slices_listed_towards_the_feet_are_sorted_along_their_normal() -> None:
    pixels = np.zeros((2, 2), np.uint16)
    downwards = [slice_dataset(k, pixels + k, position_mm=(0, 0, -3 * k)) for k in range(1, 4)]
    volume = read_volume(downwards)
    assert list(volume.array[:, 0, 0]) == [3, 2, 1]
    np.testing.assert_allclose(volume.affine_lps[:3, 0], [0, 0, 3])


@pytest.mark.requirement("DICOM-READ-002")
def test_ct_comes_in_hounsfield_units_with_each_slices_own_slope() -> None:
    pixels = np.array([[-5, 0], [7, 2000]], np.int16)
    options: dict[str, Any] = {"modality": "CT", "RescaleIntercept": -1024}
    volume = read_volume(
        [slice_dataset(1, pixels, RescaleSlope=1, **options), slice_dataset(2, pixels, RescaleSlope=2, **options)]
    )
    np.testing.assert_array_equal(volume.array[0], [[-1029, -1024], [-1017, 976]])
    np.testing.assert_array_equal(volume.array[1], [[-1034, -1024], [-1010, 2976]])
    assert volume.unit == "[hnsf'U]"


@pytest.mark.requirement("DICOM-READ-002")
def test_ct_without_rescale_is_refused() -> None:
    datasets = [slice_dataset(k, np.zeros((2, 2), np.int16), modality="CT") for k in (1, 2)]
    with pytest.raises(UnsupportedSeries, match="Hounsfield"):
        read_volume(datasets)


@pytest.mark.requirement("DICOM-READ-003")
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_slices_give_the_same_volume(syntax: UID) -> None:
    datasets = [slice_dataset(k, np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) * k) for k in (1, 2, 3)]
    expected = read_volume(datasets).array
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False)
    assert datasets[0].file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_volume(datasets).array, expected)


def change_one(index: int, **attributes: object) -> list[Dataset]:
    datasets = series_datasets(5)
    for keyword, value in attributes.items():
        if value is None:
            delattr(datasets[index], keyword)
        else:
            setattr(datasets[index], keyword, value)
    return datasets


def change_all(**attributes: object) -> list[Dataset]:
    return series_datasets(5, change=lambda ds: [setattr(ds, k, v) for k, v in attributes.items()].clear())


@pytest.mark.requirement("DICOM-READ-004")
@pytest.mark.parametrize(
    ("datasets", "kind", "words"),
    [
        ([], IncompleteSeries, "no instance"),
        (series_datasets(1), UnsupportedSeries, "single slice"),
        (series_datasets(5)[:2] + series_datasets(5)[3:], IncompleteSeries, "1 slices missing in 1 gaps"),
        (series_datasets(9)[:2] + series_datasets(9)[4:], IncompleteSeries, "2 slices missing in 1 gaps"),
        (change_one(2, ImagePositionPatient=[10, 20, 6.5]), IncompleteSeries, "2 uneven slice distances"),
        (change_one(2, ImagePositionPatient=[10, 20, 4]), IncompleteSeries, "1 slices at a place"),
        (change_one(2, ImageOrientationPatient=[0, 1, 0, 0, 0, 1]), UnsupportedSeries, "more than one ImageOrientationPatient"),
        (change_one(2, PixelSpacing=[1.5, 0.6]), UnsupportedSeries, "more than one PixelSpacing"),
        (change_one(2, Rows=2), UnsupportedSeries, "more than one Rows"),
        (change_one(2, FrameOfReferenceUID="1.2.3"), UnsupportedSeries, "more than one FrameOfReferenceUID"),
        (change_one(2, ImagePositionPatient=None), UnsupportedSeries, "3 numbers in ImagePositionPatient"),
        (change_all(PixelSpacing=[0, 1]), UnsupportedSeries, "not positive"),
        (change_all(ImageOrientationPatient=[1, 0, 0, 0, 2, 0]), UnsupportedSeries, "perpendicular unit vectors"),
        (change_all(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), UnsupportedSeries, "a mosaic"),
        (change_all(NumberOfFrames=2), UnsupportedSeries, "2 frames in one instance of a classic class"),
        (change_all(PhotometricInterpretation="MONOCHROME1"), UnsupportedSeries, "pixels in MONOCHROME1"),
        (change_all(HighBit=14), UnsupportedSeries, "High Bit 14 with 16 Bits Stored"),
        (change_all(ModalityLUTSequence=[Dataset()]), UnsupportedSeries, "a Modality LUT"),
        (change_all(PixelPaddingValue="x"), UnsupportedSeries, "PixelPaddingValue that is no number"),
        (change_one(2, EchoTime=4.92), UnsupportedSeries, "2 echo times \\(4.92, none stated\\)"),
        (change_one(2, TemporalPositionIdentifier=2), UnsupportedSeries, "2 temporal positions"),
        (change_one(2, ImageType=["ORIGINAL", "PRIMARY", "P"]), UnsupportedSeries, "2 image types"),
        (change_all(SamplesPerPixel=3, PhotometricInterpretation="RGB"), UnsupportedSeries, "pixels in RGB"),
        (change_all(SOPClassUID="1.2.840.10008.5.1.4.1.1.128"), UnsupportedSeries, "Positron Emission Tomography"),
        (change_one(2, PixelData=b"\0\0"), UnreadableInstance, "does not decode"),
        (change_one(2, PixelData=None), UnreadableInstance, "does not decode"),
    ],
)
def test_refuses_by_name(datasets: list[Dataset], kind: type[InputError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        read_volume(datasets)
    assert caught.value.allowed
    assert caught.value.action


@pytest.mark.requirement("DICOM-READ-005")
def test_two_echoes_in_one_series_are_told_with_their_times_and_places() -> None:
    both = series_datasets(4, change=lambda ds: setattr(ds, "EchoTime", 2.46))
    both += series_datasets(4, name="series", change=lambda ds: setattr(ds, "EchoTime", 4.92))
    with pytest.raises(UnsupportedSeries, match=r"2 echo times \(2\.46, 4\.92\); 8 frames share 4 places"):
        read_volume(both)


@pytest.mark.requirement("DICOM-READ-002")
def test_bits_above_bits_stored_are_no_part_of_a_value() -> None:
    """Old scanners keep overlays there; a signed value is filled with its sign."""
    pixels = np.array([[0x0FFF, 0xF001], [0x0800, 0x07FF]], np.uint16)
    kept = {"BitsStored": 12, "HighBit": 11}
    unsigned = read_volume([slice_dataset(k, pixels, **kept) for k in (1, 2)])
    np.testing.assert_array_equal(unsigned.array[0], [[4095, 1], [2048, 2047]])
    signed = read_volume([slice_dataset(k, pixels, PixelRepresentation=1, **kept) for k in (1, 2)])
    np.testing.assert_array_equal(signed.array[0], [[-1, 1], [-2048, 2047]])


@pytest.mark.requirement("DICOM-READ-002")
def test_signed_and_unsigned_slices_in_one_series_keep_their_values() -> None:
    signed = slice_dataset(1, np.array([[-5, 40000 - 2**16]], np.int16))
    unsigned = slice_dataset(2, np.array([[65531, 40000]], np.uint16))
    np.testing.assert_array_equal(read_volume([signed, unsigned]).array, [[[-5, -25536]], [[65531, 40000]]])


@pytest.mark.requirement("DICOM-READ-002")
@pytest.mark.parametrize("padding", [{"PixelPaddingValue": -2000}, {"PixelPaddingValue": 63536}])
def test_padding_takes_the_lowest_measured_value(padding: dict[str, int]) -> None:
    """Also where the sender wrote a signed padding value as unsigned."""
    pixels = np.array([[-2000, -900], [40, 1200]], np.int16)
    options: dict[str, Any] = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -24}
    datasets = [slice_dataset(k, pixels, **options) for k in (1, 2)]
    for ds in datasets:
        ds.add_new("PixelPaddingValue", "SS" if padding["PixelPaddingValue"] < 0 else "US", padding["PixelPaddingValue"])
    np.testing.assert_array_equal(read_volume(datasets).array[0], [[-924, -924], [16, 1176]])


def test_a_range_of_padding_is_padding() -> None:
    pixels = np.array([[0, 3], [4, 9]], np.uint16)
    datasets = [slice_dataset(k, pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=3) for k in (1, 2)]
    np.testing.assert_array_equal(read_volume(datasets).array[0], [[4, 4], [4, 9]])
    for ds in datasets:
        ds.PixelPaddingRangeLimit = 9
    with pytest.raises(UnsupportedSeries, match="all padding"):
        read_volume(datasets)


@pytest.mark.requirement("DICOM-READ-003")
def test_a_transfer_syntax_that_nothing_here_decodes_is_named() -> None:
    datasets = series_datasets(2)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.110"  # JPEG XL Lossless
    with pytest.raises(UnsupportedSeries, match=r"1\.2\.840\.10008\.1\.2\.4\.110"):
        read_volume(datasets)


@pytest.mark.requirement("DICOM-READ-004")
@given(
    count=st.integers(2, 20),
    step=st.floats(0.3, 10),
    angles=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    tilt=st.floats(2.0, 30.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_any_oblique_stack_is_recovered_and_any_tilt_is_told(
    count: int, step: float, angles: tuple[float, float], tilt: float, seed: int
) -> None:
    a, b = angles
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    along_row, along_column, normal = turn.T
    origin = np.array([-100.0, 3.0, 41.5])
    order = list(range(count))
    random.Random(seed).shuffle(order)
    orientation = [*along_row, *along_column]
    geometry = stack_geometry([origin + k * step * normal for k in order], orientation, (0.7, 0.9))
    assert [order[index] for index in geometry.order] == list(range(count))
    np.testing.assert_allclose(geometry.affine_lps[:3, 0], step * normal, atol=1e-9)
    np.testing.assert_allclose(geometry.affine_lps[:3, 3], origin, atol=1e-9)
    sheared = step * (normal + np.tan(np.radians(tilt)) * along_column)
    with pytest.raises(UnsupportedSeries, match="tilt of") as told:
        stack_geometry([origin + k * sheared for k in order], orientation, (0.7, 0.9))
    assert float(told.value.found.split("tilt of ")[1].split()[0]) == pytest.approx(tilt, abs=0.051)


class TestRealSeries:
    """Files of real scanners; they are not part of the repository."""

    def test_reads_a_hippocampus_crop(self, data_folder: Any) -> None:
        datasets = real_series(data_folder("dicom/mr_hippocrop_PGBM-002"))
        volume = read_volume(datasets)
        assert volume.shape == (32, 51, 35)
        assert volume.spacing_mm == (1.0, 1.0, 1.0)
        middle = next(ds for ds in datasets if float(ds.ImagePositionPatient[2]) == 17)
        place = round(17 - volume.affine_lps[2, 3])
        np.testing.assert_array_equal(volume.array[place], middle.pixel_array)

    @pytest.mark.requirement("DICOM-READ-001")
    def test_reads_an_oblique_t1_of_siemens(self, data_folder: Any) -> None:
        volume = read_volume(real_series(data_folder("dicom/mr_siemens_t1post_PGBM-003/T1post")))
        assert volume.shape == (22, 320, 280)
        np.testing.assert_allclose(volume.spacing_mm, (6.5, 0.6875, 0.6875), atol=1e-5)

    @pytest.mark.requirement("DICOM-READ-002")
    def test_reads_signed_ct_of_ge_in_implicit_vr(self, data_folder: Any) -> None:
        volume = read_volume(real_series(data_folder("dicom/ct_ge_3slice_seg_sr/ct")))
        assert volume.shape == (3, 512, 512)
        inside = volume.array[volume.array > -2000]
        assert inside.min() >= -1024 - 200
        assert -150 < np.median(volume.array[:, 240:270, 240:270]) < 300

    @pytest.mark.requirement("DICOM-READ-004")
    def test_tells_the_tilt_of_a_ct_gantry_and_its_uneven_slices(self, data_folder: Any) -> None:
        datasets = real_series(data_folder("dicom/ct_ge_tilt_irregular"))
        with pytest.raises(UnsupportedSeries, match=r"gantry tilt of 18\.5 degrees.*; and 14 uneven slice distances"):
            read_volume(datasets)
        with pytest.raises(UnsupportedSeries, match=r"gantry tilt of 18\.5 degrees") as even:
            read_volume(datasets[:14])
        assert "uneven" not in even.value.found

    @pytest.mark.requirement("DICOM-READ-005")
    def test_refuses_mosaics_and_segmentations_by_name(self, data_folder: Any) -> None:
        with pytest.raises(UnsupportedSeries, match="mosaic"):
            read_volume(real_series(data_folder("dicom/mr_siemens_7_transfer_syntaxes")))
        with pytest.raises(UnsupportedSeries, match="Segmentation Storage"):
            read_volume([dcmread(data_folder("dicom/ct_ge_3slice_seg_sr/seg.dcm"))])

    @pytest.mark.requirement("DICOM-READ-003")
    def test_one_image_in_many_transfer_syntaxes_decodes_to_the_same_values(self, data_folder: Any) -> None:
        datasets = real_series(data_folder("dicom/mr_siemens_7_transfer_syntaxes"))
        decoded, refused = {}, {}
        for ds in datasets:
            try:
                decoded.setdefault(ds.file_meta.TransferSyntaxUID, decode_pixels(ds))
            except UnsupportedSeries as error:
                refused[ds.file_meta.TransferSyntaxUID] = error
        reference = decoded[UID("1.2.840.10008.1.2.1")]
        assert {RLELossless, JPEGLSLossless, JPEG2000Lossless} <= decoded.keys()
        assert all(np.array_equal(values, reference) for values in decoded.values())
        assert set(refused) <= {JPEGLosslessSV1}
        assert all("gpl-codecs" in error.action for error in refused.values())


@pytest.mark.requirement("DICOM-READ-003")
def test_jpeg_extended_with_twelve_bits_is_refused_by_name() -> None:
    """Pillow says that it decodes this syntax, and does so with eight bits only."""
    if set(get_decoder(JPEGExtended12Bit).available_plugins) - {"pillow"}:
        pytest.skip("a decoder for JPEG Extended with twelve bits is here (pylibjpeg-libjpeg or gdcm)")
    datasets = series_datasets(2, change=lambda ds: setattr(ds, "BitsStored", 12) or setattr(ds, "HighBit", 11))
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    with pytest.raises(UnsupportedSeries, match=r"JPEG Extended.*with 12 bits") as caught:
        read_volume(datasets)
    assert "gpl-codecs" in caught.value.action
