"""Tables of orders, of the news about them, and of who was told."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Column, DateTime, LargeBinary
from sqlmodel import Field

from veraicon.tables import SiteTable


class OrderRow(SiteTable, table=True):
    """An order and what has become of it.

    `content` is the order as it was understood, `raw` what was sent: kept for a retry, and for a dispute.
    `requests` are the ids of what was asked for. `look_at` is when it is looked at next, while it waits. `turn`
    counts the changes of its state: news of one turn is told once.
    """

    __tablename__ = "asked_order"

    order_id: str = Field(primary_key=True, max_length=36)
    origin: str = Field(max_length=16)
    sender: str = Field(max_length=128)
    reference: str = Field(max_length=256)
    state: str = Field(index=True, max_length=16)
    content: dict[str, object] = Field(sa_column=Column(JSON, nullable=False))
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    rule: str = ""
    reason: str = ""
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    requests: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    turn: int = 0
    look_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))
    received_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))


class NewsMarkRow(SiteTable, table=True):
    """The one row that says up to when everything that changed has been looked at for news."""

    __tablename__ = "news_mark"

    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    looked_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class NewsRow(SiteTable, table=True):
    """Something that happened to an order or to a job, and that somebody is told; written once, never changed.

    `content` is the news without the order, which `order_id` names: a patient's identifier stands in one place only.
    """

    __tablename__ = "news"

    news_id: str = Field(primary_key=True, max_length=36)
    kind: str = Field(max_length=32)
    order_id: str = Field(default="", index=True, max_length=36)
    request_id: str = Field(default="", index=True, max_length=36)
    reason: str = ""
    content: dict[str, object] = Field(sa_column=Column(JSON, nullable=False))
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))


class DeliveryRow(SiteTable, table=True):
    """One piece of news on its way to one channel: waiting, told or failed."""

    __tablename__ = "news_delivery"

    news_id: str = Field(primary_key=True, max_length=36)
    channel: str = Field(primary_key=True, max_length=128)
    state: str = Field(index=True, max_length=16)
    attempts: int = 0
    error: dict[str, object] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    next_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, index=True))
    told_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=True))
