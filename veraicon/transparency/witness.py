"""The monitor's role: keeps a tree head of a log, and finds out whether the log has only grown since.

What is kept is one file with the last head and the keys that are trusted: it belongs outside the site, with somebody who does
not run it. A successor of a key is trusted where a trusted key names it in the log.

References
----------
RFC 6962 sections 5.3 and 5.4: monitors and auditors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable, RequestInvalid, VerificationFailed
from provenance.canonical import canonical_json, sha256_digest
from provenance.digesting.merkle import Frontier, leaf_hash, require_consistent
from provenance.log_proof import KEY_ENTRY, TreeHead, claimed_head, head_to_json, parse_hashes, verified_head
from provenance.signatures.keyring import with_successor, without_times
from veraicon.artifacts import BYTES, save
from veraicon.files import read_json

if TYPE_CHECKING:  # a witness needs no database
    from veraicon.transparency.log import TransparencyLog

VERSION = "veraicon-witness/1"
PAGE = 1000
_TIMEOUT_S = 30.0

Json = Mapping[str, Any]


class LogSource(Protocol):
    """A log as somebody outside sees it. What it gives is checked, never believed."""

    def head(self) -> str:
        """Return the JWS of its present tree head."""

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """Return its proof that the tree of `first` entries is the beginning of that of `second`."""

    def inclusion(self, index: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Return an entry, and its audit path in the tree of `size` entries."""

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        """Return up to `PAGE` entries from `start` to before `end`."""

    def keys(self) -> Json:
        """Return the JWK Set that it publishes."""


class LocalSource:
    """The log in our own database."""

    def __init__(self, log: TransparencyLog, keys: Json) -> None:
        self._log, self._keys = log, keys

    def head(self) -> str:
        """See `LogSource`."""
        return self._log.head().jws

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """See `LogSource`."""
        return self._log.consistency(first, second)

    def inclusion(self, index: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """See `LogSource`."""
        proof = self._log.prove(index, size)
        return proof.entry, proof.path

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        """See `LogSource`."""
        return self._log.entries(start, min(end, start + PAGE))

    def keys(self) -> Json:
        """See `LogSource`."""
        return self._keys


class HttpSource:
    """The log of a site, over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def head(self) -> str:
        """See `LogSource`."""
        return str(self._get("/log/head")["jws"])

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """See `LogSource`."""
        return parse_hashes(self._get("/log/consistency", first=first, second=second)["consistency"])

    def inclusion(self, index: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """See `LogSource`."""
        proof = self._get("/log/proof", index=index, size=size)
        return canonical_json(proof["entry"]), parse_hashes(proof["path"])

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        """See `LogSource`."""
        return list(self._get("/log/entries", start=start, end=min(end, start + PAGE))["entries"])

    def keys(self) -> Json:
        """See `LogSource`."""
        return self._get("/.well-known/jwks.json")

    def _get(self, path: str, **parameters: int) -> dict[str, Any]:
        try:
            answer = httpx.get(f"{self._url}{path}", params=parameters, timeout=_TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PeerUnreachable(
                found=f"no answer from the log's address ({type(error).__name__})",
                allowed="the HTTP address of a site",
                action="check --url and the network, then try again",
            ) from error
        if not answer.is_success:
            raise PeerRefused(
                found=f"HTTP status {answer.status_code} for {path}",
                allowed="an answer of the log",
                action="a log that no longer holds what was kept of it is to be asked about at its site",
            )
        try:
            content = answer.json()
        except ValueError as error:
            raise _unreadable(path) from error
        if not isinstance(content, dict):
            raise _unreadable(path)
        return content


@dataclass(frozen=True, slots=True)
class Kept:
    """What a witness keeps: the JWS of a tree head, and the keys that he trusts; None: not known yet."""

    head: str
    keys: Json | None

    @classmethod
    def read(cls, path: Path) -> Kept:
        """Return what a file keeps: one that `write` made, or the answer of ``/log/head``.

        Raises
        ------
        RequestInvalid
            If it is neither.
        """
        content = read_json(path)
        head, keys = content.get("head", content.get("jws")), content.get("keys")
        if not isinstance(head, str) or not (keys is None or isinstance(keys, dict)):
            raise RequestInvalid(
                found=f"{path.name}, which keeps no tree head",
                allowed="a file that `veraicon log witness` wrote, or the answer of /log/head",
                action="name such a file",
            )
        return cls(head, keys)

    def write(self, path: Path) -> None:
        """Keep it, whole or not at all."""
        content = {"version": VERSION, "head": self.head, "keys": self.keys}
        save(path, BYTES, json.dumps(content, indent=1).encode())


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a witness found: the head that was kept, the present one, and the keys that are trusted now."""

    before: TreeHead | None
    now: TreeHead
    keys: Json

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"log": self.now.log_id, "before": self.before.size if self.before else None, **head_to_json(self.now)}


