"""The embedded database as a `FhirStore`: the default where no FHIR server is configured.

Holds the current version of each resource and answers the searches that this adapter makes. As on HAPI an unknown search
parameter is an error, never a wider answer; as on any server ``meta.versionId`` and ``meta.lastUpdated`` are the store's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, SQLColumnExpression, and_, delete, exists, func, or_
from sqlmodel import Session, col, select

from domain.errors import PeerRefused, RequestInvalid, VersionChanged
from fhir_adapter.json_text import canonical_json, parse_json, write_json
from fhir_adapter.local.index import (
    DateBound,
    Token,
    any_references,
    date_bound,
    index_entries,
    known_parameters,
    naive_utc,
    reference_parameters,
    references,
    tokens,
)
from fhir_adapter.local.tables import IndexRow, ResourceRow
from fhir_adapter.local.transaction import Write, plan
from fhir_adapter.search import require_resource_type, split_escaped, split_reference
from fhir_adapter.store import RawResource, Search

_Moment = SQLColumnExpression[Any]

# Set by the store on every write; what a sender puts there is not content.
_OF_THE_STORE = ("versionId", "lastUpdated")


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
        statement = select(ResourceRow).where(*_conditions(resource_type, parameters)).order_by(col(ResourceRow.resource_id))
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
        conditions = _conditions(resource_type, parameters)
        with Session(self._engine) as session:
            total = session.exec(select(func.count()).select_from(ResourceRow).where(*conditions)).one()
            statement = select(ResourceRow).where(*conditions, *_behind(after, sort)).order_by(*_order(sort)).limit(size + 1)
            rows = list(session.exec(statement)) if size else []
        last = _position(rows[size - 1], sort) if len(rows) > size > 0 else ""
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

    def write(self, bundle: Mapping[str, Any]) -> list[Written]:
        """Store a transaction Bundle as `transact` does, and tell what became of each entry."""
        with Session(self._engine) as session, session.begin():
            _wait_for_other_writers(session)
            writes = plan(bundle, lambda kind, parameters: _find(session, kind, parameters))
            now = self._clock()
            return [_store(session, write, now) for write in writes]


def _wait_for_other_writers(session: Session) -> None:
    """Let one transaction write at a time: whether a resource exists, and its version, are read before they are written."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {ResourceRow.__tablename__} IN SHARE ROW EXCLUSIVE MODE")


def _find(session: Session, kind: str, parameters: Mapping[str, str]) -> list[str]:
    statement = select(ResourceRow.resource_id).where(*_conditions(kind, parameters)).limit(2)
    return [f"{kind}/{identity}" for identity in session.exec(statement)]


def _store(session: Session, write: Write, now: datetime) -> Written:
    kind, identity = split_reference(write.reference)
    if write.body is None:
        return _written(session.get_one(ResourceRow, (kind, identity)), changed=False)
    body = dict(write.body)
    meta = body.get("meta", {})
    if not isinstance(meta, Mapping):
        raise RequestInvalid(found=f"meta of {kind} that is no object", allowed="a Meta", action="correct the resource")
    kept = {name: value for name, value in meta.items() if name not in _OF_THE_STORE}
    digest = _digest(kind, {**body, "meta": kept})
    row = session.get(ResourceRow, (kind, identity))
    if write.only_version and (row is None or str(row.version) != write.only_version):
        raise VersionChanged(
            found=f"{kind} in another version than the one that was to be changed",
            allowed="the version that is held now",
            action="read it again and repeat the change: nothing was written",
        )
    if row is not None and row.content_digest == digest:
        return _written(row, changed=False)
    version = row.version + 1 if row else 1
    updated = now.astimezone(UTC)
    body["meta"] = {**kept, "versionId": str(version), "lastUpdated": updated.isoformat(timespec="microseconds")}
    if row is None:
        row = ResourceRow(
            resource_type=kind, resource_id=identity, version=0, body="", content_digest="", last_updated=naive_utc(updated)
        )
    row.version, row.body, row.content_digest, row.last_updated = version, write_json(body), digest, naive_utc(updated)
    session.add(row)
    if version > 1:
        of_resource = (col(IndexRow.resource_type) == kind, col(IndexRow.resource_id) == identity)
        session.execute(delete(IndexRow).where(*of_resource))
    session.add_all(
        IndexRow(
            resource_type=kind,
            resource_id=identity,
            parameter=entry.parameter,
            system=entry.system,
            value=entry.value,
            starts_at=entry.starts_at,
            ends_at=entry.ends_at,
        )
        for entry in index_entries(body)
    )
    return _written(row, changed=True)


