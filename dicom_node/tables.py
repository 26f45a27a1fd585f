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
        ``received``, ``pulled`` (a prior that we fetched) or ``generated``; only received series are announced.
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
    last_landed_s: float
    pending: bool = Field(default=True, index=True)
    announced_digest: str = ""


class InstanceRow(DicomTable, table=True):
    """One instance and the digest of its bytes; the digest names the file."""

    __tablename__ = "dicom_instance"

    sop_instance_uid: str = Field(primary_key=True, max_length=64)
    series_uid: str = Field(foreign_key="dicom_series.series_uid", index=True, max_length=64)
    sop_class_uid: str = Field(max_length=64)
    transfer_syntax_uid: str = Field(max_length=64)
    digest: str = Field(max_length=71)
    size_bytes: int
    instance_number: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: str = ""
    source: str
    landed_s: float


class ConflictRow(DicomTable, table=True):
    """Other bytes that came under a UID that we hold already: kept aside, never mixed in.

    Attributes
    ----------
    settled_s : float or None
        When the same source sent again what is held, and so took these bytes back.
    """

    __tablename__ = "dicom_conflict"

    digest: str = Field(primary_key=True, max_length=71)
    sop_instance_uid: str = Field(index=True, max_length=64)
    held_digest: str = Field(max_length=71)
    source: str
    landed_s: float
    settled_s: float | None = None


class RefusedRow(DicomTable, table=True):
    """Bytes that could not be filed, and why; they lie in the folder ``refused``."""

    __tablename__ = "dicom_refused"

    digest: str = Field(primary_key=True, max_length=71)
    code: str
    found: str
    source: str
    landed_s: float


class CommitmentRequestRow(DicomTable, table=True):
    """A storage commitment that a peer asked of us, until its report was delivered (PS3.4 Annex J).

    Attributes
    ----------
    requestor : str
        Calling AE title of the request.
    instances : str
        JSON: ``[[class, instance], ...]``.
    state : str
        ``waiting`` for its report, ``reported``, or ``abandoned`` after days without delivery.
    attempts : int
        Deliveries that failed.
    """

    __tablename__ = "dicom_commitment_request"

    transaction_uid: str = Field(primary_key=True, max_length=64)
    requestor: str = Field(primary_key=True, max_length=16)
    instances: str
    state: str = Field(index=True)
    attempts: int = 0
    next_attempt_s: float
    received_s: float
    reported_s: float | None = None


class CommitmentTransactionRow(DicomTable, table=True):
    """A storage commitment that we asked of a peer, and what it reported.

    Attributes
    ----------
    peer : str
        AE title that was asked, and alone may report.
    instances : str
        JSON: ``[[class, instance], ...]``.
    state : str
        ``asked``, ``committed`` or ``failed``.
    failures : str
        JSON: ``[[class, instance, reason], ...]``.
    """

    __tablename__ = "dicom_commitment_transaction"

    transaction_uid: str = Field(primary_key=True, max_length=64)
    peer: str = Field(max_length=16)
    instances: str
    state: str
    failures: str = "[]"
    asked_s: float
    answered_s: float | None = None


class ProcedureStepRow(DicomTable, table=True):
    """A Modality Performed Procedure Step (PS3.4 Annex F): what the archive needs of it, no patient.

    Attributes
    ----------
    state : str
        Performed Procedure Step Status (0040,0252).
    source : str
        AE title that created it.
    """

    __tablename__ = "dicom_procedure_step"

    sop_instance_uid: str = Field(primary_key=True, max_length=64)
    state: str = Field(index=True, max_length=16)
    source: str = Field(max_length=16)
    created_s: float
    changed_s: float


class ExpectedInstanceRow(DicomTable, table=True):
    """An instance that a procedure step lists under one of its series."""

    __tablename__ = "dicom_expected_instance"

    procedure_step_uid: str = Field(primary_key=True, foreign_key="dicom_procedure_step.sop_instance_uid", max_length=64)
    series_uid: str = Field(primary_key=True, index=True, max_length=64)
    sop_instance_uid: str = Field(primary_key=True, max_length=64)


class SeriesTriggerRow(DicomTable, table=True):
    """A series that somebody declared complete, as it stood then.

    Attributes
    ----------
    series_digest : str
        Digest over its instances at that moment; with other instances the declaration says nothing.
    asked_by : str
        ``http`` or ``command line``.
    """

    __tablename__ = "dicom_series_trigger"

    series_uid: str = Field(primary_key=True, foreign_key="dicom_series.series_uid", max_length=64)
    series_digest: str = Field(max_length=71)
    asked_by: str
    asked_s: float


class RejectionRow(DicomTable, table=True):
    """An instance that a rejection note has withdrawn: its bytes are kept, and it is neither found nor handed out.

    It may come before the instance does, or of one that is never held here.

    Attributes
    ----------
    note_uid : str
        SOP Instance UID of the first note that named it.
    code : str
        Code value of the note's title, scheme DCM.
    """

    __tablename__ = "dicom_rejection"

    sop_instance_uid: str = Field(primary_key=True, max_length=64)
    note_uid: str = Field(max_length=64)
    code: str = Field(max_length=16)
    source: str
    rejected_s: float
