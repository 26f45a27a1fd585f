"""Bundles that we write: the publication of our own resources, and the intake of what a user posts. Pure."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from domain.errors import RequestInvalid
from fhir_adapter.json_text import canonical_json

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_URN_UUID = re.compile(r"urn:uuid:([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})")
_REST_URL = re.compile(r"https?://.+/([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})")
_TAKEN = frozenset({"transaction", "batch", "collection", "searchset"})
# FHIR R4 bundle-type: what is named in the refusal; a message or a document means more than the resources in it.
_OTHER_BUNDLES = frozenset({"document", "message", "history", "transaction-response", "batch-response"})
_CONTENT_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://veraicon.dev/intake")

# Elements that R5 has and R4 has not, by type: the two look alike, and an R5 resource read as R4 loses its meaning silently.
_R5_ONLY = {
    "Condition": ("participant",),
    "Consent": ("decision", "regulatoryBasis", "subject", "grantor", "grantee", "controller", "manager"),
    "Encounter": ("actualPeriod", "admission", "plannedStartDate", "virtualService"),
    "MedicationRequest": ("medication", "renderedDosageInstruction", "effectiveDosePeriod"),
    "MedicationStatement": ("medication", "renderedDosageInstruction", "relatedClinicalInformation", "adherence"),
    "Observation": ("triggeredBy", "instantiatesCanonical", "instantiatesReference", "bodyStructure"),
    "Procedure": ("occurrenceDateTime", "occurrencePeriod", "reportedBoolean", "recorded"),
    "DiagnosticReport": ("supportingInfo", "note", "composition"),
    "Provenance": ("basedOn", "authorization", "patient", "encounter"),
    "ServiceRequest": ("bodyStructure", "reason"),
}


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
        reference = f"{_type(resource, 'a resource')}/{_client_id(resource)}"
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
        entry = _put(f"{_type(resource, 'a resource')}/{resource['id']}", resource)
        meta = resource.get("meta")
        version = meta.get("versionId") if isinstance(meta, Mapping) else None
        if version:
            entry["request"]["ifMatch"] = f'W/"{version}"'
        entries.append(entry)
    return _transaction([*entries, *(_put(f"{_type(one, 'a resource')}/{_client_id(one)}", one) for one in added)])


def prepare_intake(posted: object) -> dict[str, Any]:
    """Turn what a user posts into a transaction for the store.

    Taken are Bundles of type transaction, batch, collection and searchset, and single resources. Each becomes a PUT under an id
    of its own, so that the same Bundle sent twice changes nothing: the resource's id where its URL is a server's, the UUID of a
    ``urn:uuid`` full URL, else an id derived from the content. A conditional create (``ifNoneExist``) stays a POST.

    Raises
    ------
    RequestInvalid
        If it is no FHIR R4 JSON: no resource, another Bundle type, entries without resources, elements that only R5 has.

    References
    ----------
    FHIR R4 Bundle.type, Bundle.entry.fullUrl.
    """
    if not isinstance(posted, Mapping):
        raise _invalid("JSON that is no object", "a FHIR R4 Bundle or resource", "send a resource as application/fhir+json")
    if _type(posted, "the body") != "Bundle":
        posted = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": posted}]}
    if posted.get("type") not in _TAKEN:
        named = posted.get("type") if posted.get("type") in _OTHER_BUNDLES else "unknown"
        raise _invalid(f"a Bundle of type {named}", ", ".join(sorted(_TAKEN)), "send the resources in one of these Bundles")
    entries = posted.get("entry")
    if not isinstance(entries, list) or not entries:
        raise _invalid("a Bundle without entries", "one entry or more", "put the resources into Bundle.entry")
    prepared = (_intake_entry(position, entry) for position, entry in enumerate(entries))
    return _transaction([entry for entry in prepared if entry is not None])


def prepare_entry(position: int, entry: object) -> dict[str, Any] | None:
    """Return one entry of a batch as a transaction of its own; None for what a searchset says about itself.

    Raises
    ------
    RequestInvalid
        See `prepare_intake`.
    """
    prepared = _intake_entry(position, entry)
    return None if prepared is None else _transaction([prepared])


def prepare_put(resource_type: str, resource_id: str, posted: object, *, only_version: str = "") -> dict[str, Any]:
    """Return the transaction that writes one resource under the id of its URL.

    Parameters
    ----------
    only_version : str
        ETag that must be held (``If-Match``); empty: any.

    Raises
    ------
    RequestInvalid
        If type or id differ from the URL's, or it is no FHIR R4 resource.

    References
    ----------
    FHIR R4 RESTful API, "update".
    """
    resource = _single(resource_type, posted)
    if not _ID.fullmatch(resource_id):
        raise _invalid("a malformed id in the URL", "1 to 64 letters, digits, - and .", "correct the URL")
    if resource.get("id") != resource_id:
        raise _invalid(f"{resource_type} whose id is not the URL's", "the same id in both", "correct the resource or the URL")
    entry = _put(f"{resource_type}/{resource_id}", resource)
    if only_version:
        entry["request"]["ifMatch"] = only_version
    return _transaction([entry])


def prepare_create(resource_type: str, posted: object, *, if_none_exist: str = "") -> dict[str, Any]:
    """Return the transaction that writes one resource under a new id, or nothing where `if_none_exist` finds one.

    Raises
    ------
    RequestInvalid
        If its type is not the URL's, or it is no FHIR R4 resource.

    References
    ----------
    FHIR R4 RESTful API, "create", "conditional create".
    """
    request = {"method": "POST", "url": resource_type} | ({"ifNoneExist": if_none_exist} if if_none_exist else {})
    return _transaction([{"resource": dict(_single(resource_type, posted)), "request": request}])


def _single(resource_type: str, posted: object) -> Mapping[str, Any]:
    if not isinstance(posted, Mapping):
        raise _invalid("a body that is no resource", f"{resource_type} as FHIR R4 JSON", "send one resource")
    if _type(posted, "the body") != resource_type:
        raise _invalid("a resource of another type than the URL's", resource_type, "correct the resource or the URL")
    _require_r4(resource_type, posted, 0)
    return posted


def _intake_entry(position: int, entry: object) -> dict[str, Any] | None:
    """Return one entry of the transaction; None for what a searchset says about itself."""
    if not isinstance(entry, Mapping):
        raise _invalid(f"entry {position} that is no object", "objects in Bundle.entry", "correct the Bundle")
    resource = entry.get("resource")
    if not isinstance(resource, Mapping):
        raise _invalid(f"entry {position} without a resource", "a resource in each entry", "take the entry out")
    kind = _type(resource, f"entry {position}")
    if kind == "OperationOutcome":
        return None
    if kind in ("Bundle", "Parameters"):
        raise _invalid(f"{kind} in entry {position}", "resources of a patient's record", "send what is inside it")
    _require_r4(kind, resource, position)
    request = entry.get("request")
    request = request if isinstance(request, Mapping) else {}
    if request.get("method", "PUT") not in ("PUT", "POST"):
        raise _invalid(f"entry {position} that does not write", "POST or PUT", "take the entry out")
    full_url = entry.get("fullUrl") if isinstance(entry.get("fullUrl"), str) else None
    if request.get("ifNoneExist") is not None:
        kept = {"method": "POST", "url": kind, "ifNoneExist": request["ifNoneExist"]}
        return {**({"fullUrl": full_url} if full_url else {}), "resource": resource, "request": kept}
    identity = _intake_id(kind, resource, full_url, position)
    put = _put(f"{kind}/{identity}", {**resource, "id": identity})
    return {"fullUrl": full_url, **put} if full_url else put


def _intake_id(kind: str, resource: Mapping[str, Any], full_url: str | None, position: int) -> str:
    urn = _URN_UUID.fullmatch(full_url or "")
    if urn is not None:
        return urn[1].lower()
    identity = resource.get("id")
    if identity is not None:
        if not isinstance(identity, str) or not _ID.fullmatch(identity):
            raise _invalid(f"entry {position} with a malformed id", "1 to 64 letters, digits, - and .", "correct the id")
        rest = _REST_URL.fullmatch(full_url or "")
        if rest is not None and (rest[1], rest[2]) != (kind, identity):
            raise _invalid(f"entry {position} whose fullUrl and id differ", "the same id in both", "correct the Bundle")
        return identity
    try:
        digest = hashlib.sha256(canonical_json(resource)).hexdigest()
    except ValueError as error:
        raise _invalid(f"entry {position} with a number outside the doubles", "JSON numbers", "correct the resource") from error
    return str(uuid.uuid5(_CONTENT_IDS, digest))


def _require_r4(kind: str, resource: Mapping[str, Any], position: int) -> None:
    for name in _R5_ONLY.get(kind, ()):
        if name in resource:
            raise _invalid(f"{kind}.{name} in entry {position}, which only FHIR R5 has", "FHIR R4 (4.0.1)", "send R4 resources")


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


def _type(resource: Mapping[str, Any], where: str) -> str:
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Z][A-Za-z]{1,63}", kind):
        raise _invalid(f"{where} without a resourceType", "a FHIR R4 resource", "send a resource as application/fhir+json")
    return kind


def _invalid(found: str, allowed: str, action: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action=action)