def _written(row: ResourceRow, *, changed: bool) -> Written:
    updated = row.last_updated.replace(tzinfo=UTC)
    reference, created = f"{row.resource_type}/{row.resource_id}", changed and row.version == 1
    return Written(reference, str(row.version), updated, created=created, changed=changed)


def _order(sort: str) -> tuple[Any, ...]:
    at, identity = col(ResourceRow.last_updated), col(ResourceRow.resource_id)
    return {"_id": (identity,), "_lastUpdated": (at, identity), "-_lastUpdated": (at.desc(), identity)}[sort]


def _position(row: ResourceRow, sort: str) -> str:
    return row.resource_id if sort == "_id" else f"{row.last_updated.isoformat()},{row.resource_id}"


def _behind(after: str, sort: str) -> list[ColumnElement[bool]]:
    """Return what holds of the resources behind a position in the order."""
    at, identity = col(ResourceRow.last_updated), col(ResourceRow.resource_id)
    if not after:
        return []
    if sort == "_id":
        return [identity > after]
    moment, _, held = after.partition(",")
    try:
        then = datetime.fromisoformat(moment)
    except ValueError as error:
        raise RequestInvalid(
            found="a page of another search", allowed="the next link as it was given", action="search again from the first page"
        ) from error
    later = at > then if sort == "_lastUpdated" else at < then
    return [or_(later, and_(at == then, identity > held))]


def _digest(kind: str, content: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical_json(content)).hexdigest()
    except ValueError as error:
        raise RequestInvalid(
            found=f"{kind} with a value that JSON cannot carry between programs",
            allowed="JSON with numbers inside the doubles",
            action="correct the resource; nothing was stored",
        ) from error


def _conditions(resource_type: str, parameters: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[ColumnElement[bool]]:
    kind = require_resource_type(resource_type)
    known = known_parameters(kind)
    conditions: list[ColumnElement[bool]] = [col(ResourceRow.resource_type) == kind]
    for name, value in parameters.items() if isinstance(parameters, Mapping) else parameters:
        if name not in known:
            raise RequestInvalid(
                found=f"a search of {kind} by a parameter that the embedded store does not know",
                allowed=", ".join(sorted(known)),
                action="leave the parameter out, or configure a FHIR server",
            )
        if name == "_id":
            conditions.append(col(ResourceRow.resource_id).in_(split_escaped(value, ",")))
        elif name == "_lastUpdated":
            at = col(ResourceRow.last_updated)
            conditions.append(_compared(date_bound(value), at, at, inclusive=True))
        elif name in ("patient", "subject"):
            conditions.append(_indexed("patient", col(IndexRow.value).in_(references(value))))
        elif name in reference_parameters(kind):
            conditions.append(_indexed(name, col(IndexRow.value).in_(any_references(value))))
        elif name == "date":
            compared = _compared(date_bound(value), col(IndexRow.starts_at), col(IndexRow.ends_at), inclusive=False)
            conditions.append(_indexed("date", compared))
        elif name != "_count":
            conditions.append(_indexed(name, or_(*(_token_condition(token) for token in tokens(value)))))
    return conditions


def _indexed(parameter: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(
        col(IndexRow.resource_type) == col(ResourceRow.resource_type),
        col(IndexRow.resource_id) == col(ResourceRow.resource_id),
        col(IndexRow.parameter) == parameter,
        condition,
    )


def _token_condition(token: Token) -> ColumnElement[bool]:
    conditions = []
    if token.value:
        conditions.append(col(IndexRow.value) == token.value)
    if token.system is not None:
        conditions.append(col(IndexRow.system) == token.system)
    return and_(*conditions)


def _compared(bound: DateBound, start: _Moment, end: _Moment, *, inclusive: bool) -> ColumnElement[bool]:
    """Compare a stored span [start, end) with the one asked for.

    `inclusive`: the stored end is the moment itself, not the first one after it.

    References
    ----------
    FHIR R4 search, "date": ``eq`` means that the stored span lies within the one asked for.
    """
    ends_within = end < bound.ends_at if inclusive else end <= bound.ends_at
    ends_after = end >= bound.ends_at if inclusive else end > bound.ends_at
    comparisons: dict[str, ColumnElement[bool]] = {
        "eq": and_(start >= bound.starts_at, ends_within),
        "ge": or_(ends_after, and_(start >= bound.starts_at, ends_within)),
        "gt": ends_after,
        "le": or_(start < bound.starts_at, and_(start >= bound.starts_at, ends_within)),
        "lt": start < bound.starts_at,
    }
    return comparisons[bound.prefix]


def _raw(row: ResourceRow) -> RawResource:
    return RawResource(parse_json(row.body), row.body.encode())
