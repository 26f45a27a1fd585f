"""The archive's index: one session a call, SQLite or PostgreSQL, safe from several threads and processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Engine, func, literal, or_, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from dicom_node.holding.entities import Entity, group_entities, image_entity
from dicom_node.holding.files import series_digest
from dicom_node.holding.filing import KnownSeries, note_arrival
from dicom_node.holding.headers import InstanceHeader
from dicom_node.holding.rejecting import anything_rejected, instance_shown, series_shown
from dicom_node.holding.transactions import in_transaction
from dicom_node.tables import ConflictRow, InstanceRow, RefusedRow, SeriesRow, StudyRow
from domain.errors import UnreadableInstance
from domain.identifiers import InstanceUid
from domain.series import InstanceReference

_PART_ROWS = 500

_IN_SERIES = col(InstanceRow.series_uid) == col(SeriesRow.series_uid)
_IN_STUDY = col(SeriesRow.study_uid) == col(StudyRow.study_uid)

# Attributes by which the database can leave rows out; all other matching is done in `dicom_node.query`.
NARROWING_COLUMNS = {
    "PatientID": col(StudyRow.patient_id),
    "AccessionNumber": col(StudyRow.accession),
    "StudyInstanceUID": col(StudyRow.study_uid),
    "SeriesInstanceUID": col(SeriesRow.series_uid),
    "SOPInstanceUID": col(InstanceRow.sop_instance_uid),
}


def _at_once() -> None:
    """Bytes that are on disk already."""


def _never(_held_digest: str) -> bool:
    """Other bytes are another instance."""
    return False


class Landing(Enum):
    """What became of bytes that were handed to the archive."""

    STORED = "stored: new instance"
    DUPLICATE = "duplicate: the same bytes were held already"
    CONFLICT = "conflict: other bytes under a held UID, kept aside"


@dataclass(frozen=True, slots=True)
class Pending:
    """A received series whose set of instances changed since it was announced last."""

    series_uid: str
    source: str
    last_landed_s: float
    expected_instances: int | None
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """A held instance, where it belongs, and how its bytes are encoded."""

    reference: InstanceReference
    transfer_syntax_uid: str
    series_uid: str
    study_uid: str


class Index:
    """Rows behind the archive.

    Parameters
    ----------
    engine : Engine
        With the tables of `dicom_node.tables.metadata`; SQLite in WAL mode with ``synchronous=FULL``, or PostgreSQL.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known_series = KnownSeries(engine)

    def file(
        self,
        header: InstanceHeader,
        *,
        digest: str,
        size_bytes: int,
        source: str,
        origin: str,
        now_s: float,
        bytes_safe: Callable[[], object] = _at_once,
        is_same: Callable[[str], bool] = _never,
    ) -> tuple[Landing, str]:
        """Commit the rows of one instance; return what it was, and the digest held under its UID.

        Parameters
        ----------
        bytes_safe : callable
            Returns when its bytes are on disk, or raises; no row is committed before.
        is_same : callable
            Tells whether the bytes with a held digest hold the same instance; asked where another digest is held under its UID.

        Raises
        ------
        UnreadableInstance
            If its series is known under another study.
        """
        row = header.columns_of(InstanceRow) | {"digest": digest, "size_bytes": size_bytes, "source": source, "landed_s": now_s}
        if self._known_series.file(header, row, source=source, origin=origin, now_s=now_s, bytes_safe=bytes_safe):
            return Landing.STORED, digest

        def write(session: Session) -> tuple[Landing, str]:
            held = session.get(InstanceRow, header.sop_instance_uid)
            if held is not None:
                bytes_safe()
            if held is not None and (held.digest == digest or is_same(held.digest)):
                _settle_conflicts(session, header.sop_instance_uid, source=source, now_s=now_s)
                return Landing.DUPLICATE, held.digest
            if held is not None:
                conflict = ConflictRow(
                    digest=digest,
                    sop_instance_uid=header.sop_instance_uid,
                    held_digest=held.digest,
                    source=source,
                    landed_s=now_s,
                )
                session.merge(conflict)
                return Landing.CONFLICT, held.digest
            _open_study(session, header)
            _open_series(session, header, source=source, origin=origin, now_s=now_s)
            session.add(InstanceRow(**row))
            session.flush()
            bytes_safe()
            return Landing.STORED, digest

        filed = in_transaction(self._engine, write)
        self._known_series.remember(header.series_uid, header.study_uid)
        return filed

    def knows_bytes(self, digest: str) -> bool:
        """Return whether bytes with this digest are held, or were kept aside."""
        with Session(self._engine) as session:
            held = select(InstanceRow.digest).where(col(InstanceRow.digest) == digest).limit(1)
            aside = select(ConflictRow.digest).where(col(ConflictRow.digest) == digest)
            return bool(session.exec(held).first() or session.exec(aside).first())

    def note_refused(self, *, digest: str, code: str, found: str, source: str, now_s: float) -> None:
        """Record bytes that could not be filed."""
        row = RefusedRow(digest=digest, code=code, found=found, source=source, landed_s=now_s)
        in_transaction(self._engine, lambda session: session.merge(row))

    def pending(self, *, landed_before_s: float, also: Collection[str] = ()) -> list[Pending]:
        """Return received series that changed since their announcement and got nothing new after `landed_before_s`.

        Those whose UIDs are in `also` are returned whenever their last instance came.
        """
        with Session(self._engine) as session:
            rows = session.exec(
                select(SeriesRow).where(
                    col(SeriesRow.pending).is_(True),
                    or_(col(SeriesRow.last_landed_s) <= landed_before_s, col(SeriesRow.series_uid).in_(list(also))),
                    col(SeriesRow.origin) == "received",
                )
            ).all()
            found = [
                Pending(
                    series_uid=row.series_uid,
                    source=row.source,
                    last_landed_s=row.last_landed_s,
                    expected_instances=row.expected_instances,
                    digests=_digests(session, row.series_uid),
                )
                for row in rows
            ]
        return [one for one in found if one.digests]  # else all of it was rejected

    def announced(self, series_uid: str, digest: str) -> bool:
        """Note that the set of instances with this digest was announced; return False where the set has changed meanwhile."""

        def write(session: Session) -> bool:
            row = session.get(SeriesRow, series_uid)
            if row is None:
                return False
            row.announced_digest = digest
            row.pending = series_digest(_digests(session, series_uid)) != digest
            return not row.pending

        return in_transaction(self._engine, write)

    def arrival(self, series_uid: str) -> tuple[bool, float]:
        """Return whether a held series has changed since it was announced last, and when its last instance came."""
        with Session(self._engine) as session:
            row = session.get_one(SeriesRow, series_uid)
        return row.pending, row.last_landed_s

    def instances(self, narrowing: Mapping[str, Sequence[str]], *, rejected: bool = False) -> list[InstanceRow]:
        """Return instances, by UID, whose attributes (by keyword) have one of the named values each.

        Parameters
        ----------
        rejected : bool
            Whether those too that a rejection note has withdrawn; no other method returns them.
        """
        statement = _narrowed(select(InstanceRow).join(SeriesRow, _IN_SERIES).join(StudyRow, _IN_STUDY), narrowing)
        statement = statement.order_by(col(InstanceRow.sop_instance_uid))
        with Session(self._engine) as session:
            return list(session.exec(statement if rejected else _shown(session, statement)).all())

    def holdings(self, narrowing: Mapping[str, Sequence[str]]) -> list[Holding]:
        """Return what has to be known to send instances, series by series in the order of their numbers; see `instances`."""
        names = ("sop_class_uid", "sop_instance_uid", "digest", "transfer_syntax_uid", "series_uid")
        columns = [*(getattr(InstanceRow, name) for name in names), SeriesRow.study_uid]
        statement = sa_select(*columns).select_from(InstanceRow).join(SeriesRow, _IN_SERIES).join(StudyRow, _IN_STUDY)
        number, uid = col(InstanceRow.instance_number), col(InstanceRow.sop_instance_uid)
        order = (col(InstanceRow.series_uid), func.length(number), number, uid)  # text, so the shorter number is the smaller
        with Session(self._engine) as session:
            found = session.exec(_shown(session, _narrowed(statement, narrowing).order_by(*order))).all()
        return [Holding(InstanceReference(sop, InstanceUid(uid), digest), *rest) for sop, uid, digest, *rest in found]

    def entities(self, level: str, narrowing: Mapping[str, Sequence[str]], *, counted: bool = True) -> list[Entity]:
        """Return what is known at a query level as attributes by keyword, narrowed by exact values.

        Parameters
        ----------
        level : {"PATIENT", "STUDY", "SERIES", "IMAGE"}
            PS3.4 C.6.1.1 and C.6.2.1.
        narrowing : mapping of str to sequence of str
            Keyword and accepted values; other rows are left out.
        counted : bool
            False where nobody asked for the numbers of related instances: they read as none then.
        """
        if level == "IMAGE":
            images = select(InstanceRow, SeriesRow, StudyRow).join(SeriesRow, _IN_SERIES).join(StudyRow, _IN_STUDY)
            with Session(self._engine) as session:
                return [image_entity(*found) for found in session.exec(_shown(session, _narrowed(images, narrowing))).all()]
        with Session(self._engine) as session:
            hides = anything_rejected(session)
            # Counted beside each series, over the index of one column, and only where somebody asks.
            counting = sa_select(func.count()).where(_IN_SERIES, *([instance_shown()] if hides else [])).correlate(SeriesRow)
            count = counting.scalar_subquery() if counted else literal(0)
            found = _narrowed(select(SeriesRow, StudyRow, count).join(StudyRow, _IN_STUDY), narrowing)
            found = found.where(series_shown(col(SeriesRow.series_uid))) if hides else found
            return group_entities(level, session.exec(found).all())

    def images(self, narrowing: Mapping[str, Sequence[str]]) -> Iterator[Entity]:
        """Return instances as `entities` does, but as they are read: an archive may hold more of them than fit into memory."""
        statement = select(InstanceRow, SeriesRow, StudyRow).join(SeriesRow, _IN_SERIES).join(StudyRow, _IN_STUDY)
        read_by_parts = {"yield_per": _PART_ROWS}
        with Session(self._engine) as session:
            statement = _shown(session, _narrowed(statement, narrowing))
            for found in session.exec(statement, execution_options=read_by_parts):
                yield image_entity(*found)
                session.expunge(found[0])


