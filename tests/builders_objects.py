"""Everything that one request publishes, made from a phantom: images, segmentation, summary, signed as they leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.writing import ImageForm, SummaryForm, write_segmentation, write_series, write_summary
from domain.attestation import ProvenanceStatement
from domain.findings import Finding, Outcome
from domain.generation import GeneratedVolume
from domain.identifiers import InstanceUid, SeriesUid, StudyUid
from domain.series import GeneratedInstance, GeneratedSeries
from provenance.as_dicom import embed_series
from provenance.digests import dataset_digest, has_pixels, pixel_digest
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_provenance import make_statement

LABELS = ((1, "hippocampus-anterior-volume"), (2, "hippocampus-posterior-volume"))
FINDINGS = (
    Finding("finite", Outcome.PASSED, 0.0, "only finite voxels", "Every voxel is finite."),
    Finding("requested-volume", Outcome.NOT_APPLICABLE, None, "at most 15%", "No volume was asked for."),
)


def labelled_phantom(modality: str = "MR") -> GeneratedVolume:
    """Return the ball with two labels in it; as CT in Hounsfield units, from air to bone."""
    made = generated_phantom()
    label_map = np.zeros(made.volume.shape, np.uint8)
    label_map[2:4, 3:6, 2:5] = 1
    label_map[3:5, 6:8, 2:5] = 2
    volume = made.volume
    if modality == "CT":
        volume = replace(volume, modality="CT", unit="[hnsf'U]", array=(volume.array * 2000 - 1000).astype(np.float32))
    return replace(made, volume=volume, label_map=label_map)


def written_objects(
    modality: str = "MR",
    image: ImageForm = ImageForm.CLASSIC,
    summary: SummaryForm | None = SummaryForm.PDF,
    request_id: str = "request-1",
) -> dict[str, list[Dataset]]:
    """Return the instances of each series by its name, not signed."""
    generated, identity = labelled_phantom(modality), series_identity(request_id)
    images = write_series(generated, identity, source=source_series(), form=image)
    written = {"images": images, "segmentation": [write_segmentation(generated, identity, images, LABELS)]}
    if summary is not None:
        written["summary"] = [write_summary(generated, identity, images, FINDINGS, form=summary)]
    return written


def stated_objects(written: dict[str, list[Dataset]], request_id: str = "request-1") -> ProvenanceStatement:
    """Return the statement about all series of a request."""
    images, *companions = (_stated(instances) for instances in written.values())
    return replace(make_statement(request_id, images), companions=tuple(companions))


def signed_objects(key: SigningKey, written: dict[str, list[Dataset]], request_id: str = "request-1") -> list[Dataset]:
    """Return all instances with the statement embedded, as they leave."""
    statement = stated_objects(written, request_id)
    jws, reference = sign_statement(statement, key), provenance_reference(request_id)
    return [
        ds
        for instances, series in zip(written.values(), statement.all_series, strict=True)
        for ds in embed_series(instances, series, jws, reference)
    ]


def _stated(instances: list[Dataset]) -> GeneratedSeries:
    first = instances[0]
    return GeneratedSeries(
        study_uid=StudyUid(str(first.StudyInstanceUID)),
        series_uid=SeriesUid(str(first.SeriesInstanceUID)),
        patient=series_identity().patient,
        modality=str(first.Modality),
        instances=tuple(
            GeneratedInstance(
                str(ds.SOPClassUID),
                InstanceUid(str(ds.SOPInstanceUID)),
                pixel_digest(ds) if has_pixels(ds) else None,
                dataset_digest(ds),
            )
            for ds in instances
        ),
    )
