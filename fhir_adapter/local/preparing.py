"""What of a write can be done before the lock: conditions, digests, texts and index entries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlmodel import col

from domain.errors import RequestInvalid
from fhir_adapter.json_text import canonical_json, write_json
from fhir_adapter.local.conditions import conditions
from fhir_adapter.local.index import IndexEntry, index_entries
from fhir_adapter.local.tables import ResourceRow
from fhir_adapter.local.transaction import Write

# Set by the store on every write; what a sender puts there is not content.
_OF_THE_STORE = ("versionId", "lastUpdated")
# Each condition is looked up once more under the lock, so their number bounds how long others wait.
_MOST_LOOK_UPS = 5000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A write as far as it does not depend on what is held.

    Attributes
    ----------
    write : Write
    digest : str
        SHA-256 of the content; empty where nothing is written.
    text : str
        JSON without ``meta`` and the last brace.
    meta : mapping
        What the sender says in it.
    entries : tuple of IndexEntry
    """

    write: Write
    digest: str = ""
    text: str = ""
    meta: Mapping[str, Any] | None = None
    entries: tuple[IndexEntry, ...] = ()


class LookUps:
    """What conditions found, and whether they would find the same now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}

    def find(self, kind: str, parameters: Sequence[tuple[str, str]]) -> list[str]:
        """Return at most two references that match; see `fhir_adapter.local.transaction.Find`."""
        key = (kind, tuple(parameters))
        if key not in self._found:
            if len(self._found) == _MOST_LOOK_UPS:
                raise RequestInvalid(
                    found=f"a Bundle with more than {_MOST_LOOK_UPS} different conditions",
                    allowed=f"at most {_MOST_LOOK_UPS}",
                    action="split the Bundle; nothing of it was stored",
                )
            self._found[key] = _found(self._connection, *key)
        return self._found[key]

    def hold(self, connection: Connection) -> bool:
        """Tell whether nobody has written in between what would be found instead."""
        return all(_found(connection, *key) == found for key, found in self._found.items())


def prepared(write: Write) -> Prepared:
    """Return a write with its digest, text and index entries.

    Raises
    ------
    RequestInvalid
        If its content cannot be stored as JSON.
    """
    if write.body is None:
        return Prepared(write)
    body = dict(write.body)
    meta = body.pop("meta", {})
    kind = write.reference.split("/")[0]
    if not isinstance(meta, Mapping):
        raise RequestInvalid(found=f"meta of {kind} that is no object", allowed="a Meta", action="correct the resource")
    kept = {name: value for name, value in meta.items() if name not in _OF_THE_STORE}
    digest = _digest(kind, {**body, "meta": kept})
    return Prepared(write, digest, write_json(body)[:-1], kept, tuple(index_entries(body)))


def _found(connection: Connection, kind: str, parameters: Sequence[tuple[str, str]]) -> list[str]:
    wanted = conditions(kind, parameters)
    statement = select(col(ResourceRow.resource_id)).where(*wanted).order_by(col(ResourceRow.resource_id)).limit(2)
    return [f"{kind}/{identity}" for identity in connection.scalars(statement)]


def _digest(kind: str, content: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(canonical_json(content)).hexdigest()
    except ValueError as error:
        raise RequestInvalid(
            found=f"{kind} with a value that JSON cannot carry between programs",
            allowed="JSON with numbers inside the doubles and whole characters",
            action="correct the resource; nothing was stored",
        ) from error
