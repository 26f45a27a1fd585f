"""Drop two indexes that no query uses: each received instance had to write them."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_dicom_instance_digest", table_name="dicom_instance")
    op.drop_index("ix_dicom_series_last_landed_s", table_name="dicom_series")


def downgrade() -> None:
    op.create_index("ix_dicom_instance_digest", "dicom_instance", ["digest"])
    op.create_index("ix_dicom_series_last_landed_s", "dicom_series", ["last_landed_s"])
