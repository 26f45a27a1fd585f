"""How far each watch of the FHIR server has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_MOMENTS = ("newest", "before", "polled_at", "heard_at")
_COUNTS = ("heard", "found", "repeated", "gaps", "unreadable", "event_number")


def upgrade() -> None:
    op.create_table(
        "fhir_watch",
        sa.Column("criteria", sa.String(length=512), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=True) for name in _MOMENTS),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("subscription_status", sa.String(), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in _COUNTS),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("criteria"),
    )


def downgrade() -> None:
    op.drop_table("fhir_watch")
