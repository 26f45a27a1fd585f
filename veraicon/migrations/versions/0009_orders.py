"""Orders from outside, the news about them, and who was told."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length) if length else sa.String(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "asked_order",
        _text("order_id", 36),
        _text("origin", 16),
        _text("sender", 128),
        _text("reference", 256),
        _text("state", 16),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        _text("rule"),
        _text("reason"),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("requests", sa.JSON(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        _moment("look_at"),
        _moment("received_at"),
        _moment("updated_at"),
        sa.PrimaryKeyConstraint("order_id"),
    )
    for name in ("state", "look_at", "updated_at"):
        op.create_index(f"ix_asked_order_{name}", "asked_order", [name])
    op.create_table(
        "news_mark",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        _moment("looked_at"),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "news",
        _text("news_id", 36),
        _text("kind", 32),
        _text("order_id", 36),
        _text("request_id", 36),
        _text("reason"),
        sa.Column("content", sa.JSON(), nullable=False),
        _moment("at"),
        sa.PrimaryKeyConstraint("news_id"),
    )
    for name in ("order_id", "request_id", "at"):
        op.create_index(f"ix_news_{name}", "news", [name])
    op.create_table(
        "news_delivery",
        _text("news_id", 36),
        _text("channel", 128),
        _text("state", 16),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        _moment("next_at"),
        _moment("told_at", nullable=True),
        sa.PrimaryKeyConstraint("news_id", "channel"),
    )
    for name in ("state", "next_at"):
        op.create_index(f"ix_news_delivery_{name}", "news_delivery", [name])
    op.add_column("job", sa.Column("order_id", sa.String(length=36), nullable=False, server_default=""))
    op.create_index("ix_job_order_id", "job", ["order_id"])


def downgrade() -> None:
    op.drop_index("ix_job_order_id", "job")
    op.drop_column("job", "order_id")
    for table in ("news_delivery", "news", "news_mark", "asked_order"):
        op.drop_table(table)
