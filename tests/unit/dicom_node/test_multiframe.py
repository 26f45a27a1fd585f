"""Enhanced multi-frame objects: of a real scanner, of another program, of ours; each must be what its classic series is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage, LegacyConvertedEnhancedMRImage
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from dicom_node.reading import read_volume
from dicom_node.writing import ImageForm, write_series
from domain.errors import IncompleteSeries, InputError, UnreadableInstance, UnsupportedSeries
from domain.identifiers import derive_uid
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_objects import labelled_phantom

Change = Callable[[Dataset], None]


def enhanced(modality: str = "MR") -> Dataset:
    generated = labelled_phantom(modality)
    (ds,) = write_series(generated, series_identity(), source=source_series(), form=ImageForm.ENHANCED)
    return ds


def with_frames(ds: Dataset, keep: Sequence[int]) -> Dataset:
    """The instance with these of its frames, in this order."""
    part = deepcopy(ds)
    part.PerFrameFunctionalGroupsSequence = [deepcopy(ds.PerFrameFunctionalGroupsSequence[index]) for index in keep]
    part.NumberOfFrames = len(keep)
    part.PixelData = ds.pixel_array[list(keep)].tobytes()
    return part


def concatenation(ds: Dataset, *parts: Sequence[int]) -> list[Dataset]:
    made = []
    for number, keep in enumerate(parts, start=1):
        part = with_frames(ds, keep)
        part.SOPInstanceUID = derive_uid("concatenation", str(number))
        part.ConcatenationUID, part.InConcatenationNumber = derive_uid("concatenation"), number
        part.InConcatenationTotalNumber, part.ConcatenationFrameOffsetNumber = len(parts), keep[0]
        made.append(part)
    return made


def frame_of(ds: Dataset, index: int) -> Dataset:
    frame: Dataset = ds.PerFrameFunctionalGroupsSequence[index]
    return frame


def group(keyword: str, **attributes: object) -> dict[str, list[Dataset]]:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return {keyword: [item]}


def second_half(changed: dict[str, list[Dataset]]) -> Change:
    """Give the frames of the second half another value of some functional group."""

    def change(ds: Dataset) -> None:
        frames = ds.PerFrameFunctionalGroupsSequence
        for frame in frames[len(frames) // 2 :]:
            for keyword, items in changed.items():
                setattr(frame, keyword, items)

    return change


@pytest.mark.requirement("DICOM-READ-006")
def test_the_order_of_frames_is_no_matter() -> None:
    ds = enhanced()
    order = random.Random(7).sample(range(6), 6)
    shuffled, straight = read_volume([with_frames(ds, order)]), read_volume([ds])
    np.testing.assert_array_equal(shuffled.array, straight.array)
    np.testing.assert_array_equal(shuffled.affine_lps, straight.affine_lps)


@pytest.mark.requirement("DICOM-READ-006")
def test_each_frame_has_its_own_rescale_before_the_shared_one() -> None:
    ds = enhanced("CT")
    own = group("PixelValueTransformationSequence", RescaleSlope="2", RescaleIntercept="-7", RescaleType="HU")
    frame_of(ds, 3).PixelValueTransformationSequence = own["PixelValueTransformationSequence"]
    plain, changed = read_volume([enhanced("CT")]).array, read_volume([ds]).array
    np.testing.assert_array_equal(changed[3], plain[3] * 2 - 7)
    np.testing.assert_array_equal(np.delete(changed, 3, axis=0), np.delete(plain, 3, axis=0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_frames_give_the_same_volume(syntax: str) -> None:
    large = generated_phantom((3, 40, 48))  # JPEG 2000 wants room to halve an image a few times
    (ds,) = write_series(large, series_identity(), source=source_series(), form=ImageForm.ENHANCED)
    expected = read_volume([ds]).array
    ds.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_volume([ds]).array, expected)


@pytest.mark.requirement("DICOM-READ-006")
def test_the_parts_of_a_concatenation_are_one_volume() -> None:
    ds = enhanced()
    parts = concatenation(ds, [0, 1], [2, 3, 4], [5])
    np.testing.assert_array_equal(read_volume([parts[2], parts[0], parts[1]]).array, read_volume([ds]).array)


@pytest.mark.parametrize(
    ("datasets", "kind", "words"),
    [
        ([enhanced(), enhanced()], UnsupportedSeries, "2 enhanced multi-frame instances that are no parts"),
        (concatenation(enhanced(), [0, 1], [2, 3], [4, 5])[:2], IncompleteSeries, "3 parts with 1 missing and 0 doubled"),
        (concatenation(enhanced(), [0, 1], [2, 3], [4, 5])[:1] * 3, IncompleteSeries, "2 missing and 2 doubled"),
        ([with_frames(enhanced(), [0, 1, 3, 4, 5])], IncompleteSeries, "1 slices missing in 1 gaps"),
        ([with_frames(enhanced(), [0, 1, 2, 2, 3, 4, 5])], IncompleteSeries, "1 slices at a place"),
        ([with_frames(enhanced(), [0])], UnsupportedSeries, "single slice"),
    ],
)
def test_refuses_incomplete_instances_by_name(datasets: list[Dataset], kind: type[InputError], words: str) -> None:
    with pytest.raises(kind, match=words):
        read_volume(datasets)


@pytest.mark.requirement("DICOM-READ-005")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (second_half(group("FrameContentSequence", StackID="2")), r"2 stacks \(1, 2\)"),
        (second_half(group("FrameContentSequence", StackID="1", TemporalPositionIndex=2)), "2 temporal positions"),
        (second_half(group("MREchoSequence", EffectiveEchoTime=4.6)), r"2 echo times \(4\.6, none stated\)"),
        (second_half(group("MRDiffusionSequence", DiffusionBValue=1000.0)), r"2 b-values \(1000, none stated\)"),
        (
            second_half(
                group(
                    "MRImageFrameTypeSequence",
                    FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"],
                    ComplexImageComponent="PHASE",
                )
            ),
            r"2 complex components \(MAGNITUDE, PHASE\)",
        ),
        (
            second_half(group("PlaneOrientationSequence", ImageOrientationPatient=[0, 1, 0, 0, 0, 1])),
            "more than one ImageOrientationPatient",
        ),
        (lambda ds: delattr(frame_of(ds, 2), "PlanePositionSequence"), "3 numbers in ImagePositionPatient"),
        (lambda ds: setattr(ds, "PixelPresentation", "COLOR"), "supplemental palette"),
        (
            second_half(group("MRImageFrameTypeSequence", FrameType="DERIVED", VolumetricProperties="DISTORTED")),
            "geometry is distorted",
        ),
    ],
)
def test_refuses_more_than_one_volume_by_name(change: Change, words: str) -> None:
    ds = enhanced()
    change(ds)
    with pytest.raises(UnsupportedSeries, match=words):
        read_volume([ds])


def test_a_dimension_that_doubles_places_is_named_by_its_tag() -> None:
    """Scanners put phases into dimensions of their own; free text in them is not repeated."""
    ds = with_frames(enhanced(), [0, 1, 2, 0, 1, 2])
    item = Dataset()
    item.DimensionIndexPointer, item.DimensionDescriptionLabel = 0x20051011, "free text"
    ds.DimensionIndexSequence.append(item)
    for number in range(6):
        content = frame_of(ds, number).FrameContentSequence[0]
        content.DimensionIndexValues = [*content.DimensionIndexValues, 1 + number // 3]
    with pytest.raises(UnsupportedSeries, match=r"2 values of the dimension \(2005,1011\).*6 frames share 3 places") as caught:
        read_volume([ds])
    assert "free text" not in str(caught.value)


def test_ct_in_other_units_or_without_a_rescale_is_refused() -> None:
    ds = enhanced("CT")
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence[0].RescaleType = "MGML"
    with pytest.raises(UnsupportedSeries, match="a CT slice in MGML"):
        read_volume([ds])
    del shared.PixelValueTransformationSequence
    with pytest.raises(UnsupportedSeries, match="without rescale slope or intercept"):
        read_volume([ds])


def test_as_many_functional_groups_as_frames() -> None:
    ds = enhanced()
    del ds.PerFrameFunctionalGroupsSequence[5]
    with pytest.raises(UnreadableInstance, match="5 per-frame functional groups for 6 frames"):
        read_volume([ds])


class TestRealData:
    """Files of real scanners; they are not part of the repository."""

    @pytest.mark.requirement("DICOM-READ-006")
    @pytest.mark.parametrize(
        ("folder", "convert"),
        [
            ("dicom/mr_hippocrop_PGBM-002", LegacyConvertedEnhancedMRImage),
            ("dicom/mr_siemens_t1post_PGBM-003/T1post", LegacyConvertedEnhancedMRImage),  # oblique
            ("dicom/ct_ge_3slice_seg_sr/ct", LegacyConvertedEnhancedCTImage),
        ],
    )
    def test_what_highdicom_converts_reads_as_the_classic_series_does(
        self, data_folder: Any, folder: str, convert: Callable[..., Dataset]
    ) -> None:
        classic = [dcmread(path) for path in sorted(data_folder(folder).glob("*.dcm"))]
        for ds in classic:
            ds.PatientName = "Test^Name"  # highdicom warns of names in one part
        converted = convert(
            classic,
            series_instance_uid=derive_uid("converted", "series"),
            series_number=1,
            sop_instance_uid=derive_uid("converted", "instance"),
            instance_number=1,
        )
        theirs, ours = read_volume([converted]), read_volume(classic)
        np.testing.assert_array_equal(theirs.array, ours.array)
        np.testing.assert_allclose(theirs.affine_lps, ours.affine_lps, atol=1e-9)
        assert (theirs.modality, theirs.unit) == (ours.modality, ours.unit)

    @pytest.mark.requirement("DICOM-READ-005")
    def test_a_philips_object_with_magnitude_and_field_map_is_told_and_each_half_reads_exactly(self, data_folder: Any) -> None:
        ds = dcmread(data_folder("dicom/mr_enhanced_multiframe/Philips/IM_0027_fMAP.dcm"))
        with pytest.raises(UnsupportedSeries, match=r"FIELD_MAP.*MAGNITUDE, REAL.*64 frames share 32 places"):
            read_volume([ds])
        stored = ds.pixel_array.astype(np.float64)
        for keep, slope, intercept in (
            (range(32), 1.27985347985347, 0.0),
            (range(32, 64), 0.24420024420024, -500.0),
        ):
            volume = read_volume([with_frames(ds, list(reversed(keep)))])
            assert volume.shape == (32, 64, 64)
            np.testing.assert_array_equal(volume.array, (stored[list(keep)] * slope + intercept).astype(np.float32))
            last = frame_of(ds, keep[-1]).PlanePositionSequence[0].ImagePositionPatient
            np.testing.assert_allclose(volume.affine_lps @ [31, 0, 0, 1], [*last, 1], atol=1e-3)
