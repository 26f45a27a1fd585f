"""Rows of the archive's index. They stand in their own MetaData, so a migration sees them and nothing else.

The index tells where bytes are and answers queries; the bytes themselves are the truth. Times are seconds since the epoch;
dates and times of DICOM stay the strings that they were (DA, TM), because a query compares them as such.
"""

from __future__ import annotations

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class DicomTable(SQLModel, registry=registry()):
    """Base of the tables of this package."""


metadata = DicomTable.metadata


class StudyRow(DicomTable, table=True):
    """One study, with what its first instance said of patient and study (PS3.4 C.6.2.1)."""

    __tablename__ = "dicom_study"

    study_uid: str = Field(primary_key=True, max_length=64)
    patient_id: str = Field(default="", index=True)
    patient_id_issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    study_date: str = Field(default="", index=True)
    study_time: str = ""
    accession: str = Field(default="", index=True)
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""


class SeriesRow(DicomTable, table=True):
    """One series and where it stands between arriving and being announced.

    Attributes
    ----------
    source : str
        AE title that sent the last instance.
    origin : str
        ``received`` or ``generated``; only received series are announced.
    expected_instances : int or None
        What the sender says the series holds, where it says so.
    pending : bool
        The set of instances changed since the last announcement.
    announced_digest : str
        Digest over the set that was announced last; empty before the first.
    """

    __tablename__ = "dicom_series"

    series_uid: str = Field(primary_key=True, max_length=64)
    study_uid: str = Field(foreign_key="dicom_study.study_uid", index=True, max_length=64)
    modality: str = ""
    series_number: str = ""
    series_description: str = ""
    series_date: str = ""
    series_time: str = ""
    body_part: str = ""
    protocol_name: str = ""
    source: str
    origin: str
    expected_instances: int | None = None
    last_landed_s: float = Field(index=True)
    pending: bool = Field(default=True, index=True)
    announced_digest: str = ""


class InstanceRow(DicomTable, table=True):
    """One instance and the digest of its bytes; the digest names the file."""

    __tablename__ = "dicom_instance"

    sop_instance_uid: str = Field(primary_key=True, max_length=64)
    series_uid: str = Field(foreign_key="dicom_series.series_uid", index=True, max_length=64)
    sop_class_uid: str = Field(max_length=64)
    transfer_syntax_uid: str = Field(max_length=64)
    digest: str = Field(index=True, max_length=71)
    size_bytes: int
    instance_number: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: str = ""
    source: str
    landed_s: float


class ConflictRow(DicomTable, table=True):
    """Other bytes that came under a UID that we hold already: kept aside, never mixed in."""

    __tablename__ = "dicom_conflict"

    digest: str = Field(primary_key=True, max_length=71)
    sop_instance_uid: str = Field(index=True, max_length=64)
    held_digest: str = Field(max_length=71)
    source: str
    landed_s: float


class RefusedRow(DicomTable, table=True):
    """Bytes that could not be filed, and why; they lie in the folder ``refused``."""

    __tablename__ = "dicom_refused"

    digest: str = Field(primary_key=True, max_length=71)
    code: str
    found: str
    source: str
    landed_s: float
