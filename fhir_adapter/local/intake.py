"""What a user posts as a transaction for the store. Pure."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

from domain.errors import RequestInvalid
from fhir_adapter.json_text import canonical_json
from fhir_adapter.local.linking import relative_to, relinked, service_of
from fhir_adapter.local.r4_only import r5_element
from fhir_adapter.resource_types import STORED_TYPES

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_ID_RULE = "1 to 64 letters, digits, - and ."
_URN_UUID = re.compile(r"urn:uuid:([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})")
# Bundles that say what to do with each entry, and Bundles that hold what another place has under its ids.
_ASKING, _HOLDING = frozenset({"transaction", "batch"}), frozenset({"collection", "searchset"})
# FHIR R4 bundle-type: what is named in the refusal; a message or a document means more than the resources in it.
_OTHER_BUNDLES = frozenset({"document", "message", "history", "transaction-response", "batch-response"})
_CONTENT_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "https://veraicon.dev/intake")

Json = dict[str, Any]


def prepare_intake(posted: object) -> Json:
    """Turn what a user posts into a transaction for the store.

    A transaction does what its entries ask: PUT under the id of the URL, with ``ifMatch``; POST under a new id, with
    ``ifNoneExist``. A new id is the UUID of a ``urn:uuid`` full URL, else derives from the content, so a Bundle sent twice
    changes nothing, and never replaces what is held. A collection, a searchset or a single resource is kept under its own ids.

    Raises
    ------
    RequestInvalid
        If it is no FHIR R4 JSON: no resource, another Bundle type, entries without resources, elements that only R5 has; or if
        an entry asks for what is not offered.

    References
    ----------
    FHIR R4 Bundle.type, Bundle.entry.fullUrl, Bundle.entry.request; RESTful API, "transaction".
    """
    if not isinstance(posted, Mapping):
        raise _invalid("JSON that is no object", "a FHIR R4 Bundle or resource", "send a resource as application/fhir+json")
    if _type(posted, "the body") != "Bundle":
        posted = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": posted}]}
    kind = posted.get("type")
    if not isinstance(kind, str) or kind not in _ASKING | _HOLDING:
        named = kind if isinstance(kind, str) and kind in _OTHER_BUNDLES else "unknown"
        allowed = ", ".join(sorted(_ASKING | _HOLDING))
        raise _invalid(f"a Bundle of type {named}", allowed, "send the resources in one of these Bundles")
    entries = posted.get("entry")
    if not isinstance(entries, list) or not entries:
        raise _invalid("a Bundle without entries", "one entry or more", "put the resources into Bundle.entry")
    prepare = _asked if kind in _ASKING else _kept
    prepared = (prepare(position, entry) for position, entry in enumerate(entries))
    return _transaction([entry for entry in prepared if entry is not None])


def prepare_entry(position: int, entry: object) -> Json:
    """Return one entry of a batch as a transaction of its own.

    Raises
    ------
    RequestInvalid
        See `prepare_intake`.
    """
    return _transaction([_asked(position, entry)])


def prepare_put(resource_type: str, resource_id: str, posted: object, *, only_version: str = "") -> Json:
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
        raise _invalid("a malformed id in the URL", _ID_RULE, "correct the URL")
    if resource.get("id") != resource_id:
        raise _invalid(f"{resource_type} whose id is not the URL's", "the same id in both", "correct the resource or the URL")
    return _transaction([_put(f"{resource_type}/{resource_id}", resource, ifMatch=only_version or None)])


def prepare_create(resource_type: str, posted: object, *, if_none_exist: str = "") -> Json:
    """Return the transaction that writes one resource under a new id, or nothing where `if_none_exist` finds one.

    Raises
    ------
    RequestInvalid
        If its type is not the URL's, or it is no FHIR R4 resource.

    References
    ----------
    FHIR R4 RESTful API, "create", "conditional create".
    """
    return _transaction([_post(dict(_single(resource_type, posted)), if_none_exist or None)])


def _single(resource_type: str, posted: object) -> Mapping[str, Any]:
    if not isinstance(posted, Mapping):
        raise _invalid("a body that is no resource", f"{resource_type} as FHIR R4 JSON", "send one resource")
    if _type(posted, "the body") != resource_type:
        raise _invalid("a resource of another type than the URL's", resource_type, "correct the resource or the URL")
    _require_r4(resource_type, posted, 0)
    return posted


def _asked(position: int, entry: object) -> Json:
    """Return an entry as its request asks."""
    fields = _fields(position, entry)
    kind, resource = _resource(position, fields)
    request = fields.get("request")
    if not isinstance(request, Mapping):
        raise _invalid(
            f"entry {position} without a request", "method and URL in each entry", "say what to do, or send a collection"
        )
    method, url = request.get("method"), request.get("url")
    others = sorted({"ifModifiedSince", "ifNoneMatch"} & set(request))
    if method not in ("PUT", "POST") or others:
        asked = f" with {others[0]}" if others else " that does not write"
        raise _invalid(f"entry {position}{asked}", "POST with ifNoneExist, PUT with ifMatch", "take the entry out")
    if method == "POST":
        wrong = url != kind or "ifMatch" in request
        prepared = {} if wrong else _created(position, kind, resource, fields.get("fullUrl"), request.get("ifNoneExist"))
    else:
        wrong = url != f"{kind}/{resource.get('id')}" or not _ID.fullmatch(str(resource.get("id"))) or "ifNoneExist" in request
        prepared = _put(f"{kind}/{resource.get('id')}", resource, ifMatch=request.get("ifMatch"))
    if wrong:
        raise _invalid(
            f"entry {position} whose method and URL do not fit its resource",
            "POST with its type and perhaps ifNoneExist, or PUT with its type and id and perhaps ifMatch",
            "correct the request, or the resource",
        )
    return _under(fields, prepared)


def _created(position: int, kind: str, resource: Mapping[str, Any], full_url: object, condition: object) -> Json:
    """Return a create: the id in the resource says nothing about the one that it gets (FHIR R4 RESTful API, "create")."""
    if condition is not None:
        return _post(resource, condition)
    identity = _uuid_of(full_url) or _content_id(position, [resource, full_url])
    return _put(f"{kind}/{identity}", {**resource, "id": identity}, ifNoneMatch="*")


def _kept(position: int, entry: object) -> Json | None:
    """Return an entry under the id that it has where it comes from; None for what a searchset says about itself."""
    fields = _fields(position, entry)
    held = fields.get("resource")
    if isinstance(held, Mapping) and held.get("resourceType") == "OperationOutcome":
        return None
    kind, resource = _resource(position, fields)
    full_url, identity = fields.get("fullUrl"), resource.get("id")
    service = service_of(full_url)
    if identity is not None and (not isinstance(identity, str) or not _ID.fullmatch(identity)):
        raise _invalid(f"entry {position} with a malformed id", _ID_RULE, "correct the id")
    if service and identity and relative_to(str(full_url), {service}) != f"{kind}/{identity}":
        raise _invalid(f"entry {position} whose fullUrl and id differ", "the same id in both", "correct the Bundle")
    if service:
        # Its ids become ours, so what it calls absolutely by its own base is meant by the same ids here.
        own = {service}
        resource = relinked(resource, lambda name, text: relative_to(text, own) if name == "reference" else text)
    identity = _uuid_of(full_url) or identity or _content_id(position, resource)
    return _under(fields, _put(f"{kind}/{identity}", {**resource, "id": identity}))


def _fields(position: int, entry: object) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise _invalid(f"entry {position} that is no object", "objects in Bundle.entry", "correct the Bundle")
    return entry


def _resource(position: int, entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return an entry's resource and its type, which is one that is stored here."""
    resource = entry.get("resource")
    if not isinstance(resource, Mapping):
        raise _invalid(f"entry {position} without a resource", "a resource in each entry", "take the entry out")
    kind = _type(resource, f"entry {position}")
    if kind not in STORED_TYPES:
        # Only a word of the specification is repeated; anything else may be what somebody typed.
        named = kind if kind in ("Bundle", "Parameters", "OperationOutcome") else "no type of FHIR R4 that is stored"
        raise _invalid(
            f"{named} in entry {position}", "the types of GET /fhir/metadata", "send what is inside it, or leave it out"
        )
    _require_r4(kind, resource, position)
    return kind, resource


