"""The transparency log over HTTP, open to all: nothing but digests, times and public keys is in it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from domain.errors import RequestInvalid
from provenance.log_proof import hash_text, head_to_json, proof_to_json
from veraicon.wiring import Site

_MAX_PAGE = 1000
_MAX_NUMBER = 2**31 - 1  # what the database counts with


def router(site: Site) -> APIRouter:
    """Return the routes below /log. Numbers are taken as text, so that a bad one is answered as every error of ours is."""
    routes = APIRouter()

    @routes.get("/head")
    def head() -> dict[str, Any]:
        """Give the newest signed tree head."""
        return head_to_json(site.log.head())

    @routes.get("/entries")
    def entries(start: str = "0", end: str = "") -> dict[str, Any]:
        """Give the entries from `start` to before `end`, at most 1,000 of them."""
        first = _number("start", start)
        last = min(_number("end", end) if end else _MAX_NUMBER, first + _MAX_PAGE)
        if last < first:
            raise _bad("start", start)
        return {"start": first, "entries": site.log.entries(first, last)}

    @routes.get("/proof")
    def proof(index: str = "", size: str = "") -> dict[str, Any]:
        """Prove that entry `index` is in the tree of `size` entries; without a size in the newest."""
        return proof_to_json(site.log.prove(_number("index", index), _number("size", size) if size else None))

    @routes.get("/consistency")
    def consistency(first: str = "", second: str = "") -> dict[str, Any]:
        """Prove that the tree of `first` entries is the beginning of that of `second`."""
        early, late = _number("first", first), _number("second", second)
        path = site.log.consistency(early, late)
        return {"first": early, "second": late, "consistency": [hash_text(one) for one in path]}

    return routes


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > _MAX_NUMBER:
        raise _bad(name, text)
    return int(text)


def _bad(name: str, text: str) -> RequestInvalid:
    return RequestInvalid(
        found=f"the parameter {name} with {text[:20]!r}",
        allowed="whole numbers from 0 on; entries, and trees, are counted from the oldest",
        action="correct the parameter",
    )
