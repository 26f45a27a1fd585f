"""A transaction Bundle as a list of writes with every reference resolved. Pure over two look-ups that the store gives."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from domain.errors import RequestInvalid
from fhir_adapter.local.index import known_parameters
from fhir_adapter.local.linking import relative_to, relinked, service_of
from fhir_adapter.search import require_resource_type, split_reference

_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?(.+)")
_ETAG = re.compile(r'(?:W/)?"([A-Za-z0-9\-.]{1,64})"')

Find = Callable[[str, Sequence[tuple[str, str]]], Sequence[str]]
"""Resource type and parameters -> the references that match; at most two are needed."""


@dataclass(frozen=True, slots=True)
class Write:
    """One resource to be stored under ``Type/id``.

    Attributes
    ----------
    body : mapping or None
        None means that it is there already (``ifNoneExist``).
    only_version : str
        ``meta.versionId`` that must be held now (``ifMatch``); empty for any, or none.
    only_new : bool
        Whether nothing else may be held under the reference (``ifNoneMatch`` of ``*``); the same content may.
    """

    reference: str
    body: Mapping[str, Any] | None
    only_version: str = ""
    only_new: bool = False


def plan(
    bundle: Mapping[str, Any], find: Find, *, base_url: str = "", new_id: Callable[[], str] = lambda: str(uuid.uuid4())
) -> list[Write]:
    """Return the writes of a transaction Bundle, in its order.

    POST gets a new id, or the existing resource where ``ifNoneExist`` matches one; PUT keeps the id of its URL. References by
    ``fullUrl`` are resolved within the Bundle, conditional references (``Practitioner?identifier=...``) in the Bundle and the
    store. A reference that leads nowhere is kept as it is: a patient's Bundle loads without the hospital's. An absolute
    reference is ours below `base_url` only; below another it stays that server's.

    Raises
    ------
    RequestInvalid
        If the Bundle is no transaction, an entry is malformed or asks for something else than POST and PUT, two entries write
        one resource, or a condition matches several.

    References
    ----------
    FHIR R4 RESTful API, "batch/transaction", "conditional create"; Bundle, "Resolving references in Bundles".
    """
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "transaction":
        raise _invalid("something else than a transaction Bundle", "a Bundle of type transaction")
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise _invalid("an entry that is no list", "a list of entries")
    writes = [_target(position, entry, find, new_id) for position, entry in enumerate(entries)]
    _require_distinct(writes)
    resolver = _Resolver(_full_urls(entries, writes), writes, find, base_url)
    return [
        write if write.body is None else replace(write, body=resolver.rewrite(write.body, service_of(entry.get("fullUrl"))))
        for entry, write in zip(entries, writes, strict=True)
    ]


def _full_urls(entries: Sequence[Mapping[str, Any]], writes: Sequence[Write]) -> dict[str, str]:
    """Return what each full URL stands for in the Bundle."""
    resolved: dict[str, str] = {}
    for entry, write in zip(entries, writes, strict=True):
        full_url = entry.get("fullUrl")
        if not isinstance(full_url, str):
            continue
        if resolved.setdefault(full_url, write.reference) != write.reference:
            raise _invalid("two entries of one fullUrl", "a fullUrl of its own for each resource")
    return resolved


def _target(position: int, entry: object, find: Find, new_id: Callable[[], str]) -> Write:
    """Return where one entry is written, with its body as it came."""
    resource = entry.get("resource") if isinstance(entry, Mapping) else None
    request = entry.get("request") if isinstance(entry, Mapping) else None
    if not isinstance(resource, Mapping) or not isinstance(request, Mapping):
        raise _invalid(f"entry {position} without a resource or a request", "both in each entry")
    kind = resource.get("resourceType")
    method, url = request.get("method"), request.get("url")
    if not isinstance(kind, str) or not isinstance(url, str):
        raise _invalid(f"entry {position} without resourceType or request.url", "both in each entry")
    require_resource_type(kind)
    condition = request.get("ifMatch")
    version = _ETAG.fullmatch(condition) if isinstance(condition, str) else None
    if condition is not None and (version is None or method != "PUT"):
        raise _invalid(f"ifMatch in entry {position} that cannot be read", 'a weak ETag such as W/"3", with PUT')
    if method == "POST" and url == kind:
        return _created(position, resource, request.get("ifNoneExist"), find, new_id)
    absent = request.get("ifNoneMatch")
    if absent is not None and (absent != "*" or method != "PUT"):
        raise _invalid(f"ifNoneMatch in entry {position} that is not offered", "*, with PUT")
    if method == "PUT" and split_reference(url) == (kind, resource.get("id")):
        return Write(url, resource, version[1] if version else "", only_new=absent is not None)
    raise _invalid(
        f"entry {position} whose method and URL do not fit its resource",
        "POST with the resource's type, or PUT with its type and id",
    )


def _created(position: int, resource: Mapping[str, Any], condition: object, find: Find, new_id: Callable[[], str]) -> Write:
    kind = str(resource["resourceType"])
    if condition is not None:
        asked = parse_qsl(condition.removeprefix(f"{kind}?"), keep_blank_values=True) if isinstance(condition, str) else []
        if not any(name in known_parameters(kind) - {"_count"} for name, _ in asked):
            raise _invalid(f"ifNoneExist in entry {position} that looks for nothing", "search parameters that the store knows")
        existing = find(kind, asked)
        if len(existing) > 1:
            raise _invalid(f"several matches of ifNoneExist in entry {position}", "none or one")
        if existing:
            return Write(existing[0], None)
    identity = new_id()
    return Write(f"{kind}/{identity}", {**resource, "id": identity})


def _require_distinct(writes: Sequence[Write]) -> None:
    written = [write.reference for write in writes if write.body is not None]
    if len(set(written)) != len(written):
        raise _invalid("two entries that write the same resource", "each resource once")


class _Resolver:
    """Rewrites references in bodies; remembers conditional references, of which Synthea repeats each a hundred times."""

    def __init__(self, resolved: Mapping[str, str], writes: Sequence[Write], find: Find, base_url: str) -> None:
        self._resolved = dict(resolved)
        self._identifiers = _identifiers(writes)
        self._find, self._ours = find, {base_url} - {""}

    def rewrite(self, body: Mapping[str, Any], service: str) -> Any:
        """Return `body` with each reference that can be resolved replaced; a relative one is first one of its own `service`."""
        return relinked(body, lambda name, text: self._resolve(name, text, service))

    def _resolve(self, name: str, reference: str, service: str) -> str:
        bare, mark, fragment = reference.partition("#")
        if service and f"{service}/{bare}" in self._resolved:
            bare = f"{service}/{bare}"
        if bare not in self._resolved and _CONDITIONAL.fullmatch(bare):
            self._resolved[bare] = self._conditional(bare)
        if bare in self._resolved:
            return f"{self._resolved[bare]}{mark}{fragment}"
        # A url may be a canonical one, which is a name and no place.
        return relative_to(reference, self._ours) if name == "reference" else reference

    def _conditional(self, reference: str) -> str:
        kind, query = reference.split("?", 1)
        asked = parse_qsl(query, keep_blank_values=True)
        within = self._identifiers.get((kind, asked[0][1])) if [name for name, _ in asked] == ["identifier"] else None
        found = within or self._find(kind, asked)
        if len(set(found)) > 1:
            raise _invalid(f"a conditional reference to {kind} with several matches", "one match, or none")
        return found[0] if found else reference


def _identifiers(writes: Sequence[Write]) -> dict[tuple[str, str], list[str]]:
    """Return references by type and ``system|value`` of everything that the Bundle itself writes."""
    found: dict[tuple[str, str], list[str]] = {}
    for write in writes:
        stated = (write.body or {}).get("identifier")
        for item in stated if isinstance(stated, list) else []:
            if isinstance(item, Mapping):
                key = (write.reference.split("/")[0], f"{item.get('system', '')}|{item.get('value', '')}")
                found.setdefault(key, []).append(write.reference)
    return found


def _invalid(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct the Bundle; nothing of it was stored")
