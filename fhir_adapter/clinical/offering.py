"""Which resource types a FHIR server offers, as its CapabilityStatement says or the site names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from domain.errors import PeerAnswerInvalid
from fhir_adapter.elements import objects
from fhir_adapter.store import FhirStore


@runtime_checkable
class _Describes(Protocol):
    """A store that tells what it can do."""

    def capabilities(self) -> Mapping[str, Any]:
        """Return the CapabilityStatement."""
        ...


class Offering:
    """The types that may be searched for.

    The CapabilityStatement is read once, at the first question. A store that has none, our own, offers every type.

    Parameters
    ----------
    store : FhirStore
    named : tuple of str
        Types that the site names; empty: the CapabilityStatement decides.
    """

    def __init__(self, store: FhirStore, named: tuple[str, ...] = ()) -> None:
        self._store, self._named = store, frozenset(named)
        self._stated: frozenset[str] | None = None

    def offers(self, resource_type: str) -> bool:
        """Tell whether a type may be searched for.

        Raises
        ------
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the CapabilityStatement cannot be read.
        """
        # The site's list narrows what states facts; a Consent is always asked for where the server has it.
        if self._named and resource_type not in self._named and resource_type not in ("Consent", "Medication"):
            return False
        if self._named and resource_type in self._named:
            return True
        if not isinstance(self._store, _Describes):
            return True
        if self._stated is None:
            self._stated = searchable_types(self._store.capabilities())
        return not self._stated or resource_type in self._stated


def searchable_types(statement: Mapping[str, Any]) -> frozenset[str]:
    """Return the types that a server offers to search, by its CapabilityStatement; empty where it lists none.

    A type whose interactions are not stated counts as offered: better a search that fails by name than a gap.

    Raises
    ------
    PeerAnswerInvalid
        If it is no CapabilityStatement of FHIR R4.

    References
    ----------
    FHIR R4 CapabilityStatement.rest.resource.interaction.
    """
    if statement.get("resourceType") != "CapabilityStatement" or not str(statement.get("fhirVersion", "4.")).startswith("4."):
        raise PeerAnswerInvalid(
            found=f"a server of FHIR version {str(statement.get('fhirVersion', 'unknown'))[:16]!r}",
            allowed="a CapabilityStatement of FHIR R4 (4.0.1)",
            action="check that the base URL names a FHIR R4 server, then retry the job",
        )
    try:
        listed = [
            one for rest in objects(statement, "rest") if rest.get("mode") == "server" for one in objects(rest, "resource")
        ]
        interactions = {str(one.get("type")): {i.get("code") for i in objects(one, "interaction")} for one in listed}
    except ValueError as error:
        raise PeerAnswerInvalid(
            found="a CapabilityStatement that is malformed",
            allowed="a CapabilityStatement as FHIR R4 defines it",
            action="look at the FHIR server, then retry the job",
        ) from error
    return frozenset(kind for kind, codes in interactions.items() if not codes or "search-type" in codes)
