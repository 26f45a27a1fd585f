"""Which SMART scope a FHIR request needs, and whether granted ones cover it: for our requests and those of others. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fhir_adapter.search import entries

_SCOPE = re.compile(r"(?:system|user)/([A-Z][A-Za-z]+|\*)\.(read|write|\*|c?r?u?d?s?)(?:\?.*)?")
_TYPE = re.compile(r"[A-Z][A-Za-z]+")
# SMART App Launch 1.0 wrote these; 2.x asks servers to go on taking them.
_OF_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}
_BY_METHOD = {"PUT": "u", "PATCH": "u", "DELETE": "d"}


def scope_needed(method: str, path: str) -> str:
    """Return the scope of one interaction; empty where none is needed.

    Parameters
    ----------
    method : str
        HTTP method.
    path : str
        Path below the service base, without a slash in front; a query is ignored.

    References
    ----------
    SMART App Launch 2.2, "Scopes for requesting FHIR resources": create, read, update, delete, search.

    Examples
    --------
    >>> scope_needed("PUT", "Provenance/a"), scope_needed("POST", "Patient/_search"), scope_needed("GET", "Patient/a/_history")
    ('system/Provenance.u', 'system/Patient.s', 'system/Patient.r')
    >>> scope_needed("GET", "metadata"), scope_needed("GET", "?_getpages=1"), scope_needed("POST", "$generate")
    ('', '', 'system/*.cruds')
    """
    parts = [part for part in path.partition("?")[0].split("/") if part]
    if not parts or not _TYPE.fullmatch(parts[0]):
        return "system/*.cruds" if method != "GET" and parts else ""
    return f"system/{parts[0]}.{_BY_METHOD.get(method) or _reading(method, parts)}"


def _reading(method: str, parts: list[str]) -> str:
    if len(parts) == 1:
        return "c" if method == "POST" else "s"
    return "s" if parts[1] == "_search" else "r"


def scopes_of_bundle(bundle: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes that a batch or a transaction needs, each once, in order of its entries."""
    requests = [entry.get("request") for entry in entries(bundle)]
    needed = [
        scope_needed(str(request.get("method", "")), str(request.get("url", "")))
        for request in requests
        if isinstance(request, Mapping)
    ]
    return tuple(dict.fromkeys(scope for scope in needed if scope))


def missing_scopes(granted: Iterable[str], needed: Iterable[str]) -> tuple[str, ...]:
    """Return those scopes of `needed` that `granted` does not cover.

    Examples
    --------
    >>> missing_scopes(["system/*.rs", "system/Task.cu"], ["system/Patient.r", "system/Task.u", "system/Provenance.c"])
    ('system/Provenance.c',)
    >>> missing_scopes(["system/*.read"], ["system/Patient.s"])
    ()
    """
    held = [scope for text in granted if (scope := _parsed(text)) is not None]
    return tuple(text for text in needed if not _covered(text, held))


def _parsed(text: str) -> tuple[str, frozenset[str]] | None:
    """Return type and letters of a scope; a scope that is narrowed by a query is none: it does not cover the whole type."""
    matched = _SCOPE.fullmatch(text)
    if matched is None or "?" in text or not text.startswith("system/"):
        return None
    return matched[1], frozenset(_OF_VERSION_1.get(matched[2], matched[2]))


def _covered(text: str, held: list[tuple[str, frozenset[str]]]) -> bool:
    wanted = _parsed(text)
    if wanted is None:
        return False
    letters = {letter for kind, letters in held if kind in ("*", wanted[0]) for letter in letters}
    return wanted[1] <= letters
