"""Generated volumes large enough for a visible mark, and a site's certificates, made once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.writing import ImageForm, PixelMarks, SummaryForm, write_segmentation, write_series, write_summary
from domain.generation import GeneratedVolume
from domain.identifiers import derive_uid
from domain.marking import Marks
from provenance.as_dicom import embed_series
from provenance.signatures.certificates import SiteCertificates, make_certificates
from provenance.signatures.dicom_signature import DicomSigner, sign_dataset
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_objects import FINDINGS, LABELS, stated_objects

SHAPE = (8, 50, 36)
SECRET = bytes(range(32))
MADE = datetime(2025, 1, 1, tzinfo=UTC)


def textured(modality: str = "MR", shape: tuple[int, int, int] = SHAPE) -> GeneratedVolume:
    """Return a smooth volume with two labels; as CT in Hounsfield units."""
    made = generated_phantom(shape)
    slices, rows, columns = np.meshgrid(*(np.arange(length) for length in shape), indexing="ij")
    waves = 0.5 + 0.3 * np.sin(slices / 3) * np.cos(rows / 5) * np.sin(columns / 4)
    array = np.clip(waves * (made.volume.array > 0.1), 0, 1).astype(np.float32)
    label_map = np.zeros(shape, np.uint8)
    label_map[2:4, 20:24, 14:18], label_map[4:6, 26:30, 14:18] = 1, 2
    if modality == "CT":
        array = (array * 1600 - 800).astype(np.float32)
    unit = "1" if modality == "MR" else "[hnsf'U]"
    return replace(made, volume=replace(made.volume, array=array, modality=modality, unit=unit), label_map=label_map)


def written(
    modality: str = "MR",
    image: ImageForm = ImageForm.CLASSIC,
    summary: SummaryForm = SummaryForm.PDF,
    marks: PixelMarks | None = None,
    request_id: str = "request-1",
) -> dict[str, list[Dataset]]:
    """Return everything that one request publishes, with marks, not signed."""
    generated, identity = textured(modality), series_identity(request_id)
    images = write_series(generated, identity, source=source_series(), form=image, marks=marks or PixelMarks())
    return {
        "images": images,
        "segmentation": [write_segmentation(generated, identity, images, LABELS)],
        "summary": [write_summary(generated, identity, images, FINDINGS, form=summary)],
    }


def published(
    key: SigningKey,
    series: dict[str, list[Dataset]],
    marks: PixelMarks | None = None,
    signer: DicomSigner | None = None,
    request_id: str = "request-1",
) -> list[Dataset]:
    """Return all instances as they leave: the statement embedded, and signed for DICOM where a signer is given."""
    marks = marks or PixelMarks()
    told = Marks(marks.visible.value, marks.watermark_secret is not None, signer.digest if signer else "")
    statement = replace(stated_objects(series, request_id), marks=told)
    jws, reference = sign_statement(statement, key), provenance_reference(request_id)
    leaving = []
    for instances, stated in zip(series.values(), statement.all_series, strict=True):
        for ds in embed_series(instances, stated, jws, reference):
            if signer is not None:
                uid = derive_uid(request_id, "digital-signature", str(ds.SOPInstanceUID))
                sign_dataset(ds, signer, signature_uid=uid, at=statement.generated_at)
            leaving.append(ds)
    return leaving


@cache
def site_certificates() -> SiteCertificates:
    """Return certificates of a test site; their RSA key takes a while, so they are made once."""
    return make_certificates("Test hospital", Path(mkdtemp(prefix="veraicon-certificates-")), now=datetime.now(UTC))


@cache
def site_signer() -> DicomSigner:
    """Return the signer of the test site."""
    files = site_certificates()
    return DicomSigner.load(files.dicom_certificate, files.dicom_key)
