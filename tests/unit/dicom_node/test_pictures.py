"""Marks of pictures for browsers, as another reader (Pillow) finds them."""

from __future__ import annotations

from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dicom_node.marking.pictures import GENERATED_BY_AI, mark_png
from dicom_node.web.rendering import JPEG, PNG, parse_rendering, render
from dicom_node.writing import write_series
from domain.marking import Depicted
from tests.builders_dicom import series_identity, slice_dataset, source_series
from tests.builders_marks import textured


def source_type(picture: bytes) -> str | None:
    """Return the Digital Source Type in the picture's XMP, None where there is none."""
    with Image.open(BytesIO(picture)) as opened:
        xmp = opened.info.get("xmp")
    if not xmp:
        return None
    found = ElementTree.fromstring(xmp).find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    return None if found is None else found.text


@pytest.mark.requirement("PROV-MARK-003")
@pytest.mark.parametrize("media_type", [PNG, JPEG])
def test_a_rendered_frame_of_ours_says_to_programs_that_a_model_made_it_and_a_real_one_does_not(media_type: str) -> None:
    ours = write_series(textured(), series_identity(), source=source_series())[0]
    real = slice_dataset(1, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    rendering = parse_rendering({"viewport": "256,256"})
    assert source_type(render(ours, 1, media_type, rendering)) == GENERATED_BY_AI
    assert source_type(render(real, 1, media_type, rendering)) is None


@pytest.mark.requirement("PROV-MARK-003")
@pytest.mark.parametrize("depicted", Depicted)
def test_a_preview_keeps_its_pixels_and_gets_its_marks(depicted: Depicted) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    plain = BytesIO()
    Image.fromarray(pixels).save(plain, "PNG")
    marked = mark_png(plain.getvalue(), depicted)
    with Image.open(BytesIO(marked)) as opened:
        assert (np.asarray(opened) == pixels).all()
        assert "SYNTHETIC" in opened.info["Comment"]
        assert depicted.source_type in opened.info["Source"]
        nobody_shown = "no real person" in opened.info["Source"] + str(opened.info["xmp"])
    assert source_type(marked) == depicted.source_type
    assert nobody_shown is (depicted is Depicted.GENERATED), "the source is of a person"