def _require_r4(kind: str, resource: Mapping[str, Any], position: int) -> None:
    if name := r5_element(kind, resource):
        raise _invalid(f"{kind}.{name} in entry {position} as only FHIR R5 has it", "FHIR R4 (4.0.1)", "send R4 resources")


def _uuid_of(full_url: object) -> str:
    urn = _URN_UUID.fullmatch(full_url) if isinstance(full_url, str) else None
    return urn[1].lower() if urn else ""


def _content_id(position: int, content: object) -> str:
    try:
        digest = hashlib.sha256(canonical_json(content)).hexdigest()
    except ValueError as error:
        found = f"entry {position} with a value that JSON cannot carry between programs"
        raise _invalid(found, "numbers inside the doubles and whole characters", "correct the resource") from error
    return str(uuid.uuid5(_CONTENT_IDS, digest))


def _under(entry: Mapping[str, Any], prepared: Json) -> Json:
    full_url = entry.get("fullUrl")
    return {"fullUrl": full_url, **prepared} if isinstance(full_url, str) and full_url else prepared


def _put(reference: str, resource: Mapping[str, Any], **conditions: object) -> Json:
    given = {name: value for name, value in conditions.items() if value is not None}
    return {"resource": dict(resource), "request": {"method": "PUT", "url": reference, **given}}


def _post(resource: Mapping[str, Any], condition: object) -> Json:
    given = {} if condition is None else {"ifNoneExist": condition}
    return {"resource": resource, "request": {"method": "POST", "url": resource["resourceType"], **given}}


def _transaction(entries: list[Json]) -> Json:
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _type(resource: Mapping[str, Any], where: str) -> str:
    kind = resource.get("resourceType")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Z][A-Za-z]{1,63}", kind):
        raise _invalid(f"{where} without a resourceType", "a FHIR R4 resource", "send a resource as application/fhir+json")
    return kind


def _invalid(found: str, allowed: str, action: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action=action)
