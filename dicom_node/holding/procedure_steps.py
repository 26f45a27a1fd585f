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
from sqlalchemy import Engine, delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

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
        now_s = self._clock()
        step = ProcedureStepRow(
            sop_instance_uid=uid, state=StepState.IN_PROGRESS.value, source=source, created_s=now_s, changed_s=now_s
        )
        try:
            with Session(self._engine) as session:
                if session.get(ProcedureStepRow, uid) is not None:
                    return False
                session.add(step)
                session.flush()
                session.add_all(_rows(uid, listed))
                session.commit()
        except IntegrityError:  # another association has created it meanwhile
            return False
        return True

    def change(self, uid: str, *, state: StepState | None, listed: Iterable[ListedInstance] | None) -> Change:
        """Commit a change to a step in progress; what is None stays as it is, a listing replaces the earlier one."""
        with Session(self._engine) as session:
            row = session.get(ProcedureStepRow, uid, with_for_update=True)
            if row is None:
                return Change.UNKNOWN
            if row.state != StepState.IN_PROGRESS.value:
                return Change.FINAL
            row.changed_s = self._clock()
            if listed is not None:
                session.exec(delete(ExpectedInstanceRow).where(col(ExpectedInstanceRow.procedure_step_uid) == uid))
                session.add_all(_rows(uid, listed))
            if state is not None:
                row.state = state.value
            source = row.source
            session.commit()
        if state is StepState.COMPLETED:
            self._tell_completed(uid, source)
        if state is StepState.DISCONTINUED:
            _log.warning("a procedure step was discontinued: its series wait for the usual quiet", source=source)
        return Change.DONE

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
