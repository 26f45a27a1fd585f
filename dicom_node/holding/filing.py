"""One more instance of a series that is known already: two statements, and the whole cost of the index for most instances.

The session of `holding.index` does the same with five statements and an object for each row; at hundreds of instances a
second that is what an association waits for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError

from dicom_node.holding.headers import InstanceHeader
from dicom_node.tables import InstanceRow, SeriesRow
from domain.errors import VeraiconError

_REMEMBERED = 4096

_INSTANCE: sa.Table = InstanceRow.__table__  # type: ignore[attr-defined]  # SQLModel sets it, and does not say so
_SERIES: sa.Table = SeriesRow.__table__  # type: ignore[attr-defined]

# A series that states no number of instances keeps what it has stated before.
_EXPECTED = sa.bindparam("expected", type_=sa.Integer)
_NOTE_ARRIVAL = (
    sa.update(_SERIES)
    .where(_SERIES.c.series_uid == sa.bindparam("of_series"), _SERIES.c.study_uid == sa.bindparam("of_study"))
    .values(
        source=sa.bindparam("sender"),
        # A prior that we fetched, and that somebody sends us now, is a received series from here on.
        origin=sa.case(
            (sa.and_(_SERIES.c.origin == "pulled", sa.bindparam("came") == "received"), "received"), else_=_SERIES.c.origin
        ),
        last_landed_s=sa.bindparam("at_s"),
        pending=True,
        expected_instances=sa.case(
            (_EXPECTED.is_(None), _SERIES.c.expected_instances),
            (_SERIES.c.expected_instances.is_(None), _EXPECTED),
            (_SERIES.c.expected_instances < _EXPECTED, _EXPECTED),
            else_=_SERIES.c.expected_instances,
        ),
    )
)
_DELETE = sa.delete(_INSTANCE).where(_INSTANCE.c.sop_instance_uid == sa.bindparam("of_instance"))


def note_arrival(connection: sa.Connection, header: InstanceHeader, *, source: str, origin: str, now_s: float) -> bool:
    """Note in the row of a series that an instance comes; return False where it has no row under this study."""
    return connection.execute(_NOTE_ARRIVAL, _arrival(header, source=source, origin=origin, now_s=now_s)).rowcount == 1


def _arrival(header: InstanceHeader, *, source: str, origin: str, now_s: float) -> dict[str, Any]:
    return {
        "of_series": header.series_uid,
        "of_study": header.study_uid,
        "sender": source,
        "came": origin,
        "at_s": now_s,
        "expected": header.expected_instances,
    }


@dataclass(slots=True)
class _Filing:
    """What one thread wants to be committed, and what became of it."""

    row: dict[str, Any]
    arrival: dict[str, Any]
    bytes_safe: Callable[[], object]
    filed: bool | None = None


class KnownSeries:
    """Files instances of series that this process has filed before; whatever is not plain it leaves to the index.

    Safe from several threads, and quicker with several: who comes while another one commits is committed with all that wait,
    in one transaction. SQLite would let them sleep and try again, and sync the disk for each.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._waiting: list[_Filing] = []
        insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        # Without the option SQLAlchemy forgets how many rows an INSERT has made (on PostgreSQL).
        self._insert = (
            insert(_INSTANCE)
            .on_conflict_do_nothing(index_elements=["sop_instance_uid"])
            .execution_options(preserve_rowcount=True)
        )

    def remember(self, series_uid: str, study_uid: str) -> None:
        """Note that a series has its row, under this study."""
        with self._lock:
            self._known[series_uid] = study_uid
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def file(
        self,
        header: InstanceHeader,
        row: dict[str, Any],
        *,
        source: str,
        origin: str,
        now_s: float,
        bytes_safe: Callable[[], object],
    ) -> bool:
        """Commit the row of a new instance once its bytes are safe.

        Return False, with no row of it, where it is not as plain as that, or its bytes are not safe; that something came to its
        series may be noted then.
        """
        filing = _Filing(row, _arrival(header, source=source, origin=origin, now_s=now_s), bytes_safe)
        with self._lock:
            if self._known.get(header.series_uid) != header.study_uid:
                return False
            self._waiting.append(filing)
        with self._committing:
            if filing.filed is None:
                self._commit_waiting()
        return bool(filing.filed)

    def _commit_waiting(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            with self._engine.begin() as connection:
                filed = [self._insert_one(connection, filing) for filing in batch]
                for number, filing in enumerate(batch):
                    if filed[number] and not _is_safe(filing):
                        connection.execute(_DELETE, {"of_instance": filing.row["sop_instance_uid"]})
                        filed[number] = False
        except (IntegrityError, OperationalError):
            filed = [False] * len(batch)  # the index tries each again, with patience, and says what is wrong
        for filing, done in zip(batch, filed, strict=True):
            filing.filed = done

    def _insert_one(self, connection: sa.Connection, filing: _Filing) -> bool:
        if connection.execute(self._insert, filing.row).rowcount != 1:
            return False  # the UID is held
        if connection.execute(_NOTE_ARRIVAL, filing.arrival).rowcount == 1:
            return True
        connection.execute(_DELETE, {"of_instance": filing.row["sop_instance_uid"]})
        return False


def _is_safe(filing: _Filing) -> bool:
    """Wait for the bytes; what went wrong is raised again to the thread that they belong to, by the index."""
    try:
        filing.bytes_safe()
    except (OSError, VeraiconError):
        return False
    return True
