"""What the adapter needs from a place that holds FHIR resources; a server and the embedded database both give it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class RawResource:
    """A resource as it was read, before anybody interpreted it.

    Attributes
    ----------
    body : mapping
        Parsed JSON; numbers with a fraction are `Decimal`, so nothing that the text said is lost (`fhir_adapter.json_text`).
    wire : bytes
        The bytes as received where the resource came alone; empty where it came inside a Bundle.
    """

    body: Mapping[str, Any] = field(repr=False)
    wire: bytes = field(default=b"", repr=False)

    @property
    def resource_type(self) -> str:
        """Name of the type; empty where the body states none."""
        return str(self.body.get("resourceType", ""))

    @property
    def reference(self) -> str:
        """``Type/id`` on the store that answered."""
        return f"{self.resource_type}/{self.body.get('id', '')}"


@dataclass(frozen=True, slots=True)
class Search:
    """One search: a resource type and its parameters."""

    resource_type: str
    parameters: Mapping[str, str] = field(repr=False)


class FhirStore(Protocol):
    """A place that holds FHIR R4 resources.

    Errors are the same for each store: `PeerUnreachable`, `PeerRefused` (also where a resource is not there),
    `PeerAnswerInvalid`; `RequestInvalid` where the call itself can never work.
    """

    def search(self, resource_type: str, parameters: Mapping[str, str]) -> Iterator[RawResource]:
        """Yield every match, over all pages; raise rather than stop early."""
        ...

    def search_many(self, searches: Sequence[Search]) -> Iterator[RawResource]:
        """Yield the matches of several searches in as few round trips as the store allows; raise if any of them fails."""
        ...

    def read(self, reference: str) -> RawResource:
        """Return the current version of ``Type/id``."""
        ...

    def transact(self, bundle: Mapping[str, Any]) -> list[str]:
        """Write a transaction Bundle as a whole or not at all; return ``Type/id`` of each entry, in the Bundle's order."""
        ...


def base_url_of(store: FhirStore) -> str:
    """Return the URL below which absolute references are a store's own; empty where it has none, as our own store."""
    return str(getattr(store, "base_url", ""))
