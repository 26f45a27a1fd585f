"""The word and the watermark in pixels: where they stand, what they leave alone, when they are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.overlays import get_overlay_array  # type: ignore[attr-defined]  # pydicom names it so in its documentation

from dicom_node.marking.lettering import MAX_SHARE, place
from dicom_node.marking.watermark import MAX_STEP, detect_watermark, embed_watermark, watermark_seed
from dicom_node.writing import ImageForm, PixelMarks, VisibleMark, write_series
from domain.errors import UnsupportedSeries
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_marks import SECRET, SHAPE, textured


def pixels(marks: PixelMarks, modality: str = "MR", form: ImageForm = ImageForm.CLASSIC) -> NDArray[Any]:
    made = write_series(textured(modality), series_identity(), source=source_series(), form=form, marks=marks)
    return made[0].pixel_array if form is ImageForm.ENHANCED else np.stack([ds.pixel_array for ds in made])


@pytest.mark.requirement("PROV-MARK-002")
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_the_burned_in_word_is_the_same_in_every_slice_and_leaves_every_other_pixel_alone(modality: str) -> None:
    plain, burned = (pixels(PixelMarks(visible), modality) for visible in (VisibleMark.NONE, VisibleMark.BURNED_IN))
    box = place(plain, textured(modality).label_map > 0).box  # type: ignore[operator]  # it has labels
    words = burned[(slice(None), *box)]
    assert all((word == words[0]).all() for word in words)
    assert len(np.unique(words)) == 2
    outside = np.ones(plain.shape, bool)
    outside[(slice(None), *box)] = False
    assert (burned[outside] == plain[outside]).all()
    np.testing.assert_array_equal(pixels(PixelMarks(VisibleMark.BURNED_IN), modality, ImageForm.ENHANCED), burned)


@pytest.mark.requirement("PROV-MARK-002")
def test_the_word_takes_the_emptiest_corner_and_keeps_off_labels() -> None:
    images = np.ones((3, 60, 60))
    images[:, 40:, 40:] = 0
    rows, columns = place(images).box
    assert (rows.stop, columns.stop) == (60, 60)
    keep = np.zeros(images.shape, bool)
    keep[:, 40:, 40:] = True
    assert not keep[(slice(None), *place(images, keep).box)].any()


@pytest.mark.requirement("PROV-MARK-002")
@pytest.mark.parametrize("shape", [(35, 51), (51, 35), (64, 64), (256, 256), (512, 400)])
def test_the_word_never_covers_more_than_the_stated_share(shape: tuple[int, int]) -> None:
    assert place(np.zeros((1, *shape))).strokes.size <= MAX_SHARE * shape[0] * shape[1]


@pytest.mark.requirement("PROV-MARK-002")
@pytest.mark.parametrize("visible", [VisibleMark.OVERLAY, VisibleMark.BURNED_IN])
def test_images_that_are_too_small_for_the_word_are_refused_and_not_left_unmarked(visible: VisibleMark) -> None:
    with pytest.raises(UnsupportedSeries, match="10 x 8 pixels"):
        write_series(generated_phantom(), series_identity(), source=source_series(), marks=PixelMarks(visible))


@pytest.mark.requirement("PROV-MARK-002")
def test_an_enhanced_image_has_no_overlay_plane_and_says_so() -> None:
    with pytest.raises(UnsupportedSeries, match="overlay mark for an enhanced image"):
        write_series(
            textured(),
            series_identity(),
            source=source_series(),
            form=ImageForm.ENHANCED,
            marks=PixelMarks(VisibleMark.OVERLAY),
        )


@pytest.mark.requirement("PROV-MARK-002")
def test_another_reader_sees_the_overlay_where_it_is_laid_and_the_pixels_as_they_were() -> None:
    made = write_series(textured(), series_identity(), source=source_series(), marks=PixelMarks(VisibleMark.OVERLAY))
    plain = pixels(PixelMarks())
    lettering = place(plain, textured().label_map > 0)  # type: ignore[operator]  # it has labels
    expected = np.zeros(SHAPE[1:], bool)
    expected[lettering.box] = lettering.strokes
    for ds, values in zip(made, plain, strict=True):
        assert (get_overlay_array(ds, 0x6000).astype(bool) == expected).all()
        assert (ds.pixel_array == values).all()


@pytest.mark.requirement("PROV-MARK-004")
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_the_watermark_is_found_with_its_secret_and_request_and_with_no_other(modality: str) -> None:
    marked, plain = pixels(PixelMarks(watermark_secret=SECRET), modality), pixels(PixelMarks(), modality)
    ours = watermark_seed(SECRET, "request-1")
    assert detect_watermark(marked, ours).found
    assert not detect_watermark(plain, ours).found
    assert not detect_watermark(marked, watermark_seed(SECRET, "request-2")).found
    assert not detect_watermark(marked, watermark_seed(bytes(32), "request-1")).found
    moved = np.abs(marked.astype(int) - plain)
    assert 0 < moved.max() <= MAX_STEP


@pytest.mark.requirement("PROV-MARK-004")
def test_the_watermark_is_found_in_a_piece_of_the_volume_on_another_scale() -> None:
    volume = textured(shape=(24, 60, 60))
    marked = write_series(volume, series_identity(), source=source_series(), marks=PixelMarks(watermark_secret=SECRET))
    piece = np.stack([ds.pixel_array for ds in marked])[3:, 5:, 7:] / 3 + 100
    seed = watermark_seed(SECRET, "request-1")
    assert not detect_watermark(piece, seed).found
    found = detect_watermark(piece, seed, search=True)
    assert found.found
    assert found.shift == (3, 5, 7)


@pytest.mark.requirement("PROV-MARK-004")
def test_no_seed_of_many_is_found_where_there_is_no_watermark_and_scores_spread_as_stated() -> None:
    plain = pixels(PixelMarks())
    scores = np.array([detect_watermark(plain, watermark_seed(SECRET, f"request-{n}")).score for n in range(200)])
    assert scores.max() < detect_watermark(plain, SECRET).threshold
    assert abs(scores.mean()) < 0.3
    assert 0.8 < scores.std() < 1.2


@pytest.mark.requirement("PROV-MARK-004")
def test_a_flat_volume_stays_flat_and_shows_nothing() -> None:
    flat = np.full((4, 16, 16), 7, np.uint16)
    seed = watermark_seed(SECRET, "request-1")
    assert (embed_watermark(flat, seed, low=0, high=4095) == flat).all()
    assert detect_watermark(flat, seed).score == 0


@pytest.mark.requirement("PROV-MARK-002", "PROV-MARK-004")
def test_marks_are_told_in_the_instance_and_the_same_request_gives_the_same_pixels() -> None:
    marks = PixelMarks(VisibleMark.BURNED_IN, SECRET)
    first, again = (pixels(marks) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    (told, *_) = write_series(textured(), series_identity(), source=source_series(), marks=marks)
    assert "watermark" in told.DerivationDescription
    assert "SYNTHETIC stands in the pixels" in told.DerivationDescription
    assert told.BurnedInAnnotation == "YES"
    assert repr(SECRET) not in repr(marks)
