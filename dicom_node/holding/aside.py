"""What lies beside the archive: bytes that came under a held UID, and bytes that could not be filed. No patient is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, select

from dicom_node.holding.layout import Layout
from dicom_node.tables import ConflictRow, InstanceRow, RefusedRow, SeriesRow


@dataclass(frozen=True, slots=True)
class Conflict:
    """Other bytes under a held SOP Instance UID.

    Attributes
    ----------
    study_uid, series_uid : str
        Of the instance that is held; empty where it has gone since.
    source : str
        AE title that sent the bytes.
    digest, held_digest : str
        Of the bytes that were kept aside, and of those that were held then.
    landed_s, settled_s : float
        Seconds since the epoch; settled when the same source sent again what is held, None before.
    path : Path
        Where the bytes lie.
    """

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    source: str
    digest: str
    held_digest: str
    landed_s: float
    settled_s: float | None
    path: Path


@dataclass(frozen=True, slots=True)
class Refused:
    """Bytes that could not be filed.

    Attributes
    ----------
    code, found : str
        Our error code, and what was wrong.
    """

    source: str
    code: str
    found: str
    digest: str
    landed_s: float
    path: Path


def conflicts(engine: sa.Engine, layout: Layout, *, settled: bool = False) -> list[Conflict]:
    """Return what was kept aside, the oldest first.

    Parameters
    ----------
    layout : Layout
        Of the archive.
    settled : bool
        Those too that their source has taken back.
    """
    held = col(InstanceRow.sop_instance_uid) == col(ConflictRow.sop_instance_uid)
    statement = (
        select(ConflictRow, SeriesRow.series_uid, SeriesRow.study_uid)
        .outerjoin(InstanceRow, held)
        .outerjoin(SeriesRow, col(SeriesRow.series_uid) == col(InstanceRow.series_uid))
        .order_by(col(ConflictRow.landed_s), col(ConflictRow.digest))
    )
    if not settled:
        statement = statement.where(col(ConflictRow.settled_s).is_(None))
    with Session(engine) as session:
        return [
            Conflict(
                study_uid or "",
                series_uid or "",
                row.sop_instance_uid,
                row.source,
                row.digest,
                row.held_digest,
                row.landed_s,
                row.settled_s,
                layout.instance(row.digest),
            )
            for row, series_uid, study_uid in session.exec(statement).all()
        ]


def refused(engine: sa.Engine, layout: Layout) -> list[Refused]:
    """Return what could not be filed, the oldest first."""
    statement = select(RefusedRow).order_by(col(RefusedRow.landed_s), col(RefusedRow.digest))
    with Session(engine) as session:
        return [
            Refused(row.source, row.code, row.found, row.digest, row.landed_s, layout.refused(row.digest))
            for row in session.exec(statement).all()
        ]
