"""Bundles that we send: the publication of our own resources, and their amendment. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from domain.errors import RequestInvalid

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


def publication_bundle(resources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a transaction that PUTs each resource under its own id, referenced ones first.

    The ids are the caller's and derive from the request, so a repeat changes nothing.

    Raises
    ------
    RequestInvalid
        If an id is missing, malformed or numeric only (HAPI refuses those), or two resources share a reference.

    References
    ----------
    FHIR R4 RESTful API, "batch/transaction", "update as create".
    """
    by_reference: dict[str, Mapping[str, Any]] = {}
    for resource in resources:
        reference = f"{_type(resource)}/{_client_id(resource)}"
        if reference in by_reference:
            raise _invalid("two resources with one type and id", "each resource once", "derive another id")
        by_reference[reference] = resource
    return _transaction([_put(reference, by_reference[reference]) for reference in _referenced_first(by_reference)])


def amendment_bundle(changed: Sequence[Mapping[str, Any]], added: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a transaction that changes resources as they were read, and PUTs new ones under their own ids after them.

    A resource that somebody else has changed since (by ``meta.versionId``, where the server gives one) makes the whole fail.

    References
    ----------
    FHIR R4 RESTful API, "Managing Resource Contention": a weak ETag in If-Match.
    """
    entries = []
    for resource in changed:
        entry = _put(f"{_type(resource)}/{resource['id']}", resource)
        meta = resource.get("meta")
        version = meta.get("versionId") if isinstance(meta, Mapping) else None
        if version:
            entry["request"]["ifMatch"] = f'W/"{version}"'
        entries.append(entry)
    return _transaction([*entries, *(_put(f"{_type(one)}/{_client_id(one)}", one) for one in added)])


def _client_id(resource: Mapping[str, Any]) -> str:
    identity, kind = resource.get("id"), resource["resourceType"]
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise _invalid(f"{kind} without a valid id", "1 to 64 letters, digits, - and .", "derive an id from the request")
    if identity.isdigit():
        allowed = "an id with a letter, since servers keep numbers for themselves"
        raise _invalid(f"{kind} with a numeric-only id", allowed, "derive an id from the request")
    return identity


def _referenced_first(resources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the references so that a resource comes after those that it refers to; a circle keeps the given order.

    Depth-first post-order over the references that the Bundle itself holds.
    """
    order: list[str] = []
    visited: set[str] = set()

    def visit(reference: str) -> None:
        if reference in visited:
            return
        visited.add(reference)
        for target in _references_in(resources[reference]):
            if target in resources:
                visit(target)
        order.append(reference)

    for reference in resources:
        visit(reference)
    return order


def _references_in(value: object) -> list[str]:
    if isinstance(value, Mapping):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for member in value.values() for found in _references_in(member)]
    if isinstance(value, list | tuple):
        return [found for member in value for found in _references_in(member)]
    return []


def _put(reference: str, resource: Mapping[str, Any]) -> dict[str, Any]:
    return {"resource": dict(resource), "request": {"method": "PUT", "url": reference}}


def _transaction(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _type(resource: Mapping[str, Any]) -> str:
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Z][A-Za-z]{1,63}", kind):
        raise _invalid("a resource without a resourceType", "a FHIR R4 resource", "name its type")
    return kind


def _invalid(found: str, allowed: str, action: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action=action)
