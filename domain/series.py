"""DICOM series as facts: the one that was received, and the one that we generated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain.identifiers import AccessionNumber, InstanceUid, PatientIdentifier, SeriesUid, StudyUid


@dataclass(frozen=True, slots=True)
class InstanceReference:
    """One SOP instance and where its bytes are.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : str
        As in the file meta information.
    digest : str
        ``sha256:`` and the hex digest of the file as it was received; the archive finds the bytes by it.
    """

    sop_class_uid: str
    sop_instance_uid: InstanceUid
    digest: str


@dataclass(frozen=True, slots=True)
class ImagingSeries:
    """A received DICOM series.

    Attributes
    ----------
    patient : PatientIdentifier
        Patient ID with the issuer's system where one is known.
    modality : str
        Defined term of (0008,0060): ``MR``, ``CT``.
    acquired_at : datetime or None
        Acquisition time, else series, else study time; aware. Of a date alone, the last moment before that day. None where the
        series holds no date.
    birth_date, sex : str or None
        ``YYYY-MM-DD`` and ``male``/``female``/``other`` where the series states them: they can only speak against a pairing.
    instances : tuple of InstanceReference
        In no stated order; the geometry decides the order.
    """

    study_uid: StudyUid
    series_uid: SeriesUid
    patient: PatientIdentifier
    modality: str
    acquired_at: datetime | None
    instances: tuple[InstanceReference, ...]
    accession: AccessionNumber | None = None
    birth_date: str | None = None
    sex: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class GeneratedInstance:
    """One instance of ours as it was published.

    Attributes
    ----------
    pixel_digest : str or None
        ``sha256:`` digest of the value of Pixel Data as explicit little endian; None for a document, which has no pixels.
    dataset_digest : str
        ``sha256:`` digest of every other attribute but our own signed block (see `provenance.digests`). A document's content is
        among them.
    """

    sop_class_uid: str
    sop_instance_uid: InstanceUid
    pixel_digest: str | None
    dataset_digest: str


@dataclass(frozen=True, slots=True)
class GeneratedSeries:
    """A series that we made, of images or of what belongs to them; it belongs to a synthetic patient of ours."""

    study_uid: StudyUid
    series_uid: SeriesUid
    patient: PatientIdentifier
    modality: str
    instances: tuple[GeneratedInstance, ...]
