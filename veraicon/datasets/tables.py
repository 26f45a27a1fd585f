"""Rows of data set versions. No patient stands in them: a subject is a salted token."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, DateTime, Text
from sqlmodel import Field

from veraicon.tables import SiteTable


class DatasetVersionRow(SiteTable, table=True):
    """One version, written once and never changed.

    Attributes
    ----------
    digest : str
        Identity: ``sha256:`` over the canonical manifest.
    content_digest : str
        The same for the same members and split, whatever the number and the time.
    file : str
        JSON of `provenance.dataset_manifest.dataset_file`.
    """

    __tablename__ = "dataset_version"

    name: str = Field(primary_key=True, max_length=64)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    digest: str = Field(index=True, max_length=71)
    content_digest: str = Field(max_length=71)
    members: int
    subjects: int
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    file: str = Field(sa_column=Column(Text, nullable=False))
