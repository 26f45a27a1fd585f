"""Storage commitment, procedure steps, series declared complete"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this version."""
    op.create_table(
        "dicom_commitment_request",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("requestor", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_s", sa.Float(), nullable=False),
        sa.Column("received_s", sa.Float(), nullable=False),
        sa.Column("reported_s", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", "requestor"),
    )
    op.create_index(op.f("ix_dicom_commitment_request_state"), "dicom_commitment_request", ["state"], unique=False)
    op.create_table(
        "dicom_commitment_transaction",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("failures", sa.String(), nullable=False),
        sa.Column("asked_s", sa.Float(), nullable=False),
        sa.Column("answered_s", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid"),
    )
    op.create_table(
        "dicom_procedure_step",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("created_s", sa.Float(), nullable=False),
        sa.Column("changed_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.create_index(op.f("ix_dicom_procedure_step_state"), "dicom_procedure_step", ["state"], unique=False)
    op.create_table(
        "dicom_expected_instance",
        sa.Column("procedure_step_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["procedure_step_uid"], ["dicom_procedure_step.sop_instance_uid"]),
        sa.PrimaryKeyConstraint("procedure_step_uid", "series_uid", "sop_instance_uid"),
    )
    op.create_index(op.f("ix_dicom_expected_instance_series_uid"), "dicom_expected_instance", ["series_uid"], unique=False)
    op.create_table(
        "dicom_series_trigger",
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("series_digest", sa.String(length=71), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("asked_s", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["series_uid"], ["dicom_series.series_uid"]),
        sa.PrimaryKeyConstraint("series_uid"),
    )


def downgrade() -> None:
    """Go back."""
    op.drop_table("dicom_series_trigger")
    op.drop_index(op.f("ix_dicom_expected_instance_series_uid"), table_name="dicom_expected_instance")
    op.drop_table("dicom_expected_instance")
    op.drop_index(op.f("ix_dicom_procedure_step_state"), table_name="dicom_procedure_step")
    op.drop_table("dicom_procedure_step")
    op.drop_table("dicom_commitment_transaction")
    op.drop_index(op.f("ix_dicom_commitment_request_state"), table_name="dicom_commitment_request")
    op.drop_table("dicom_commitment_request")
