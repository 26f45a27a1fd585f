"""Proofs that a signed object is in the transparency log, and that the log only grew when the object came.

A log is a Merkle tree (`provenance.digesting.merkle`) over entries; an entry is canonical JSON with the kind, the SHA-256 of
the signed object and the time. Nothing else of the object is in the log, so the log can be open to everybody.

References
----------
RFC 6962 sections 2.1 and 3.5: Merkle trees, signed tree heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.errors import VerificationFailed
from provenance.canonical import canonical_json, from_base64url, instant, require_digest
from provenance.digesting.merkle import HASH_BYTES, leaf_hash, require_consistent, root_of_inclusion
from provenance.signatures.keyring import require_valid_at, without_times
from provenance.signing import TREE_HEAD_KIND, SigningKey, key_id_of, verify

ENTRY_VERSION = "veraicon-log-entry/1"
HEAD_VERSION = "veraicon-tree-head/1"
PROOF_VERSION = "veraicon-log-proof/1"

ATTESTATION_ENTRY = "attestation"
RECALL_ENTRY = "recall"
KEY_ENTRY = "key"
DATASET_ENTRY = "dataset"
ENTRY_KINDS = frozenset({ATTESTATION_ENTRY, RECALL_ENTRY, KEY_ENTRY, DATASET_ENTRY})

_PROOF_NAMES = {"version", "entry", "index", "path", "head", "previous", "consistency"}
# Two hashes a level, and no log of ours has 2**64 entries.
_MAX_HASHES = 128


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What the log said of itself at one moment, signed.

    Attributes
    ----------
    log_id : str
        Which log.
    size : int
        Entries in it.
    root : bytes
        Root of the tree over them, 32 bytes.
    signed_at : datetime
        Aware.
    jws : str
        Compact JWS of the kind ``veraicon-tree-head+json`` that says all of this.
    """

    log_id: str
    size: int
    root: bytes
    signed_at: datetime
    jws: str


@dataclass(frozen=True, slots=True)
class LogProof:
    """That an entry is in the log, and that the log only grew when the entry came.

    Attributes
    ----------
    entry : bytes
        Canonical JSON of the entry.
    index : int
        Its place in the log, counted from 0.
    path : tuple of bytes
        Audit path to the root of `head`, nearest sibling first.
    head : TreeHead
        A head that covers the entry.
    previous : TreeHead or None
        The head before the entry came; None for the first entry of a log.
    consistency : tuple of bytes
        Proof that the tree of `previous` is the beginning of that of `head`.
    """

    entry: bytes
    index: int
    path: tuple[bytes, ...]
    head: TreeHead
    previous: TreeHead | None
    consistency: tuple[bytes, ...]

    @property
    def logged_at(self) -> datetime:
        """The time that the entry names."""
        return datetime.fromisoformat(json.loads(self.entry)["loggedAt"])


def log_entry(kind: str, digest: str, logged_at: datetime) -> bytes:
    """Return the canonical JSON of an entry.

    Parameters
    ----------
    kind : str
        One of `ENTRY_KINDS`.
    digest : str
        ``sha256:`` digest of the bytes of the signed object (compact JWS).
    logged_at : datetime
        Aware.

    Raises
    ------
    AttestationError
        If the digest has another form, or the time has no zone.
    """
    require_digest(digest)
    return canonical_json({"version": ENTRY_VERSION, "kind": kind, "digest": digest, "loggedAt": instant(logged_at)})


def sign_head(log_id: str, size: int, root: bytes, signed_at: datetime, key: SigningKey) -> TreeHead:
    """Return the signed head of a tree; the same arguments give the same bytes."""
    payload = {
        "version": HEAD_VERSION,
        "logId": log_id,
        "size": size,
        "root": hash_text(root),
        "signedAt": instant(signed_at),
    }
    jws = key.sign(payload, kind=TREE_HEAD_KIND)
    return TreeHead(log_id, size, root, datetime.fromisoformat(instant(signed_at)), jws)


def verified_head(jws: str, keys: Mapping[str, Any]) -> TreeHead:
    """Return the tree head in a JWS, if a key that was valid at its time signed it.

    Raises
    ------
    VerificationFailed
        If the signature does not hold, its key was not valid then, or the payload is no tree head.
    """
    head = _head(verify(jws, keys, kind=TREE_HEAD_KIND), jws)
    require_valid_at(key_id_of(jws), keys, head.signed_at)
    return head


def claimed_head(jws: str) -> TreeHead:
    """Return what a tree head says, not verified: for whoever learns from the log itself which keys may sign it.

    Raises
    ------
    VerificationFailed
        If it is no tree head.
    """
    try:
        payload = json.loads(from_base64url(jws.split(".")[1]))
    except (ValueError, IndexError, RecursionError) as error:
        raise _not_logged("a tree head that is no JWS") from error
    return _head(payload, jws)


