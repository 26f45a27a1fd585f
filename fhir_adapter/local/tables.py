"""Tables of the embedded FHIR store, in metadata of their own so that migrations can name them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, Engine, Index, MetaData, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

METADATA = MetaData()


class FhirTable(SQLModel, registry=registry(metadata=METADATA)):
    """Base of this package's tables."""


class ResourceRow(FhirTable, table=True):
    """The current version of one resource.

    Attributes
    ----------
    body : str
        JSON as it is given out, with ``meta.versionId`` and ``meta.lastUpdated``; decimals digit by digit.
    content_digest : str
        SHA-256 of the canonical JSON without those two: tells whether a PUT changes anything.
    last_updated : datetime
        UTC, without a zone (SQLite keeps none).
    """

    __tablename__ = "fhir_resource"

    resource_type: str = Field(primary_key=True, max_length=64)
    resource_id: str = Field(primary_key=True, max_length=64)
    version: int
    body: str = Field(sa_type=Text)
    content_digest: str = Field(max_length=64)
    last_updated: datetime = Field(sa_type=DateTime, index=True)


class IndexRow(FhirTable, table=True):
    """One value under which a resource is found.

    Attributes
    ----------
    parameter : str
        Name of the search parameter (``identifier``, ``patient``, ``code``, ``date``).
    system, value : str
        Of a token; a reference stands in `value`.
    starts_at, ends_at : datetime or None
        First moment of a date, and the first one after it; UTC, without a zone.
    """

    __tablename__ = "fhir_index"
    __table_args__ = (
        Index("fhir_index_value", "resource_type", "parameter", "value"),
        Index("fhir_index_resource", "resource_type", "resource_id"),
    )

    row_id: int | None = Field(default=None, primary_key=True)
    resource_type: str = Field(max_length=64)
    resource_id: str = Field(max_length=64)
    parameter: str = Field(max_length=64)
    system: str = Field(default="", max_length=512)
    value: str = Field(default="", max_length=512)
    starts_at: datetime | None = Field(default=None, sa_type=DateTime)
    ends_at: datetime | None = Field(default=None, sa_type=DateTime)


def create_tables(engine: Engine) -> None:
    """Create the tables where they are missing; a deployment does it by migrations."""
    METADATA.create_all(engine)
