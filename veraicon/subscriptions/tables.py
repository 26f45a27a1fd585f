"""How far each watch of the FHIR server has come."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime
from sqlmodel import Field

from veraicon.tables import SiteTable


class WatchRow(SiteTable, table=True):
    """One criteria that is watched.

    `newest` and `before` are the server's own times (see `fhir_adapter.subscribing.polling.Watermark`). `heard` counts
    notifications, `found` new orders, `repeated` what was known already, `gaps` orders that a timed poll found although a
    subscription stood. `event_number` is the highest that a topic subscription has sent.
    """

    __tablename__ = "fhir_watch"

    criteria: str = Field(primary_key=True, max_length=512)
    newest: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    before: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    polled_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    heard_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
    subscription: str = ""
    subscription_status: str = ""
    heard: int = 0
    found: int = 0
    repeated: int = 0
    gaps: int = 0
    unreadable: int = 0
    event_number: int = 0
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
