"""A small synthetic MR series with its statement, publication and attestation, as the pipeline makes them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from domain.attestation import Attestation, ProvenanceStatement
from domain.findings import Finding, Outcome
from domain.generation import Publication, Receipt
from domain.identifiers import InstanceUid, PatientIdentifier, SeriesUid, StudyUid, derive_uid
from domain.series import GeneratedInstance, GeneratedSeries
from provenance.as_dicom import embed
from provenance.attest import attest, sidecar
from provenance.digests import dataset_digest, pixel_digest
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_quality import digest, make_card, make_generated

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SOURCE_STUDY, SOURCE_SERIES = "1.2.826.0.1.3680043.2.1", "1.2.826.0.1.3680043.2.2"
# Of the real patient: must never appear in anything that leaves.
REAL_PATIENT_ID, REAL_VALUE = "MRN-0815", 2741.75


@dataclass(frozen=True)
class Published:
    """Everything that exists after one request."""

    datasets: list[Dataset]
    statement: ProvenanceStatement
    publication: Publication
    attestation: Attestation
    resources: list[dict[str, Any]]

    @property
    def provenance(self) -> dict[str, Any]:
        """The Provenance resource."""
        return self.resource("Provenance")

    @property
    def sidecar(self) -> dict[str, Any]:
        """Content of the sidecar file."""
        return sidecar(self.attestation)

    @property
    def attested(self) -> list[dict[str, Any]]:
        """The resources that the attestation covers."""
        covered = {one.reference for one in self.attestation.resources}
        return [one for one in self.resources if f"{one['resourceType']}/{one['id']}" in covered]

    def resource(self, kind: str) -> dict[str, Any]:
        """The first resource of a kind."""
        return next(one for one in self.resources if one["resourceType"] == kind)


def make_instance(request_id: str, number: int) -> Dataset:
    """Return one unsigned MR instance of a synthetic patient: enough for dciodvfy, with a sequence and text beyond ASCII."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(derive_uid(request_id, "instance", str(number)))
    ds.SpecificCharacterSet = "ISO_IR 192"
    _identity(ds, request_id, number)
    _acquisition(ds)
    _image(ds, number)
    return ds


def _identity(ds: Dataset, request_id: str, number: int) -> None:
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = UID(derive_uid(request_id, "instance", str(number)))
    ds.StudyInstanceUID = derive_uid(request_id, "study")
    ds.SeriesInstanceUID = derive_uid(request_id, "series")
    ds.FrameOfReferenceUID = derive_uid(request_id, "frame")
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Synthetic^Ähnlich", f"VI-{request_id}", "VERAICON"
    ds.PatientBirthDate = ds.PatientSex = ds.ReferringPhysicianName = ds.AccessionNumber = ""
    ds.PatientPosition, ds.PositionReferenceIndicator = "HFS", ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260304"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "050607"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "1", 1, number, 1
    ds.Manufacturer, ds.ManufacturerModelName = "Veraicon", "hippocampus-t1"
    ds.SeriesDescription = "Synthetic T1"


def _acquisition(ds: Dataset) -> None:
    ds.Modality, ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "MR", "RM", "NONE", ""
    ds.MRAcquisitionType = "3D"
    ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.SyntheticData, ds.ContentQualification = "YES", "RESEARCH"
    ds.DerivationDescription = "Generated"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = MRImageStorage, f"{SOURCE_SERIES}.1"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = (
        "121322",
        "DCM",
        "Source image for image processing",
    )
    purpose.CodeMeaning += " operation"
    source.PurposeOfReferenceCodeSequence = [purpose]
    ds.SourceImageSequence = [source]


def _image(ds: Dataset, number: int) -> None:
    ds.PixelSpacing, ds.SliceThickness = [1.0, 1.0], 1.0
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1.0, 0, 0, 0, 1.0, 0], [0.5, 0.25, float(number)]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 6, 5, 16, 16, 15, 1
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = -40, 1200
    pixels = np.random.default_rng(number).integers(-40, 1200, size=(6, 5), dtype=np.int16)
    ds.PixelData = pixels.astype("<i2").tobytes()


def make_series(datasets: list[Dataset]) -> GeneratedSeries:
    """Return the series with the digests of its instances."""
    first = datasets[0]
    return GeneratedSeries(
        study_uid=StudyUid(str(first.StudyInstanceUID)),
        series_uid=SeriesUid(str(first.SeriesInstanceUID)),
        patient=PatientIdentifier(str(first.PatientID), "https://veraicon.dev/synthetic-patient"),
        modality="MR",
        instances=tuple(
            GeneratedInstance(str(ds.SOPClassUID), InstanceUid(str(ds.SOPInstanceUID)), pixel_digest(ds), dataset_digest(ds))
            for ds in datasets
        ),
    )


def make_statement(request_id: str, series: GeneratedSeries) -> ProvenanceStatement:
    """Return the statement about a series that `make_generated` stands for."""
    made = make_generated()
    kind, _, unit = made.conditioning.targets[0]
    return ProvenanceStatement(
        request_id=request_id,
        requested_by="researcher",
        requested_at=NOW,
        source_study_uid=SOURCE_STUDY,
        source_series_uid=SOURCE_SERIES,
        source_digest=digest("c"),
        snapshot_digest=digest("d"),
        context_as_of=NOW,
        pairing=("identifier value and system agree",),
        consent="no restriction found",
        model=made.model,
        seed=made.seed,
        sampler=made.sampler,
        sampler_steps=made.sampler_steps,
        guidance=made.guidance,
        conditioning=type(made.conditioning)(((kind, REAL_VALUE, unit),), made.conditioning.used, made.conditioning.missing),
        environment=made.environment,
        findings=(
            Finding("finite", Outcome.PASSED, 0.0, "only finite voxels", "Every voxel is finite."),
            Finding("requested-volume", Outcome.NOT_APPLICABLE, None, "at most 15%", "No volume was asked for."),
        ),
        series=series,
        software_version="0.1.0",
        generated_at=NOW,
    )


def make_publication(request_id: str, series: GeneratedSeries) -> Publication:
    """Return the receipt of one destination that took everything."""
    return Publication(request_id, series, (Receipt("pacs", "C-STORE", len(series.instances), NOW),))


def publish(key: SigningKey, request_id: str = "request-1", count: int = 3) -> Published:
    """Go the whole way: instances, statement, embedding, publication, attestation."""
    datasets = [make_instance(request_id, number) for number in range(1, count + 1)]
    series = make_series(datasets)
    statement = make_statement(request_id, series)
    jws = sign_statement(statement, key)
    for ds in datasets:
        embed(ds, jws, provenance_reference(request_id))
    publication = make_publication(request_id, series)
    attestation, resources = attest(statement, publication, make_card(), key, now=NOW, organization="Example Hospital")
    return Published(datasets, statement, publication, attestation, resources)


def through_file(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return the dataset as it is read back after it was written under a transfer syntax."""
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)
