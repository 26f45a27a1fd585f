"""The embedded database as a `FhirStore`: the default where no FHIR server is configured.

Holds the current version of each resource and answers the searches that this adapter makes. As on HAPI an unknown search
parameter is an error, never a wider answer; as on any server ``meta.versionId`` and ``meta.lastUpdated`` are the store's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, func
from sqlmodel import Session, col, select

from domain.errors import PeerRefused
from fhir_adapter.json_text import parse_json
from fhir_adapter.local.conditions import behind, conditions, order, position
from fhir_adapter.local.preparing import LookUps, Prepared, prepared
from fhir_adapter.local.tables import ResourceRow
from fhir_adapter.local.transaction import plan
from fhir_adapter.local.writing import Written, store, wait_for_other_writers
from fhir_adapter.search import split_reference
from fhir_adapter.store import RawResource, Search

__all__ = ["LocalFhirStore", "Page", "Written"]

# So often is a Bundle planned without the lock, while others write what its conditions find; then with it.
_PLANNED_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the matches of a search.

    Attributes
    ----------
    resources : tuple of RawResource
    total : int
        All matches, on every page.
    last : str
        Where the next page goes on; empty on the last one.
    """

    resources: tuple[RawResource, ...]
    total: int
    last: str


class LocalFhirStore:
    """FHIR resources in the embedded database.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Database with the tables of `fhir_adapter.local.tables`.
    clock : callable
        Gives ``meta.lastUpdated``; aware.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine, self._clock = engine, clock

    def read(self, reference: str) -> RawResource:
        """Return the current version of ``Type/id``.

        Raises
        ------
        PeerRefused
            If it is not here.
        """
        kind, identity = split_reference(reference)
        with Session(self._engine) as session:
            row = session.get(ResourceRow, (kind, identity))
            if row is None:
                raise PeerRefused(
                    found=f"no {kind} with this id in the embedded FHIR store",
                    allowed="the reference of a resource that was stored",
                    action="load the patient's resources, or configure the FHIR server that holds them",
                )
            return _raw(row)

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Iterator[RawResource]:
        """Yield every match, by id.

        Raises
        ------
        RequestInvalid
            If a parameter is unknown for the type or cannot be read.
        """
        statement = select(ResourceRow).where(*conditions(resource_type, parameters)).order_by(col(ResourceRow.resource_id))
        with Session(self._engine) as session:
            for row in session.exec(statement):
                yield _raw(row)

    def page(
        self, resource_type: str, parameters: Iterable[tuple[str, str]], *, size: int, after: str = "", sort: str = "_id"
    ) -> Page:
        """Return one page of the matches; only what stands on it is read.

        A page goes on after the last resource of the one before, not at a number: what is written in between moves nothing.

        Parameters
        ----------
        resource_type : str
        parameters : iterable of (str, str)
            A repeated parameter narrows the matches.
        size : int
            At most so many resources; 0 only counts.
        after : str
            `Page.last` of the page before.
        sort : str
            ``_id``, ``_lastUpdated`` or ``-_lastUpdated``.

        Raises
        ------
        RequestInvalid
            If a parameter is unknown for the type or cannot be read, or `after` is not of a page of this search.
        """
        wanted = conditions(resource_type, parameters)
        with Session(self._engine) as session:
            total = session.exec(select(func.count()).select_from(ResourceRow).where(*wanted)).one()
            statement = select(ResourceRow).where(*wanted, *behind(after, sort)).order_by(*order(sort)).limit(size + 1)
            rows = list(session.exec(statement)) if size else []
        last = position(rows[size - 1], sort) if len(rows) > size > 0 else ""
        return Page(tuple(_raw(row) for row in rows[:size]), total, last)

    def search_many(self, searches: Sequence[Search]) -> Iterator[RawResource]:
        """Yield the matches of each search in turn."""
        for search in searches:
            yield from self.search(search.resource_type, search.parameters)

    def transact(self, bundle: Mapping[str, Any]) -> list[str]:
        """Store a transaction Bundle as a whole or not at all; a PUT of the same content makes no new version.

        Raises
        ------
        RequestInvalid
            See `fhir_adapter.local.transaction.plan`.
        VersionChanged
            If an entry's ``ifMatch`` names another version than the one that is held.
        """
        return [written.reference for written in self.write(bundle)]

    def write(self, bundle: Mapping[str, Any], *, base_url: str = "") -> list[Written]:
        """Store a transaction Bundle as `transact` does, and tell what became of each entry.

        Others write meanwhile: references, digests and index entries are made before the lock, and the conditions that were
        looked up before it are looked up again under it.

        Parameters
        ----------
        base_url : str
            Base of our own service: absolute references below it are made relative.
        """
        for _ in range(_PLANNED_AHEAD):
            with self._engine.connect() as connection:
                seen = LookUps(connection)
                writes = _planned(bundle, seen, base_url)
            with self._engine.begin() as connection:
                wait_for_other_writers(connection)
                if seen.hold(connection):
                    return store(connection, writes, self._clock())
        with self._engine.begin() as connection:
            wait_for_other_writers(connection)
            return store(connection, _planned(bundle, LookUps(connection), base_url), self._clock())


def _planned(bundle: Mapping[str, Any], seen: LookUps, base_url: str) -> list[Prepared]:
    return [prepared(write) for write in plan(bundle, seen.find, base_url=base_url)]


def _raw(row: ResourceRow) -> RawResource:
    return RawResource(parse_json(row.body), row.body.encode())
