"""Documents that are drawn at once by the jobs of one worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dicom_node.objects.pdf import render_pdf
from dicom_node.objects.summary import Section


def test_documents_that_are_drawn_at_once_have_the_bytes_of_one_drawn_alone() -> None:
    sections = [Section("Notice", (("Use", "This volume is synthetic, not for clinical use."),))]
    alone = render_pdf(sections)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: render_pdf(sections), range(12))) == {alone}
