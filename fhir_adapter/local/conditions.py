"""A search as conditions on the rows of the embedded store, and the order of its pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, exists, or_, tuple_
from sqlmodel import col

from domain.errors import RequestInvalid
from fhir_adapter.local.index import known_parameters, reference_parameters
from fhir_adapter.local.tables import IndexRow, ResourceRow
from fhir_adapter.local.values import DateBound, Token, alternatives, any_references, date_bound, subjects, tokens
from fhir_adapter.search import require_resource_type, split_escaped

_Moment = SQLColumnExpression[Any]

# SQLite takes 32,766 bound values in a statement and an expression 1,000 deep; a token needs two values.
_MOST_ALTERNATIVES, _MOST_PARAMETERS = 5000, 50


def conditions(resource_type: str, parameters: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[ColumnElement[bool]]:
    """Return what holds of the rows that a search finds.

    Raises
    ------
    RequestInvalid
        If a parameter is unknown for the type, cannot be read or has no value, or there are too many.
    """
    kind = require_resource_type(resource_type)
    pairs = list(parameters.items() if isinstance(parameters, Mapping) else parameters)
    if len(pairs) > _MOST_PARAMETERS or sum(len(split_escaped(value, ",")) for _, value in pairs) > _MOST_ALTERNATIVES:
        raise RequestInvalid(
            found="a search with too many values",
            allowed=f"{_MOST_PARAMETERS} parameters and {_MOST_ALTERNATIVES} values in all",
            action="search in several calls",
        )
    found = (_condition(kind, name, value) for name, value in pairs if name != "_count")
    return [col(ResourceRow.resource_type) == kind, *found]


def _condition(kind: str, name: str, value: str) -> ColumnElement[bool]:
    known = known_parameters(kind)
    if name not in known:
        raise RequestInvalid(
            found=f"a search of {kind} by a parameter that the embedded store does not know",
            allowed=", ".join(sorted(known)),
            action="leave the parameter out, or configure a FHIR server",
        )
    if name == "_id":
        return col(ResourceRow.resource_id).in_(alternatives(value))
    if name == "_lastUpdated":
        at = col(ResourceRow.last_updated)
        return _compared(date_bound(value), at, at, inclusive=True)
    if name == "date":
        return _indexed(name, _compared(date_bound(value), col(IndexRow.starts_at), col(IndexRow.ends_at), inclusive=False))
    if name in ("patient", "subject"):
        return _indexed("patient", col(IndexRow.value).in_(_patients(value) if name == "patient" else subjects(value)))
    if name in reference_parameters(kind):
        return _indexed(name, col(IndexRow.value).in_(any_references(value)))
    return _indexed(name, _any_token(tokens(value)))


def _patients(value: str) -> list[str]:
    found = subjects(value)
    if not all(one.split("/")[-2] == "Patient" for one in found):
        raise RequestInvalid(
            found="a patient parameter that names no Patient", allowed="Patient/id, or an id", action="search by subject"
        )
    return found


def _indexed(parameter: str, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(
        col(IndexRow.resource_type) == col(ResourceRow.resource_type),
        col(IndexRow.resource_id) == col(ResourceRow.resource_id),
        col(IndexRow.parameter) == parameter,
        condition,
    )


def _any_token(wanted: Sequence[Token]) -> ColumnElement[bool]:
    """Look for all tokens at once: an OR for each would be too deep for SQLite."""
    value, system = col(IndexRow.value), col(IndexRow.system)
    anywhere = [token.value for token in wanted if token.system is None]
    whole = [token.system for token in wanted if token.system and not token.value]
    pairs = [(token.system, token.value) for token in wanted if token.system is not None and token.value]
    ways = [
        *([value.in_(anywhere)] if anywhere else []),
        *([system.in_(whole)] if whole else []),
        *([tuple_(system, value).in_(pairs)] if pairs else []),
    ]
    return or_(*ways)


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


def order(sort: str) -> tuple[Any, ...]:
    """Return the order of pages; see `fhir_adapter.local.store.LocalFhirStore.page`."""
    at, identity = col(ResourceRow.last_updated), col(ResourceRow.resource_id)
    return {"_id": (identity,), "_lastUpdated": (at, identity), "-_lastUpdated": (at.desc(), identity)}[sort]


def position(row: ResourceRow, sort: str) -> str:
    """Return where a page goes on after a row."""
    return row.resource_id if sort == "_id" else f"{row.last_updated.isoformat()},{row.resource_id}"


def behind(after: str, sort: str) -> list[ColumnElement[bool]]:
    """Return what holds of the rows behind a position in the order.

    Raises
    ------
    RequestInvalid
        If it is no position of this order.
    """
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
