"""Tables of the composition root: jobs and the workers that run them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class SiteTable(SQLModel, registry=registry()):
    """Base with metadata of its own, so that migrations can tell our tables from others."""


metadata = SiteTable.metadata


class JobRow(SiteTable, table=True):
    """One request and where it stands; what it made lies in the job's folder.

    `error` holds the last error in words, also while a step is being tried again; it is cleared when a step succeeds.
    """

    __tablename__ = "job"

    request_id: str = Field(primary_key=True)
    state: str = Field(index=True)
    series_uid: str = Field(index=True)
    request: dict[str, object] = Field(sa_column=Column(JSON, nullable=False))
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    generated_series_uid: str = Field(default="", index=True)
    provenance_reference: str = ""
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))


class WorkerRow(SiteTable, table=True):
    """A worker process and its last sign of life; a silent one's jobs are taken over."""

    __tablename__ = "worker"

    worker_id: str = Field(primary_key=True)
    host: str
    pid: int
    process_started: float
    seen_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
