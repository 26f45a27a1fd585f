"""Rows of outputs, their copies and recalls. No patient stands in them: a source's patient is a salted token."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime
from sqlmodel import Field

from veraicon.tables import SiteTable


def _moment(*, nullable: bool = False, index: bool = False) -> Column[datetime]:
    return Column(DateTime(timezone=True), nullable=nullable, index=index)


class OutputRow(SiteTable, table=True):
    """What one request made of which source, kept before anything of it leaves.

    Attributes
    ----------
    patient_token : str
        Salted token of the source's patient, see `veraicon.recall.outputs.patient_token`.
    attestation : str
        Digest of its attestation's JWS; empty before it is attested.
    """

    __tablename__ = "output"

    request_id: str = Field(primary_key=True)
    source_study_uid: str = Field(index=True, max_length=64)
    source_series_uid: str = Field(index=True, max_length=64)
    patient_token: str = Field(index=True, max_length=71)
    model_name: str
    weights_digest: str = Field(index=True, max_length=71)
    card_digest: str = Field(max_length=71)
    software_version: str = Field(index=True)
    study_uid: str = Field(max_length=64)
    generated_at: datetime = Field(sa_column=_moment(index=True))
    written_at: datetime = Field(sa_column=_moment())
    attestation: str = Field(default="", max_length=71)
    provenance_reference: str = ""


class OutputSeriesRow(SiteTable, table=True):
    """A series of an output, so that whoever hands one out knows that it is ours.

    Attributes
    ----------
    instances : list
        ``[[class, instance], ...]``.
    """

    __tablename__ = "output_series"

    series_uid: str = Field(primary_key=True, max_length=64)
    request_id: str = Field(foreign_key="output.request_id", index=True)
    instances: list[list[str]] = Field(sa_column=Column(JSON, nullable=False))


class CopyRow(SiteTable, table=True):
    """A place that a series of ours went to on one day; written before the first instance leaves.

    Attributes
    ----------
    recipient : str
        Name of a destination, AE title, network address or folder.
    protocol : str
        ``dicom``, ``dicomweb``, ``archive``, ``file`` (published); ``c-get``, ``c-move``, ``wado``, ``export``, ``preview``
        (handed out).
    day : str
        ``2026-03-04``, UTC.
    accepted_at : datetime or None
        When the recipient said that it has everything; None where nobody said so.
    """

    __tablename__ = "copy"

    series_uid: str = Field(primary_key=True, foreign_key="output_series.series_uid", max_length=64)
    recipient: str = Field(primary_key=True)
    protocol: str = Field(primary_key=True, max_length=16)
    day: str = Field(primary_key=True, max_length=10)
    sent_at: datetime = Field(sa_column=_moment())
    accepted_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))


class SourceCopyRow(SiteTable, table=True):
    """A folder that a received series was exported to on one day; written before the first instance leaves.

    Attributes
    ----------
    patient_token : str
        As of `OutputRow`; empty where the series does not say whose it is.
    recipient, protocol, day : str
        As of `CopyRow`.
    """

    __tablename__ = "source_copy"

    series_uid: str = Field(primary_key=True, max_length=64)
    recipient: str = Field(primary_key=True)
    protocol: str = Field(primary_key=True, max_length=16)
    day: str = Field(primary_key=True, max_length=10)
    study_uid: str = Field(index=True, max_length=64)
    patient_token: str = Field(index=True, max_length=71)
    sent_at: datetime = Field(sa_column=_moment())


class RecallRow(SiteTable, table=True):
    """A recall that was begun; it stays open until each output is withdrawn and each copy is answered for.

    Attributes
    ----------
    selection : dict
        What was asked for; a patient is a list of salted tokens.
    blocked_patients, blocked_study : list, str
        Sources of which nothing new is made while the recall is not lifted; set where consent was withdrawn.
    lifted_at : datetime or None
        When somebody let these sources in again; the outputs stay recalled.
    """

    __tablename__ = "recall"

    recall_id: str = Field(primary_key=True)
    selection: dict[str, object] = Field(sa_column=Column(JSON, nullable=False))
    reason: str
    note: str
    by: str
    recalled_at: datetime = Field(sa_column=_moment(index=True))
    blocked_patients: list[str] = Field(sa_column=Column(JSON, nullable=False))
    blocked_study: str = ""
    notice_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    finished_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    lifted_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    lifted_by: str = ""


class RecalledRow(SiteTable, table=True):
    """One output, or one job on its way, of a recall, and which of its steps are done.

    Attributes
    ----------
    kind : str
        ``output``, or ``job`` where nothing was written yet.
    attestation : str
        Digest of its attestation's JWS; empty where there is none.
    hidden_at, fhir_at, finished_at : datetime or None
        Hidden in our archive; seen to on the FHIR server; nothing left to do.
    fhir : str
        ``withdrawn``, or ``never written`` where the server held nothing of it.
    problem : str
        Why the last attempt stopped; empty where it did not.
    """

    __tablename__ = "recall_output"

    recall_id: str = Field(primary_key=True, foreign_key="recall.recall_id")
    request_id: str = Field(primary_key=True, index=True)
    kind: str = Field(max_length=8)
    attestation: str = Field(default="", max_length=71)
    hidden_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    fhir_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    fhir: str = Field(default="", max_length=16)
    finished_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    problem: str = ""


class RecalledCopyRow(SiteTable, table=True):
    """What a place that holds a copy has answered.

    Attributes
    ----------
    state : str
        See `veraicon.recall.records.CopyState`.
    detail : str
        In words: counts, or the reason of a refusal.
    """

    __tablename__ = "recall_copy"

    recall_id: str = Field(primary_key=True, foreign_key="recall.recall_id")
    request_id: str = Field(primary_key=True)
    recipient: str = Field(primary_key=True)
    protocol: str = Field(primary_key=True, max_length=16)
    sent_at: datetime = Field(sa_column=_moment())
    state: str = Field(max_length=16)
    detail: str = ""
    note_accepted_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
    asked_at: datetime | None = Field(default=None, sa_column=_moment(nullable=True))