def _narrowed(statement: Any, narrowing: Mapping[str, Sequence[str]]) -> Any:
    for keyword, values in narrowing.items():
        statement = statement.where(NARROWING_COLUMNS[keyword].in_(list(values)))
    return statement


def _shown(session: Session, statement: Any) -> Any:
    """Leave out the instances that a rejection note has withdrawn: the one place that hides them."""
    return statement.where(instance_shown()) if anything_rejected(session) else statement


def _digests(session: Session, series_uid: str) -> tuple[str, ...]:
    of_series = select(InstanceRow.digest).where(col(InstanceRow.series_uid) == series_uid)
    return tuple(session.exec(_shown(session, of_series)).all())


def _open_study(session: Session, header: InstanceHeader) -> None:
    if session.get(StudyRow, header.study_uid) is None:
        session.add(StudyRow(**header.columns_of(StudyRow)))
        session.flush()


def _open_series(session: Session, header: InstanceHeader, *, source: str, origin: str, now_s: float) -> None:
    """Have the row of a series, and note in it that an instance comes: in the database, never by what was read before."""
    if session.get(SeriesRow, header.series_uid) is None:
        session.add(SeriesRow(**header.columns_of(SeriesRow), source=source, origin=origin, last_landed_s=now_s))
        session.flush()
    if not note_arrival(session.connection(), header, source=source, origin=origin, now_s=now_s):
        raise UnreadableInstance(
            found="a Series Instance UID that is known under another study",
            allowed="one study for each series (PS3.3 A.1.2)",
            action="mend the sender; the bytes are kept in the archive's refused folder",
        )


def _settle_conflicts(session: Session, sop_instance_uid: str, *, source: str, now_s: float) -> None:
    """A sender that repeats what is held takes back the other bytes that it has sent."""
    session.execute(
        update(ConflictRow)
        .where(
            col(ConflictRow.sop_instance_uid) == sop_instance_uid,
            col(ConflictRow.source) == source,
            col(ConflictRow.settled_s).is_(None),
        )
        .values(settled_s=now_s)
    )