def witness(kept: Kept | None, source: LogSource, keys: Json | None = None) -> Witnessed:
    """Verify that a log has only grown since a head was kept.

    Parameters
    ----------
    kept : Kept or None
        None: the log is seen for the first time.
    source : LogSource
        The log.
    keys : mapping or None
        JWK Set to trust where none is kept; None: the one that the site publishes now.

    Raises
    ------
    VerificationFailed
        If the present head does not hold, or does not continue the kept one: another log, a smaller one, a fork.
    """
    jws = source.head()
    pinned = (kept.keys if kept else None) or keys
    trusted = pinned or source.keys()
    # It was verified when it was kept: a key that was revoked since does not make it another head.
    before = verified_head(kept.head, without_times(trusted)) if kept else None
    claimed = claimed_head(jws)
    if before is not None:
        _require_grown(before, claimed, source)
    if pinned:
        for document, logged_at in _key_documents(source, before, claimed):
            trusted = _followed(trusted, document, logged_at)
    return Witnessed(before, verified_head(jws, trusted), trusted)


def _require_grown(before: TreeHead, now: TreeHead, source: LogSource) -> None:
    if now.log_id != before.log_id:
        raise _rewritten(f"another log than the one that was kept ({now.log_id} instead of {before.log_id})")
    if now.size < before.size:
        raise _rewritten(f"a log of {now.size} entries, which had {before.size} when its head was kept: it was set back")
    if now.signed_at < before.signed_at:
        raise _rewritten("a tree head that is earlier than the one that was kept")
    path = source.consistency(before.size, now.size)
    try:
        require_consistent(before.size, before.root, now.size, now.root, path)
    except VerificationFailed as error:
        raise _rewritten(f"a log that does not begin with the {before.size} entries that were kept: {error.found}") from error


def _key_documents(source: LogSource, before: TreeHead | None, now: TreeHead) -> list[tuple[str, datetime]]:
    """Return the documents of keys among the new entries, in order, with the time of each; all new entries are those of `now`.

    The tree is computed again from them: an entry that is in no tree, or one that is held back, would change whom we trust.
    """
    frontier, time = _frontier(source, before), before.signed_at if before else None
    place, found = before.size if before else 0, list[tuple[str, datetime]]()
    while place < now.size:
        page = source.entries(place, min(place + PAGE, now.size))[: now.size - place]
        if not page:
            raise _rewritten(f"a log that does not give its entries from {place} on")
        for item in page:
            entry, content, logged_at = _entry_of(item)
            if not (time or logged_at) <= logged_at <= now.signed_at:
                raise _rewritten("an entry that is earlier than the one before it, or later than the tree head above it")
            frontier.add(leaf_hash(content))
            time = logged_at
            if entry.get("kind") == KEY_ENTRY:
                found.append((_document_of(item, entry), logged_at))
        place += len(page)
    if frontier.root != now.root:
        raise _rewritten("entries that are not those of its own tree head")
    return found


def _frontier(source: LogSource, before: TreeHead | None) -> Frontier:
    """The end of the tree that was kept, shown by its last entry."""
    if before is None or not before.size:
        return Frontier()
    entry, path = source.inclusion(before.size - 1, before.size)
    frontier = Frontier.after(leaf_hash(entry), before.size, path)
    if frontier.root != before.root:
        raise _rewritten("a last entry that is not in the tree of the head that was kept")
    return frontier


def _entry_of(item: object) -> tuple[dict[str, Any], bytes, datetime]:
    """An entry, its bytes in the tree, and its time."""
    try:
        entry = dict(item["entry"])  # type: ignore[index]  # an error of a kind that is caught, where it is no object
        content, logged_at = canonical_json(entry), datetime.fromisoformat(entry["loggedAt"])
        if logged_at.tzinfo is None:
            raise ValueError("a time without a zone")
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable("/log/entries") from error
    return entry, content, logged_at


def _document_of(item: Mapping[str, Any], entry: Json) -> str:
    document = item.get("document")
    if not isinstance(document, str) or sha256_digest(document.encode()) != entry.get("digest"):
        raise _rewritten("an entry of a key without its document")
    return document


def _followed(trusted: Json, document: str, logged_at: datetime) -> Json:
    try:
        return with_successor(trusted, document, logged_at)
    except VerificationFailed:
        return trusted  # no trusted key signed it, so it changes nobody's trust


def _rewritten(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed="a log that continues the tree head that was kept",
        action="keep the old head: with the present one it proves that the log was rewritten; ask the site for its sound copy",
    )


def _unreadable(path: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"an answer to {path} that is not a log's", allowed="JSON as /log gives it", action="check --url"
    )
