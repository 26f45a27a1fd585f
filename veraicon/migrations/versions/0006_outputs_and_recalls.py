"""What was made of which source, where its copies went, and what was recalled."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length=length) if length else sa.String(), nullable=False)


def upgrade() -> None:
    _outputs()
    _source_copies()
    _recalls()
    op.create_table(
        "dicom_rejection",
        _text("sop_instance_uid", 64),
        _text("note_uid", 64),
        _text("code", 16),
        _text("source"),
        sa.Column("rejected_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )


def _outputs() -> None:
    op.create_table(
        "output",
        _text("request_id"),
        _text("source_study_uid", 64),
        _text("source_series_uid", 64),
        _text("patient_token", 71),
        _text("model_name"),
        _text("weights_digest", 71),
        _text("card_digest", 71),
        _text("software_version"),
        _text("study_uid", 64),
        _moment("generated_at"),
        _moment("written_at"),
        _text("attestation", 71),
        _text("provenance_reference"),
        sa.PrimaryKeyConstraint("request_id"),
    )
    for name in (
        "source_study_uid",
        "source_series_uid",
        "patient_token",
        "weights_digest",
        "software_version",
        "generated_at",
    ):
        op.create_index(op.f(f"ix_output_{name}"), "output", [name], unique=False)
    op.create_table(
        "output_series",
        _text("series_uid", 64),
        _text("request_id"),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["output.request_id"]),
        sa.PrimaryKeyConstraint("series_uid"),
    )
    op.create_index(op.f("ix_output_series_request_id"), "output_series", ["request_id"], unique=False)
    op.create_table(
        "copy",
        _text("series_uid", 64),
        _text("recipient"),
        _text("protocol", 16),
        _text("day", 10),
        _moment("sent_at"),
        _moment("accepted_at", nullable=True),
        sa.ForeignKeyConstraint(["series_uid"], ["output_series.series_uid"]),
        sa.PrimaryKeyConstraint("series_uid", "recipient", "protocol", "day"),
    )


def _source_copies() -> None:
    op.create_table(
        "source_copy",
        _text("series_uid", 64),
        _text("recipient"),
        _text("protocol", 16),
        _text("day", 10),
        _text("study_uid", 64),
        _text("patient_token", 71),
        _moment("sent_at"),
        sa.PrimaryKeyConstraint("series_uid", "recipient", "protocol", "day"),
    )
    for name in ("study_uid", "patient_token"):
        op.create_index(op.f(f"ix_source_copy_{name}"), "source_copy", [name], unique=False)


def _recalls() -> None:
    op.create_table(
        "recall",
        _text("recall_id"),
        sa.Column("selection", sa.JSON(), nullable=False),
        _text("reason"),
        _text("note"),
        _text("by"),
        _moment("recalled_at"),
        sa.Column("blocked_patients", sa.JSON(), nullable=False),
        _text("blocked_study"),
        _moment("notice_at", nullable=True),
        _moment("finished_at", nullable=True),
        _moment("lifted_at", nullable=True),
        _text("lifted_by"),
        sa.PrimaryKeyConstraint("recall_id"),
    )
    op.create_index(op.f("ix_recall_recalled_at"), "recall", ["recalled_at"], unique=False)
    op.create_table(
        "recall_output",
        _text("recall_id"),
        _text("request_id"),
        _text("kind", 8),
        _text("attestation", 71),
        _moment("hidden_at", nullable=True),
        _moment("fhir_at", nullable=True),
        _text("fhir", 16),
        _moment("finished_at", nullable=True),
        _text("problem"),
        sa.ForeignKeyConstraint(["recall_id"], ["recall.recall_id"]),
        sa.PrimaryKeyConstraint("recall_id", "request_id"),
    )
    op.create_index(op.f("ix_recall_output_request_id"), "recall_output", ["request_id"], unique=False)
    op.create_table(
        "recall_copy",
        _text("recall_id"),
        _text("request_id"),
        _text("recipient"),
        _text("protocol", 16),
        _moment("sent_at"),
        _text("state", 16),
        _text("detail"),
        _moment("note_accepted_at", nullable=True),
        _moment("asked_at", nullable=True),
        sa.ForeignKeyConstraint(["recall_id"], ["recall.recall_id"]),
        sa.PrimaryKeyConstraint("recall_id", "request_id", "recipient", "protocol"),
    )


def downgrade() -> None:
    recalls = ("dicom_rejection", "recall_copy", "recall_output", "recall")
    for name in (*recalls, "source_copy", "copy", "output_series", "output"):
        op.drop_table(name)
