"""What a site's own book says of the series at a peer: which it took, and which were taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    SegmentationStorage,
)
from sqlmodel import Session, col

from veraicon.recall.tables import CopyRow, OutputRow, OutputSeriesRow, RecalledRow, RecallRow

# Of what we write: our book keeps classes, and a person asks by modality.
_MODALITIES: Mapping[str, str] = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    SegmentationStorage: "SEG",
    EncapsulatedPDFStorage: "DOC",
}


@dataclass(frozen=True, slots=True)
class Expected:
    """A series that a peer took from us, by our own book."""

    study_uid: str
    series_uid: str
    modality: str
    date: str
    instances: int


def expected_at(engine: sa.Engine, peer: str) -> dict[str, Expected]:
    """Return the series that a peer took from us, by UID; those too that were recalled since, see `recalled_series`."""
    query = (
        sa.select(
            col(OutputRow.study_uid),
            col(OutputSeriesRow.series_uid),
            col(OutputRow.generated_at),
            col(OutputSeriesRow.instances),
        )
        .join(OutputSeriesRow, col(OutputSeriesRow.request_id) == col(OutputRow.request_id))
        .join(CopyRow, col(CopyRow.series_uid) == col(OutputSeriesRow.series_uid))
        .where(col(CopyRow.recipient) == peer, col(CopyRow.accepted_at).is_not(None))
    )
    with Session(engine) as session:
        rows = session.execute(query).all()
    return {
        uid: Expected(study, uid, _MODALITIES.get(instances[0][0], ""), f"{made:%Y%m%d}", len(instances))
        for study, uid, made, instances in rows
    }


def recalled_series(engine: sa.Engine) -> dict[str, str]:
    """Return when and why each recalled series was taken back, by UID, wherever its copies are."""
    query = (
        sa.select(col(OutputSeriesRow.series_uid), col(RecallRow.recalled_at), col(RecallRow.reason), col(RecallRow.recall_id))
        .join(RecalledRow, col(RecalledRow.request_id) == col(OutputSeriesRow.request_id))
        .join(RecallRow, col(RecallRow.recall_id) == col(RecalledRow.recall_id))
        .order_by(col(RecallRow.recalled_at).desc())  # the first recall is the one that is told
    )
    with Session(engine) as session:
        rows = session.execute(query).all()
    return {uid: f"recalled on {at:%Y-%m-%d} ({reason}), recall {recall_id}" for uid, at, reason, recall_id in rows}
