"""Modality Performed Procedure Steps: which instances a modality says that it has made. Rows that survive a restart.

References
----------
DICOM PS3.4 Annex F.7; PS3.3 C.4.15 (Image Acquisition Results).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import structlog
from pydicom.dataset import Dataset
from sqlalchemy import Engine, delete, update
from sqlmodel import Session, col, func, select

from dicom_node.holding.transactions import in_transaction
from dicom_node.tables import ExpectedInstanceRow, ProcedureStepRow
from domain.identifiers import require_uid

_log = structlog.get_logger(__name__)

_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class StepState(Enum):
    """Performed Procedure Step Status (0040,0252); PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Change(Enum):
    """What became of a change to a step."""

    DONE = "done"
    UNKNOWN = "no such step"
    FINAL = "the step is completed or discontinued, and stays as it is"


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """An instance and the series under which a step lists it."""

    series_uid: str
    sop_instance_uid: str


def read_listing(ds: Dataset) -> frozenset[ListedInstance] | None:
    """Return the instances that a Performed Series Sequence lists; None where the dataset says nothing of series.

    Raises
    ------
    UnreadableInstance
        If a UID is missing or none.
    """
    if "PerformedSeriesSequence" not in ds:
        return None
    listed = set()
    for series in ds.PerformedSeriesSequence or ():
        series_uid = require_uid(series.get("SeriesInstanceUID"), attribute="SeriesInstanceUID")
        for keyword in _REFERENCES:
            for item in series.get(keyword) or ():
                uid = require_uid(item.get("ReferencedSOPInstanceUID"), attribute="ReferencedSOPInstanceUID")
                listed.add(ListedInstance(series_uid, uid))
    return frozenset(listed)


class ProcedureSteps:
    """What modalities have told.

    Parameters
    ----------
    engine : Engine
        Database with the tables of `dicom_node.tables`.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock

    def create(self, uid: str, listed: Iterable[ListedInstance], *, source: str) -> bool:
        """Commit a new step in progress; return False, with nothing changed, where one has this UID."""
        now_s, listed = self._clock(), tuple(listed)

        def write(session: Session) -> bool:
            if session.get(ProcedureStepRow, uid) is not None:
                return False
            session.add(
                ProcedureStepRow(
                    sop_instance_uid=uid, state=StepState.IN_PROGRESS.value, source=source, created_s=now_s, changed_s=now_s
                )
            )
            session.flush()
            session.add_all(_rows(uid, listed))
            return True

        return in_transaction(self._engine, write)

    def change(self, uid: str, *, state: StepState | None, listed: Iterable[ListedInstance] | None) -> Change:
        """Commit a change to a step in progress; what is None stays as it is, a listing replaces the earlier one."""
        listed = None if listed is None else tuple(listed)

        values = {"changed_s": self._clock()} | ({} if state is None else {"state": state.value})
        # One statement looks and takes the lock: between a look and a write another change might end the step.
        still_in_progress = (
            update(ProcedureStepRow)
            .where(col(ProcedureStepRow.sop_instance_uid) == uid, col(ProcedureStepRow.state) == StepState.IN_PROGRESS.value)
            .values(**values)
        )

        def write(session: Session) -> tuple[Change, str]:
            changed = session.exec(still_in_progress).rowcount
            row = session.get(ProcedureStepRow, uid)
            if row is None:
                return Change.UNKNOWN, ""
            if not changed:
                return Change.FINAL, row.source
            if listed is not None:
                session.exec(delete(ExpectedInstanceRow).where(col(ExpectedInstanceRow.procedure_step_uid) == uid))
                session.add_all(_rows(uid, listed))
            return Change.DONE, row.source

        change, source = in_transaction(self._engine, write)
        if change is Change.DONE and state is StepState.COMPLETED:
            self._tell_completed(uid, source)
        if change is Change.DONE and state is StepState.DISCONTINUED:
            _log.warning("a procedure step was discontinued: its series wait for the usual quiet", source=source)
        return change

    def _tell_completed(self, uid: str, source: str) -> None:
        listing = select(func.count(), func.count(func.distinct(ExpectedInstanceRow.series_uid))).where(
            col(ExpectedInstanceRow.procedure_step_uid) == uid
        )
        with Session(self._engine) as session:
            instances, series = session.exec(listing).one()
        if not instances:
            _log.warning("a completed procedure step lists no instances: its series wait for the usual quiet", source=source)
        else:
            _log.info(
                "a procedure step was completed", action="procedure step", source=source, series=series, instances=instances
            )


def _rows(uid: str, listed: Iterable[ListedInstance]) -> list[ExpectedInstanceRow]:
    return [
        ExpectedInstanceRow(procedure_step_uid=uid, series_uid=one.series_uid, sop_instance_uid=one.sop_instance_uid)
        for one in listed
    ]
