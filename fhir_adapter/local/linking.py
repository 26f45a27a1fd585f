"""The references of a resource as a walk over it, and which service a full URL belongs to. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

# Elements of type uri and url that a server rewrites with the references (FHIR R4 RESTful API, "transaction").
_LINKING = frozenset({"reference", "url", "uri", "valueUri", "valueUrl"})
_REST_URL = re.compile(r"(https?://.+)/([A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")


def relinked(value: Any, change: Callable[[str, str], str]) -> Any:
    """Return `value` with each reference and link in it replaced by what `change` makes of its element's name and text."""
    if isinstance(value, Mapping):
        return {
            name: change(name, member) if name in _LINKING and isinstance(member, str) else relinked(member, change)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [relinked(member, change) for member in value]
    return value


def service_of(full_url: object) -> str:
    """Return the base URL of the service that a full URL is of; empty where it is no ``http(s)://base/Type/id``.

    Examples
    --------
    >>> service_of("http://server/fhir/Patient/a"), service_of("urn:uuid:0d6c34a6-7f2e-4cf5-9a0e-6f3c6f9b2a11")
    ('http://server/fhir', '')
    """
    matched = _REST_URL.fullmatch(full_url) if isinstance(full_url, str) else None
    return matched[1] if matched else ""


def relative_to(reference: str, services: Collection[str]) -> str:
    """Return a reference below one of `services` as ``Type/id``; another server's stays as it is.

    Examples
    --------
    >>> relative_to("http://us/fhir/Patient/a", {"http://us/fhir"}), relative_to("http://them/fhir/Patient/a", {"http://us/fhir"})
    ('Patient/a', 'http://them/fhir/Patient/a')
    """
    matched = _REST_URL.fullmatch(reference)
    return matched[2] if matched is not None and matched[1] in services else reference
