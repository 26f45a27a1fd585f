"""A conflict may be settled: its source has sent again what is held."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dicom_conflict", sa.Column("settled_s", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("dicom_conflict", "settled_s")
