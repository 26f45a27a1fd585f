"""What our FHIR service can do, as a CapabilityStatement: from the calls that it answers and what its store searches. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_adapter.local.index import known_parameters, parameter_kind
from fhir_adapter.ordering import generate_operation
from fhir_adapter.resource_types import STORED_TYPES

Json = dict[str, Any]

CANONICAL = "https://veraicon.dev/fhir/CapabilityStatement/veraicon"
SORTED_BY = ("_id", "_lastUpdated", "-_lastUpdated")

# FHIR R4 value sets type-restful-interaction and system-restful-interaction, by the call as http.html writes it.
_OF_TYPE = {
    ("GET", "/{resource_type}/{resource_id}"): "read",
    ("PUT", "/{resource_type}/{resource_id}"): "update",
    ("POST", "/{resource_type}"): "create",
    ("GET", "/{resource_type}"): "search-type",
    ("POST", "/{resource_type}/_search"): "search-type",
}
_OF_SYSTEM = {("POST", ""): ("transaction", "batch")}
_GENERATE = "$generate"
# Calls that stand in a CapabilityStatement by themselves, or are a second spelling of another.
_UNSAID = frozenset({"/metadata", "/", "/OperationDefinition/generate", "/.well-known/smart-configuration"})
# Search parameters that shape the answer, and choose nothing.
_SHAPING = frozenset({"_count"})


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the service answers: method, and path below its base with names in braces."""

    method: str
    path: str


def capability_statement(calls: Iterable[Call], *, base_url: str, software_version: str, built: datetime, store: bool) -> Json:
    """Return the CapabilityStatement.

    Parameters
    ----------
    calls : iterable of Call
        Everything that the service answers.
    base_url : str
        Where it answers.
    software_version : str
    built : datetime
        When what it can do was last changed; aware.
    store : bool
        Whether the service holds resources of its own; without, only operations are offered.

    Raises
    ------
    ValueError
        If a call has no place in a CapabilityStatement: whoever adds one says here what it is.

    References
    ----------
    FHIR R4 CapabilityStatement; http.html.
    """
    known = {(call.method, call.path) for call in calls}
    unplaced = {key for key in known if not _placed(*key)}
    if unplaced:
        raise ValueError(f"calls without a place in the CapabilityStatement: {sorted(unplaced)}")
    return {
        "resourceType": "CapabilityStatement",
        "url": CANONICAL,
        "name": "Veraicon",
        "title": "FHIR service of Veraicon",
        "status": "active",
        "date": built.isoformat(),
        "kind": "instance",
        "software": {"name": "Veraicon", "version": software_version},
        "implementation": {"description": "Synthetic images and their provenance", "url": base_url},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [_rest(known, store=store)],
    }


def _placed(method: str, path: str) -> bool:
    return path in _UNSAID or (method, path) in _OF_TYPE or (method, path) in _OF_SYSTEM or path.endswith(f"/{_GENERATE}")


def _rest(known: set[tuple[str, str]], *, store: bool) -> Json:
    kinds = sorted(STORED_TYPES) if store else sorted(_operation_types(known) | {"OperationDefinition"})
    rest: Json = {
        "mode": "server",
        "documentation": "Only current versions are held. Entries of a batch and a transaction write; reads are calls of their "
        "own. A search parameter that is not listed is refused, unless the call says Prefer: handling=lenient.",
        "resource": [_resource(kind, known, store=store) for kind in kinds],
        "operation": [{"name": "generate", "definition": generate_operation.CANONICAL}],
    }
    system = [code for key, codes in _OF_SYSTEM.items() if key in known for code in codes]
    return {**rest, "interaction": [{"code": code} for code in system]} if store else rest


def _resource(kind: str, known: set[tuple[str, str]], *, store: bool) -> Json:
    told: Json = {"type": kind}
    if store:
        codes = list(dict.fromkeys(code for key, code in _OF_TYPE.items() if key in known))
        told |= {
            "interaction": [{"code": code} for code in codes],
            "versioning": "versioned-update",
            "readHistory": False,
            "updateCreate": True,
            "conditionalCreate": True,
            "conditionalRead": "not-match",
            "conditionalUpdate": False,
            "conditionalDelete": "not-supported",
            "searchParam": [{"name": name, "type": parameter_kind(name)} for name in sorted(known_parameters(kind) - _SHAPING)],
        }
    elif kind == "OperationDefinition":
        told |= {"interaction": [{"code": "read"}]}
    if kind in _operation_types(known):
        told |= {"operation": [{"name": "generate", "definition": generate_operation.CANONICAL}]}
    return told


def _operation_types(known: set[tuple[str, str]]) -> set[str]:
    paths = [path for _, path in known if path.endswith(f"/{_GENERATE}")]
    return {path.split("/")[1] for path in paths if path.count("/") > 1}
