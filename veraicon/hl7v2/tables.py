"""Tables of HL7 v2: messages as they came, and the merges that they announced."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime, LargeBinary
from sqlmodel import Field

from veraicon.tables import SiteTable


class Hl7MessageRow(SiteTable, table=True):
    """A message, kept before it was acknowledged.

    `state` is received (kept, not done yet), done, not-needed, or refused; `orders` are the orders that it led to.
    """

    __tablename__ = "hl7v2_message"

    message_id: str = Field(primary_key=True, max_length=36)
    sender: str = Field(max_length=128)
    kind: str = Field(max_length=32)
    control_id: str = Field(index=True, max_length=256)
    state: str = Field(index=True, max_length=16)
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    orders: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    repeats: int = 0
    received_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))


class MergeRow(SiteTable, table=True):
    """A patient identifier that gave way to another; the newest message about it counts."""

    __tablename__ = "patient_merge"

    retired_system: str = Field(primary_key=True, max_length=256)
    retired_value: str = Field(primary_key=True, max_length=256)
    survivor_system: str = Field(max_length=256)
    survivor_value: str = Field(max_length=256)
    message_id: str = Field(max_length=36)
    noted_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
