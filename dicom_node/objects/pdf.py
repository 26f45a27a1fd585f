"""The summary as an encapsulated PDF, drawn by matplotlib: text that stays text, and the same bytes each time.

References
----------
DICOM PS3.3 A.45.1 (Encapsulated PDF IOD), C.24 (encapsulated document modules).
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.objects import common
from dicom_node.objects.summary import TITLE, Section
from domain.generation import GeneratedVolume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ISO A4 in inches, and lines of 9 point that stand on it.
_PAGE_INCHES = (8.27, 11.69)
_LINES_A_PAGE = 62
_LINE_CHARACTERS = 96
_NAME_CHARACTERS = 20
_FONT: dict[str, Any] = {"family": "DejaVu Sans Mono", "size": 9.0}
# matplotlib's settings are the process's: a second document that ends in the middle of this one would take ours away.
_ONE_AT_A_TIME = threading.Lock()


def pdf_instance(
    generated: GeneratedVolume, identity: SeriesIdentity, images: Sequence[Dataset], sections: Sequence[Section]
) -> Dataset:
    """Return the encapsulated PDF.

    Parameters
    ----------
    identity : SeriesIdentity
        Of the document's own series.
    images : sequence of Dataset
        The generated instances that it is about.
    sections : sequence of Section
        What it says.
    """
    ds = Dataset()
    common.write_common_modules(ds, generated, identity, sop_class=EncapsulatedPDFStorage, number=1)
    common.general_series_module(ds, identity, "DOC")
    ds.ConversionType = "SYN"  # C.24.1, SC Equipment: synthetic
    _encapsulated_document_module(ds, identity, images, render_pdf(sections))
    return ds


def _encapsulated_document_module(ds: Dataset, identity: SeriesIdentity, images: Sequence[Dataset], content: bytes) -> None:
    """PS3.3 C.24.2. Nothing in the text names a patient, not even our own."""
    common.content_time(ds, identity)
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "NO"
    ds.SourceInstanceSequence = [common.reference(one.SOPClassUID, one.SOPInstanceUID) for one in images]
    ds.DocumentTitle = f"{TITLE}: {common.NOT_FOR_CLINICAL_USE}"
    ds.ConceptNameCodeSequence = [common.code(*common.SUMMARY_TITLE)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)


def render_pdf(sections: Sequence[Section]) -> bytes:
    """Return the sections as a PDF with a title on each page; it holds no time, so equal sections give equal bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    lines = list(_lines(sections))
    pages = [lines[start : start + _LINES_A_PAGE] for start in range(0, len(lines), _LINES_A_PAGE)]
    buffer = BytesIO()
    metadata: dict[str, Any] = {"Title": TITLE, "Creator": common.MANUFACTURER, "Producer": None, "CreationDate": None}
    # TrueType fonts keep the words searchable and readable aloud.
    with _ONE_AT_A_TIME, rc_context({"pdf.fonttype": 42}), PdfPages(buffer, metadata=metadata) as document:
        for number, page in enumerate(pages, start=1):
            document.savefig(_page(page, f"{TITLE}: {common.NOT_FOR_CLINICAL_USE} ({number} of {len(pages)})"))
    return buffer.getvalue()


def _lines(sections: Sequence[Section]) -> Iterator[str]:
    for section in sections:
        yield section.heading.upper()
        for name, text in section.lines:
            wrapped = textwrap.wrap(text, _LINE_CHARACTERS - _NAME_CHARACTERS) or [""]
            yield f"{name:{_NAME_CHARACTERS}}{wrapped[0]}"
            yield from (" " * _NAME_CHARACTERS + line for line in wrapped[1:])
        yield ""


def _page(lines: Sequence[str], title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_PAGE_INCHES)
    figure.text(0.06, 0.96, title, fontsize=10, fontweight="bold", family=_FONT["family"], parse_math=False)
    figure.text(0.06, 0.93, "\n".join(lines), fontdict=_FONT, va="top", linespacing=1.3, parse_math=False)
    return figure
