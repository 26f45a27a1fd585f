"""A small synthetic MR series with its statement, publication and attestation, as the pipeline makes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from domain.attestation import Approval, Attestation, ProvenanceStatement
from domain.findings import Finding, Outcome
from domain.generation import Publication, Receipt
from domain.identifiers import InstanceUid, PatientIdentifier, SeriesUid, StudyUid, derive_uid
from domain.series import GeneratedInstance, GeneratedSeries
from provenance.as_dicom import embed_series
from provenance.attest import attest, sidecar
from provenance.canonical import sha256_digest
from provenance.cards.card_json import card_digest
from provenance.digesting.merkle import consistency_path, inclusion_path, leaf_hash, nodes_of, tree_root
from provenance.digests import dataset_digest, pixel_digest
from provenance.log_proof import ATTESTATION_ENTRY, LogProof, TreeHead, log_entry, sign_head
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement, targets_digest
from tests.builders_quality import digest, make_card, make_generated

NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)
SOURCE_STUDY, SOURCE_SERIES = "1.2.826.0.1.3680043.2.1", "1.2.826.0.1.3680043.2.2"
# Of the real patient: must never appear in anything that leaves.
REAL_PATIENT_ID, REAL_VALUE = "MRN-0815", 2741.75
SALT = b"a site's secret of 32 bytes....."


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
        model=replace(made.model, card_digest=card_digest(make_card())),
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
        approval=Approval("automatic", "quality gates", NOW),
        targets_digest=targets_digest(((kind, REAL_VALUE, unit),), SALT),
    )


class MemoryLog:
    """A transparency log in memory: what `attest` asks of a log, and what a rewritten one would answer."""

    def __init__(self, key: SigningKey, log_id: str = "log-of-the-tests") -> None:
        self.key, self.log_id, self.entries = key, log_id, list[bytes]()

    def enter(self, jws: str, kind: str = ATTESTATION_ENTRY, at: datetime = NOW) -> LogProof:
        """Append a signed object, once."""
        digest = sha256_digest(jws.encode("ascii"))
        entry = log_entry(kind, digest, at)
        if entry not in self.entries:
            self.entries.append(entry)
        index = self.entries.index(entry)
        return self.prove(index, index + 1, at)

    def prove(self, index: int, size: int, at: datetime = NOW) -> LogProof:
        """Return the proof of an entry under a head of `size` entries, and that the log grew from the head before it."""
        node = nodes_of([leaf_hash(entry) for entry in self.entries])
        return LogProof(
            entry=self.entries[index],
            index=index,
            path=inclusion_path(index, size, node),
            head=self.head(size, at),
            previous=self.head(index, at) if index else None,
            consistency=consistency_path(index, size, node) if index else (),
        )

    def head(self, size: int, at: datetime = NOW) -> TreeHead:
        """Return the signed head over the first entries."""
        root = tree_root(size, nodes_of([leaf_hash(entry) for entry in self.entries]))
        return sign_head(self.log_id, size, root, at, self.key)


def make_publication(request_id: str, series: GeneratedSeries) -> Publication:
    """Return the receipt of one destination that took everything."""
    return Publication(request_id, series, (Receipt("pacs", "C-STORE", len(series.instances), NOW),))


def publish(
    key: SigningKey,
    request_id: str = "request-1",
    count: int = 3,
    *,
    log: MemoryLog | None = None,
    state: Callable[[ProvenanceStatement], ProvenanceStatement] = lambda statement: statement,
    attested_at: datetime = NOW,
) -> Published:
    """Go the whole way: instances, statement, embedding, publication, log, attestation."""
    datasets = [make_instance(request_id, number) for number in range(1, count + 1)]
    series = make_series(datasets)
    statement = state(make_statement(request_id, series))
    embed_series(datasets, series, sign_statement(statement, key), provenance_reference(request_id))
    publication = make_publication(request_id, series)
    enter = (log or MemoryLog(key)).enter
    attestation, resources = attest(
        statement,
        publication,
        make_card(),
        key,
        now=attested_at,
        organization="Example Hospital",
        enter=lambda jws: enter(jws, at=attested_at),
    )
    return Published(datasets, statement, publication, attestation, resources)


def through_file(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return the dataset as it is read back after it was written under a transfer syntax."""
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)
