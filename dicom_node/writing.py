"""A generated volume as DICOM instances: every mark in place before anything is sent.

What is written of one request belongs to one study of a synthetic patient: the images (classic or enhanced), the segmentation
of its label map, and a summary where the site wants one. The same arguments give the same bytes.

References
----------
DICOM PS3.3 Annex A; each module of `dicom_node.objects` names its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from pydicom.dataset import Dataset

from dicom_node.identity import SeriesIdentity
from dicom_node.marking.pixel_marks import PixelMarks, VisibleMark, mark_voxels, refuse_overlay
from dicom_node.objects.classic import classic_instances
from dicom_node.objects.common import NOT_FOR_CLINICAL_USE
from dicom_node.objects.enhanced import enhanced_instance
from dicom_node.objects.pdf import pdf_instance
from dicom_node.objects.report import report_instance
from dicom_node.objects.segmentation import Labels, segmentation_instance
from dicom_node.objects.summary import summary_sections
from dicom_node.objects.voxels import Plane, stored_voxels
from domain.findings import Finding
from domain.generation import GeneratedVolume
from domain.series import ImagingSeries

__all__ = [
    "ImageForm",
    "PixelMarks",
    "SeriesIdentity",
    "SummaryForm",
    "VisibleMark",
    "write_segmentation",
    "write_series",
    "write_summary",
]


_AFTER_SYNTHETIC = NOT_FOR_CLINICAL_USE.removeprefix("synthetic, ")


class ImageForm(Enum):
    """How images are written."""

    CLASSIC = "classic"
    ENHANCED = "enhanced"


class SummaryForm(Enum):
    """How a summary is written."""

    PDF = "pdf"
    SR = "sr"


def write_series(
    generated: GeneratedVolume,
    identity: SeriesIdentity,
    *,
    source: ImagingSeries,
    form: ImageForm = ImageForm.CLASSIC,
    marks: PixelMarks = PixelMarks(),  # noqa: B008 (frozen)
) -> list[Dataset]:
    """Return the images of a generated volume, first slice first; the same arguments give the same bytes.

    Parameters
    ----------
    generated : GeneratedVolume
        MR with intensities 0 to 1, or CT in Hounsfield units; slices stacked along their normal.
    identity : SeriesIdentity
        Names of patient, study, series and instances.
    source : ImagingSeries
        The real series that conditioned the generator; each instance refers to all of its instances.
    form : ImageForm
        One instance a slice, or one enhanced instance with all of them.
    marks : PixelMarks
        The word SYNTHETIC and the watermark, where a site wants them; the attributes that say synthetic are always there.

    Returns
    -------
    list of Dataset
        With file meta information, Explicit VR Little Endian.

    Raises
    ------
    UnsupportedSeries
        If the volume is neither MR nor CT, or its affine is sheared, or its images cannot bear the visible mark.
    NonFiniteOutput
        If a voxel is NaN or infinite.
    GenerationError
        If an intensity lies outside what is stored.
    """
    if form is ImageForm.ENHANCED and marks.visible is VisibleMark.OVERLAY:
        raise refuse_overlay()
    plane = Plane.of(generated.volume.affine_lps)
    marked = mark_voxels(stored_voxels(generated.volume), marks, identity.request_id, generated.label_map)
    if form is ImageForm.ENHANCED:
        return [enhanced_instance(generated, identity, source, marked.voxels, plane)]
    return classic_instances(generated, identity, source, marked, plane)


def write_segmentation(
    generated: GeneratedVolume, identity: SeriesIdentity, images: Sequence[Dataset], labels: Labels
) -> Dataset:
    """Return the label map of a generated volume as a Segmentation of its images, in a series of its own.

    Parameters
    ----------
    identity : SeriesIdentity
        Of the images.
    images : sequence of Dataset
        What `write_series` returned.
    labels : sequence of (int, str)
        Labels of the model card: value and concept; one segment each.

    Raises
    ------
    UnsupportedSeries
        If there is no label map on the volume's grid, or it holds labels that are not named.
    """
    description = f"SYNTHETIC labels, AI generated, {_AFTER_SYNTHETIC}"
    own = identity.companion("segmentation", series_number=2, description=description)
    return segmentation_instance(generated, own, images, labels)


def write_summary(
    generated: GeneratedVolume,
    identity: SeriesIdentity,
    images: Sequence[Dataset],
    findings: Sequence[Finding],
    *,
    form: SummaryForm,
) -> Dataset:
    """Return a summary for people: model, kinds of the targets, quality findings, and that it is not for clinical use.

    Parameters
    ----------
    identity : SeriesIdentity
        Of the images.
    images : sequence of Dataset
        What `write_series` returned.
    findings : sequence of Finding
        Of the quality gates.
    form : SummaryForm
        Encapsulated PDF or structured report.
    """
    description = f"SYNTHETIC summary, AI generated, {_AFTER_SYNTHETIC}"
    own = identity.companion("summary", series_number=3, description=description)
    sections = summary_sections(generated, findings, identity.request_id)
    instance = pdf_instance if form is SummaryForm.PDF else report_instance
    return instance(generated, own, images, sections)