def _head(payload: Mapping[str, Any], jws: str) -> TreeHead:
    try:
        if payload["version"] != HEAD_VERSION or not _is_count(payload["size"]):
            raise ValueError("version or size")
        return TreeHead(
            log_id=str(payload["logId"]),
            size=payload["size"],
            root=_hash(payload["root"]),
            signed_at=_aware(payload["signedAt"]),
            jws=jws,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_logged("a signed tree head of another form") from error


def proof_to_json(proof: LogProof) -> dict[str, Any]:
    """Return a proof as JSON: entry in full, hashes as ``sha256:`` and hex, heads as their JWS."""
    return {
        "version": PROOF_VERSION,
        "entry": json.loads(proof.entry),
        "index": proof.index,
        "path": [hash_text(one) for one in proof.path],
        "head": proof.head.jws,
        "previous": proof.previous.jws if proof.previous else None,
        "consistency": [hash_text(one) for one in proof.consistency],
    }


def head_to_json(head: TreeHead) -> dict[str, Any]:
    """Return a tree head as JSON: its JWS, and what it says in the clear."""
    return {
        "logId": head.log_id,
        "size": head.size,
        "root": hash_text(head.root),
        "signedAt": instant(head.signed_at),
        "jws": head.jws,
    }


def parse_hashes(values: object) -> tuple[bytes, ...]:
    """Return the hashes of a list of ``sha256:`` and hex, as a proof holds them.

    Raises
    ------
    VerificationFailed
        If it is no such list.
    """
    try:
        return _hashes(values)
    except ValueError as error:
        raise _not_logged("a list of hashes of another form") from error


def require_logged(content: object, digest: str, kind: str, keys: Mapping[str, Any]) -> LogProof:
    """Return the proof in `content` if it shows that an object is in the log and that the log only grew when it came.

    Parameters
    ----------
    content : object
        JSON of the proof (`proof_to_json`).
    digest : str
        ``sha256:`` digest of the bytes of the signed object.
    kind : str
        What it has to be entered as.
    keys : mapping
        JWK Set of the keys that the verifier trusts.

    Raises
    ------
    VerificationFailed
        With the reason: another object or kind, a broken path, a head that is not signed by a key valid then, a log that was
        rewritten, a time that cannot be.
    """
    try:
        proof = _parsed(content, keys)
        entry = json.loads(proof.entry)
        logged_at = _aware(entry["loggedAt"])
        known = set(entry) == {"version", "kind", "digest", "loggedAt"} and entry["version"] == ENTRY_VERSION
    except (KeyError, TypeError, ValueError) as error:
        raise _not_logged("a log proof of another form") from error
    if not known:
        raise _not_logged("a log entry of another form")
    if entry["digest"] != digest:
        raise _not_logged("the log entry of another object")
    if entry["kind"] != kind:
        raise _not_logged(f"a log entry of the kind {str(entry['kind'])[:20]!r} where {kind!r} is needed")
    if root_of_inclusion(leaf_hash(proof.entry), proof.index, proof.head.size, proof.path) != proof.head.root:
        raise _not_logged("a log entry that is not in the tree of the signed head")
    if logged_at > proof.head.signed_at:
        raise _not_logged("a log entry that is later than the tree head above it")
    _require_grown(proof, logged_at)
    return proof


def _require_grown(proof: LogProof, logged_at: datetime) -> None:
    """The head before the entry is of the same log, does not hold the entry, and is the beginning of the head above it."""
    if proof.previous is None:
        if proof.index or proof.consistency:
            raise _not_logged("a log entry without the tree head before it")
        return
    if proof.previous.log_id != proof.head.log_id:
        raise _not_logged("two tree heads of different logs")
    if proof.previous.size > proof.index:
        raise _not_logged("an earlier tree head that holds the entry already")
    if proof.previous.signed_at > logged_at:
        raise _not_logged("a log entry that is earlier than the tree head before it")
    require_consistent(proof.previous.size, proof.previous.root, proof.head.size, proof.head.root, proof.consistency)


def hash_text(value: bytes) -> str:
    """Return a hash as ``sha256:`` and hex."""
    return f"sha256:{value.hex()}"


def _parsed(content: object, keys: Mapping[str, Any]) -> LogProof:
    if not isinstance(content, Mapping) or set(content) != _PROOF_NAMES or content["version"] != PROOF_VERSION:
        raise ValueError("no proof of this version")
    if not _is_count(content["index"]) or not isinstance(content["entry"], Mapping):
        raise ValueError("index or entry")
    previous = content["previous"]
    # The head above vouches for it: the tree before is the beginning of its own, whatever became of that key since.
    before = None if previous is None else verified_head(previous, without_times(keys))
    return LogProof(
        entry=canonical_json(content["entry"]),
        index=content["index"],
        path=_hashes(content["path"]),
        head=verified_head(content["head"], keys),
        previous=before,
        consistency=_hashes(content["consistency"]),
    )


def _hashes(values: object) -> tuple[bytes, ...]:
    if not isinstance(values, list | tuple) or len(values) > _MAX_HASHES:
        raise ValueError("no list of hashes")
    return tuple(_hash(one) for one in values)


def _hash(text: object) -> bytes:
    prefix, _, digits = text.partition(":") if isinstance(text, str) else ("", "", "")
    if prefix != "sha256" or len(digits) != 2 * HASH_BYTES or digits != digits.lower():
        raise ValueError("no hash")
    return bytes.fromhex(digits)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def _not_logged(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed=f"a {PROOF_VERSION} object for this very object, under tree heads that a trusted key signed",
        action="ask for a fresh proof (`veraicon log prove`); if there is none, the log was rewritten or never held it",
    )
