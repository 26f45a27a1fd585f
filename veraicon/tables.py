"""Tables of the composition root: jobs, the workers that run them, and the transparency log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel


class SiteTable(SQLModel, registry=registry()):
    """Base with metadata of its own, so that migrations can tell our tables from others."""


metadata = SiteTable.metadata


class JobRow(SiteTable, table=True):
    """One request and where it stands; what it made lies in the job's folder.

    `error` holds the last error in words, also while a step is being tried again; it is cleared when a step succeeds.
    `decision` is what a person said of a held volume: see `veraicon.approving.Decision`.
    """

    __tablename__ = "job"

    request_id: str = Field(primary_key=True)
    state: str = Field(index=True)
    series_uid: str = Field(index=True)
    order_id: str = Field(default="", index=True, max_length=36)
    request: dict[str, object] = Field(sa_column=Column(JSON, nullable=False))
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    decision: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
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


class LogIdentityRow(SiteTable, table=True):
    """The one row that names our transparency log; who writes it holds the log until his transaction ends."""

    __tablename__ = "log_identity"

    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    log_id: str


class LogLeafRow(SiteTable, table=True):
    """An entry of the log, counted from 0. `document` is what was entered, where anybody may read it: documents of keys."""

    __tablename__ = "log_leaf"
    __table_args__ = (UniqueConstraint("kind", "digest"),)

    leaf_index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    kind: str = Field(max_length=16)
    digest: str = Field(max_length=71)
    entry: bytes
    logged_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    document: str | None = None


class LogNodeRow(SiteTable, table=True):
    """Hash of a complete subtree: 2**level leaves from leaf place * 2**level on. Level 0 holds the hashes of the leaves."""

    __tablename__ = "log_node"

    level: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    hash: bytes


class LogHeadRow(SiteTable, table=True):
    """The signed tree head of each size that the log has had."""

    __tablename__ = "log_head"

    size: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    root: bytes
    signed_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    jws: str
