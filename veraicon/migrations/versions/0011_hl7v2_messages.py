"""HL7 v2 messages as they came, and the patient merges that they announced."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _text(name: str, length: int) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def upgrade() -> None:
    op.create_table(
        "hl7v2_message",
        _text("message_id", 36),
        _text("sender", 128),
        _text("kind", 32),
        _text("control_id", 256),
        _text("state", 16),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("orders", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("message_id"),
    )
    for name in ("control_id", "state", "received_at"):
        op.create_index(f"ix_hl7v2_message_{name}", "hl7v2_message", [name])
    op.create_table(
        "patient_merge",
        *(_text(name, 256) for name in ("retired_system", "retired_value", "survivor_system", "survivor_value")),
        _text("message_id", 36),
        sa.Column("noted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("retired_system", "retired_value"),
    )


def downgrade() -> None:
    op.drop_table("patient_merge")
    op.drop_table("hl7v2_message")
