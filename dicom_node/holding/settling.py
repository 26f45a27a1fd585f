"""When a received series is complete: what it states of itself, what its modality has listed, what somebody has declared."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from sqlalchemy import Engine, and_, func
from sqlmodel import Session, col, select

from dicom_node.holding.files import series_digest
from dicom_node.holding.index import Pending
from dicom_node.holding.procedure_steps import StepState
from dicom_node.tables import ExpectedInstanceRow, InstanceRow, ProcedureStepRow, SeriesRow, SeriesTriggerRow
from domain.errors import RequestInvalid, ResourceNotFound

# A series that says how many instances it has is settled this soon after the last of them.
COMPLETE_QUIET_S = 1.0

# One that is known to lack some gets this many times the usual quiet; then reading says what is missing.
_INCOMPLETE_FACTOR = 6


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of a series beside its instances.

    Attributes
    ----------
    listed, held : int
        Instances that completed procedure steps list for it, and how many of these are held.
    declared_digest : str
        Digest over the instances with which somebody has declared it complete; empty where nobody has.
    """

    listed: int = 0
    held: int = 0
    declared_digest: str = ""


@dataclass(frozen=True, slots=True)
class Declared:
    """A series that was declared complete.

    Attributes
    ----------
    handed_on : bool
        It had been handed on in this very state before, so nothing more happens.
    """

    series_uid: str
    instances: int
    handed_on: bool


def quiet_needed_s(found: Pending, expectation: Expectation | None, quiet_s: float) -> float:
    """Return how long a series has to be quiet before it is handed on, s. Pure.

    A declaration stands above a list of its modality, a list above a stated number, a number above the usual quiet.
    """
    if expectation is not None and expectation.declared_digest == series_digest(found.digests):
        return 0.0
    if expectation is not None and expectation.listed:
        return 0.0 if expectation.held == expectation.listed else quiet_s * _INCOMPLETE_FACTOR
    held = len(found.digests)
    if found.expected_instances is None or held > found.expected_instances:
        return quiet_s
    return min(quiet_s, COMPLETE_QUIET_S) if held == found.expected_instances else quiet_s * _INCOMPLETE_FACTOR


class Settling:
    """Lists and declarations, for the series that wait to be handed on.

    Parameters
    ----------
    engine : Engine
        Database with the tables of `dicom_node.tables`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def expectations(self) -> dict[str, Expectation]:
        """Return what is known of the waiting series, by Series Instance UID; one of which nothing is known is left out."""
        waiting = and_(col(SeriesRow.pending).is_(True), col(SeriesRow.origin) == "received")
        listed = (
            select(
                ExpectedInstanceRow.series_uid,
                func.count(func.distinct(col(ExpectedInstanceRow.sop_instance_uid))),
                func.count(func.distinct(col(InstanceRow.sop_instance_uid))),
            )
            .join(SeriesRow, and_(col(SeriesRow.series_uid) == col(ExpectedInstanceRow.series_uid), waiting))
            .join(ProcedureStepRow, col(ProcedureStepRow.sop_instance_uid) == col(ExpectedInstanceRow.procedure_step_uid))
            .outerjoin(InstanceRow, col(InstanceRow.sop_instance_uid) == col(ExpectedInstanceRow.sop_instance_uid))
            .where(col(ProcedureStepRow.state) == StepState.COMPLETED.value)
            .group_by(col(ExpectedInstanceRow.series_uid))
        )
        declared = select(SeriesTriggerRow.series_uid, SeriesTriggerRow.series_digest).join(
            SeriesRow, and_(col(SeriesRow.series_uid) == col(SeriesTriggerRow.series_uid), waiting)
        )
        with Session(self._engine) as session:
            known = {uid: Expectation(total, held) for uid, total, held in session.exec(listed).all()}
            for uid, digest in session.exec(declared).all():
                known[uid] = replace(known.get(uid, Expectation()), declared_digest=digest)
        return known

    def declare_complete(self, series_uid: str, *, asked_by: str) -> Declared:
        """Note that a held series is complete as it stands now; an instance that comes later makes the usual rules hold again.

        Raises
        ------
        ResourceNotFound
            If no such series is held.
        RequestInvalid
            If it is one of our own, which is never handed on.
        """
        with Session(self._engine) as session:
            row = session.get(SeriesRow, series_uid)
            if row is None:
                raise ResourceNotFound(
                    found="no instance of the named series in the archive",
                    allowed="a series that was received here",
                    action="send the series, or check its UID",
                )
            if row.origin == "generated":
                raise RequestInvalid(
                    found="a series that we have generated",
                    allowed="a received series: one of our own is never a source",
                    action="name the series that was received",
                )
            row.origin = "received"  # a prior that we fetched is a source where somebody says so
            digests = session.exec(select(InstanceRow.digest).where(col(InstanceRow.series_uid) == series_uid)).all()
            trigger = SeriesTriggerRow(
                series_uid=series_uid, series_digest=series_digest(digests), asked_by=asked_by, asked_s=time.time()
            )
            session.merge(trigger)
            handed_on = not row.pending
            session.commit()
        return Declared(series_uid, len(digests), handed_on)
