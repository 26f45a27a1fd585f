"""What is written beside the images: the segmentation, read back by highdicom, and the summary, read by a person."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from highdicom.seg import Segmentation
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.objects.summary import summary_sections
from dicom_node.writing import ImageForm, SummaryForm, write_segmentation, write_series
from domain.errors import UnsupportedSeries
from domain.generation import GeneratedVolume
from tests.builders_dicom import series_identity, source_series
from tests.builders_objects import FINDINGS, LABELS, labelled_phantom, written_objects


def segmented(generated: GeneratedVolume, labels: tuple[tuple[int, str], ...] = LABELS) -> Segmentation:
    images = write_series(generated, series_identity(), source=source_series())
    ds = write_segmentation(generated, series_identity(), images, labels)
    return Segmentation.from_dataset(dcmread(BytesIO(to_part10(ds))))


@pytest.mark.requirement("DICOM-OBJ-007")
@pytest.mark.parametrize("form", ImageForm)
def test_highdicom_reads_the_label_map_back_on_the_images(form: ImageForm) -> None:
    written = written_objects(image=form)
    images, (ds,) = written["images"], written["segmentation"]
    segmentation = Segmentation.from_dataset(dcmread(BytesIO(to_part10(ds))))
    label_map = labelled_phantom().label_map
    assert label_map is not None
    if form is ImageForm.CLASSIC:
        read = segmentation.get_pixels_by_source_instance(
            [image.SOPInstanceUID for image in images], combine_segments=True, assert_missing_frames_are_empty=True
        )
    else:
        read = segmentation.get_pixels_by_source_frame(
            images[0].SOPInstanceUID,
            range(1, len(label_map) + 1),
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
    np.testing.assert_array_equal(read, label_map)


@pytest.mark.requirement("DICOM-OBJ-007")
def test_every_labelled_voxel_lies_where_the_volume_has_it() -> None:
    """By position alone, without the references to the images."""
    generated = labelled_phantom()
    volume = segmented(generated).get_volume(combine_segments=True)
    assert generated.label_map is not None
    for value in (1, 2):
        theirs = np.argwhere(volume.array == value) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        affine = generated.volume.affine_lps
        ours = np.argwhere(generated.label_map == value) @ affine[:3, :3].T + affine[:3, 3]
        np.testing.assert_allclose(np.sort(theirs, axis=0), np.sort(ours, axis=0), atol=1e-6)


@pytest.mark.requirement("DICOM-OBJ-007")
def test_segments_are_named_coded_and_made_by_our_model() -> None:
    first, second = segmented(labelled_phantom()).SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == ("hippocampus anterior", "hippocampus posterior")
    kind = second.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("5366008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Posterior"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("phantom-ball", "1.0.0")


def test_label_values_with_gaps_become_segments_without_and_unknown_words_a_code_of_ours() -> None:
    generated = labelled_phantom()
    assert generated.label_map is not None
    spread = replace(generated, label_map=(generated.label_map * 3).astype(np.uint8))
    segmentation = segmented(spread, ((6, "left-nucleus-volume"), (3, "hippocampus-tail-volume")))
    read = segmentation.get_volume(combine_segments=True).array
    assert set(np.unique(read)) == {0, 1, 2}
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["hippocampus tail", "left nucleus"]
    codes = [item.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator for item in segmentation.SegmentSequence]
    assert codes == ["99VERAICON", "99VERAICON"]


@pytest.mark.parametrize(
    ("change", "labels", "words"),
    [
        ({"label_map": None}, LABELS, "no label map"),
        ({"label_map": np.zeros((2, 2, 2), np.uint8)}, LABELS, "no label map on the grid"),
        ({}, LABELS[:1], "labels 2 in the label map"),
    ],
)
def test_refuses_a_label_map_that_the_card_does_not_name(
    change: dict[str, object], labels: tuple[tuple[int, str], ...], words: str
) -> None:
    with pytest.raises(UnsupportedSeries, match=words):
        segmented(replace(labelled_phantom(), **change), labels)  # type: ignore[arg-type]


@pytest.mark.requirement("DICOM-OBJ-002")
@pytest.mark.parametrize("summary", SummaryForm)
def test_companions_carry_the_marks_of_the_images_in_series_of_their_own(summary: SummaryForm) -> None:
    written = written_objects(summary=summary)
    image = written["images"][0]
    companions: list[Dataset] = [written["segmentation"][0], written["summary"][0]]
    for ds in companions:
        assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")
        (equipment,) = ds.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        assert "SYNTHETIC" in ds.SeriesDescription
        assert "not for clinical use" in ds.SeriesDescription
        assert (ds.StudyInstanceUID, ds.PatientID) == (image.StudyInstanceUID, image.PatientID)
        assert (ds.Manufacturer, ds.ManufacturerModelName) == ("Veraicon", "phantom-ball")
    assert len({ds.SeriesInstanceUID for ds in [image, *companions]}) == 3
    assert len({ds.SOPInstanceUID for ds in [*written["images"], *companions]}) == len(written["images"]) + 2


@pytest.mark.requirement("DICOM-OBJ-008")
def test_a_report_says_what_a_person_has_to_know() -> None:
    (report,) = written_objects(summary=SummaryForm.SR)["summary"]
    texts = " ".join(
        f"{line.ConceptNameCodeSequence[0].CodeMeaning}: {line.TextValue}"
        for section in report.ContentSequence
        for line in section.ContentSequence
    )
    for words in ("synthetic, not for clinical use", "phantom-ball 1.0.0", "Targets: none", FINDINGS[0].statement):
        assert words in texts


@pytest.mark.requirement("DICOM-OBJ-008")
def test_a_pdf_is_one_and_tells_of_targets_no_value() -> None:
    generated = labelled_phantom()
    told = replace(generated.conditioning, targets=(("hippocampus-volume", 3141.59, "mm3"),))
    sections = summary_sections(replace(generated, conditioning=told), FINDINGS, "request-1")
    text = str(sections)
    assert "hippocampus-volume" in text
    assert "3141" not in text
    (document,) = written_objects(summary=SummaryForm.PDF)["summary"]
    assert document.EncapsulatedDocument.startswith(b"%PDF-")
    assert document.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert b"CreationDate" not in document.EncapsulatedDocument
