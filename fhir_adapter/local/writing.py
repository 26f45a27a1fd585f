"""How prepared writes get into the tables: many rows at once, so that the lock is held shortly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlmodel import col

from domain.errors import VersionChanged
from fhir_adapter.json_text import write_json
from fhir_adapter.local.preparing import Prepared
from fhir_adapter.local.tables import IndexRow, ResourceRow
from fhir_adapter.local.values import naive_utc
from fhir_adapter.search import split_reference

# Ids in one statement.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one entry of a transaction.

    Attributes
    ----------
    reference : str
        ``Type/id``.
    version : str
        ``meta.versionId`` that is held now.
    updated : datetime
        ``meta.lastUpdated`` of it; aware.
    created, changed : bool
        Whether it was not here before, and whether a new version was made.
    """

    reference: str
    version: str
    updated: datetime
    created: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class _Held:
    version: int
    digest: str
    updated: datetime


def wait_for_other_writers(connection: Connection) -> None:
    """Let one transaction write at a time: whether a resource exists, and its version, are read before they are written."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {ResourceRow.__tablename__} IN SHARE ROW EXCLUSIVE MODE")


def store(connection: Connection, writes: Sequence[Prepared], now: datetime) -> list[Written]:
    """Write everything, under the lock of `wait_for_other_writers`, and tell what became of each.

    Raises
    ------
    VersionChanged
        If one is to change another version than the one that is held, or to create what is held with other content.
    """
    held = _held(connection, (one.write.reference for one in writes))
    at = naive_utc(now)
    written: list[Written] = []
    rows: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    replaced: list[str] = []
    for one in writes:
        reference, before = one.write.reference, held.get(one.write.reference)
        _require_expected(one, before)
        if before is not None and one.digest in ("", before.digest):
            written.append(_told(reference, before, changed=False))
            continue
        after = held[reference] = _Held(before.version + 1 if before else 1, one.digest, at)
        written.append(_told(reference, after, changed=True))
        rows.append(_row(one, after))
        entries.extend(_index_rows(one))
        if before is not None:
            replaced.append(reference)
    _remove(connection, replaced)
    if rows:
        connection.execute(insert(ResourceRow), rows)
    if entries:
        connection.execute(insert(IndexRow), entries)
    return written


def _by_type(references: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield type and ids, as many as one statement takes."""
    of: dict[str, list[str]] = {}
    for kind, identity in map(split_reference, dict.fromkeys(references)):
        of.setdefault(kind, []).append(identity)
    for kind, ids in of.items():
        yield from ((kind, ids[start : start + _AT_ONCE]) for start in range(0, len(ids), _AT_ONCE))


def _held(connection: Connection, references: Iterable[str]) -> dict[str, _Held]:
    found: dict[str, _Held] = {}
    for kind, ids in _by_type(references):
        of = (col(ResourceRow.resource_type) == kind, col(ResourceRow.resource_id).in_(ids))
        rows = connection.execute(
            select(
                col(ResourceRow.resource_id),
                col(ResourceRow.version),
                col(ResourceRow.content_digest),
                col(ResourceRow.last_updated),
            ).where(*of)
        )
        found.update({f"{kind}/{identity}": _Held(version, digest, at) for identity, version, digest, at in rows})
    return found


def _require_expected(one: Prepared, before: _Held | None) -> None:
    kind = one.write.reference.split("/")[0]
    if one.write.only_new and before is not None and before.digest != one.digest:
        raise VersionChanged(
            found=f"{kind} that was to be created, and is held with other content",
            allowed="a create of what is not held, or is held as it is sent",
            action="PUT the change under its id, or send another UUID: nothing was written",
        )
    if one.write.only_version and (before is None or str(before.version) != one.write.only_version):
        raise VersionChanged(
            found=f"{kind} in another version than the one that was to be changed",
            allowed="the version that is held now",
            action="read it again and repeat the change: nothing was written",
        )


def _told(reference: str, held: _Held, *, changed: bool) -> Written:
    created = changed and held.version == 1
    return Written(reference, str(held.version), held.updated.replace(tzinfo=UTC), created=created, changed=changed)


def _row(one: Prepared, after: _Held) -> dict[str, Any]:
    kind, identity = split_reference(one.write.reference)
    stamp = after.updated.replace(tzinfo=UTC).isoformat(timespec="microseconds")
    meta = write_json({**(one.meta or {}), "versionId": str(after.version), "lastUpdated": stamp})
    return {
        "resource_type": kind,
        "resource_id": identity,
        "version": after.version,
        "body": f'{one.text},"meta":{meta}}}',
        "content_digest": one.digest,
        "last_updated": after.updated,
    }


def _index_rows(one: Prepared) -> Iterator[dict[str, Any]]:
    kind, identity = split_reference(one.write.reference)
    for entry in one.entries:
        yield {
            "resource_type": kind,
            "resource_id": identity,
            "parameter": entry.parameter,
            "system": entry.system,
            "value": entry.value,
            "starts_at": entry.starts_at,
            "ends_at": entry.ends_at,
        }


def _remove(connection: Connection, references: Iterable[str]) -> None:
    for kind, ids in _by_type(references):
        for table in (IndexRow, ResourceRow):
            connection.execute(delete(table).where(col(table.resource_type) == kind, col(table.resource_id).in_(ids)))
