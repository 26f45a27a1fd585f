"""What a rejection note withdraws: kept byte for byte, and no longer found, handed out or used as a source.

The note is a Key Object Selection document whose title is one of four. An Image Manager of IHE's Imaging Object Change
Management may be set to hide what was rejected, for each title; here each title hides.

References
----------
IHE RAD TF IOCM, transaction RAD-66; DICOM PS3.16 CID 7010, TID 2010.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
import structlog
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from dicom_node.holding.transactions import in_transaction
from dicom_node.tables import InstanceRow, RejectionRow, SeriesRow

REJECTION_TITLES = MappingProxyType(
    {
        "113001": "Rejected for Quality Reasons",
        "113037": "Rejected for Patient Safety Reasons",
        "113038": "Incorrect Modality Worklist Entry",
        "113039": "Data Retention Policy Expired",
    }
)

_log = structlog.get_logger(__name__)

_PART = 500


@dataclass(frozen=True, slots=True)
class Rejection:
    """What a note says.

    Attributes
    ----------
    code : str
        Of its title, a key of `REJECTION_TITLES`.
    instances : tuple of str
        SOP Instance UIDs that it names.
    """

    note_uid: str
    code: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RejectedSeries:
    """A held series with rejected instances."""

    study_uid: str
    series_uid: str
    rejected: int
    instances: int
    code: str
    title: str
    note_uid: str
    source: str
    rejected_s: float


def read_rejection(ds: Dataset) -> Rejection | None:
    """Return what a dataset rejects; None where it is no rejection note."""
    if ds.get("SOPClassUID") != KeyObjectSelectionDocumentStorage:
        return None
    titles = ds.get("ConceptNameCodeSequence") or []
    code = str(titles[0].get("CodeValue", "")) if titles and titles[0].get("CodingSchemeDesignator") == "DCM" else ""
    if code not in REJECTION_TITLES:
        return None
    references = [item for content in ds.get("ContentSequence") or [] for item in content.get("ReferencedSOPSequence") or []]
    uids = dict.fromkeys(str(item.get("ReferencedSOPInstanceUID", "")) for item in references)
    return Rejection(str(ds.SOPInstanceUID), code, tuple(filter(None, uids)))


def heed(engine: sa.Engine, ds: Dataset, *, heeded: bool, source: str, now_s: float) -> None:
    """Withdraw what a stored document names if it is a rejection note, before its sender is told that it was stored.

    Parameters
    ----------
    heeded : bool
        Whether the notes of this source count; else the note is one more document.
    """
    rejection = read_rejection(ds)
    if rejection is None:
        return
    if heeded:
        reject(engine, rejection, source=source, now_s=now_s)
    else:
        _log.warning("a rejection note was kept and not heeded: its sender is no configured peer", source=source)


def reject(engine: sa.Engine, rejection: Rejection, *, source: str, now_s: float) -> None:
    """Withdraw what a note names; a repeat, or another note about the same instances, changes nothing."""

    def write(session: Session) -> None:
        for start in range(0, len(rejection.instances), _PART):
            part = rejection.instances[start : start + _PART]
            known = set(
                session.exec(select(RejectionRow.sop_instance_uid).where(col(RejectionRow.sop_instance_uid).in_(part))).all()
            )
            session.add_all(
                RejectionRow(
                    sop_instance_uid=uid, note_uid=rejection.note_uid, code=rejection.code, source=source, rejected_s=now_s
                )
                for uid in part
                if uid not in known
            )

    in_transaction(engine, write)
    _log.info("instances were rejected", action="reject", source=source, instances=len(rejection.instances))


def anything_rejected(session: Session) -> bool:
    """Return whether any instance is rejected: where none is, no query has to look."""
    return session.exec(select(RejectionRow.sop_instance_uid).limit(1)).first() is not None


def instance_shown() -> sa.ColumnElement[bool]:
    """Return the condition that an instance (of `InstanceRow`) is not rejected."""
    return ~sa.exists().where(col(RejectionRow.sop_instance_uid) == col(InstanceRow.sop_instance_uid))


def series_shown(series_uid: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a series still has an instance that is not rejected."""
    of_series = sa.select(col(InstanceRow.sop_instance_uid)).where(col(InstanceRow.series_uid) == series_uid, instance_shown())
    return sa.exists(of_series.correlate(SeriesRow))


def rejected_series(engine: sa.Engine) -> list[RejectedSeries]:
    """Return the held series that have rejected instances, the one rejected last first."""
    count, last = sa.func.count(), sa.func.max(col(RejectionRow.rejected_s))
    all_of = (
        sa.select(sa.func.count())
        .select_from(InstanceRow)
        .where(col(InstanceRow.series_uid) == col(SeriesRow.series_uid))
        .correlate(SeriesRow)
        .scalar_subquery()
    )
    firsts = [sa.func.min(column) for column in (col(RejectionRow.code), col(RejectionRow.note_uid), col(RejectionRow.source))]
    instances = aliased(InstanceRow)
    statement = (
        sa.select(col(SeriesRow.study_uid), col(SeriesRow.series_uid), count, all_of, *firsts, last)
        .select_from(SeriesRow)
        .join(instances, col(instances.series_uid) == col(SeriesRow.series_uid))
        .join(RejectionRow, col(RejectionRow.sop_instance_uid) == col(instances.sop_instance_uid))
        .group_by(col(SeriesRow.study_uid), col(SeriesRow.series_uid))
        .order_by(last.desc())
    )
    with Session(engine) as session:
        found: Sequence[Any] = session.execute(statement).all()
    return [
        RejectedSeries(study, series, rejected, total, code, REJECTION_TITLES[code], note, source, at)
        for study, series, rejected, total, code, note, source, at in found
    ]
