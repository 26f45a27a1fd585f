"""Proofs of the transparency log: what they show, and each way in which one is false."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.errors import VerificationFailed
from provenance.canonical import sha256_digest
from provenance.digesting.merkle import consistency_path, inclusion_path, leaf_hash, nodes_of, tree_root
from provenance.log_proof import (
    ATTESTATION_ENTRY,
    RECALL_ENTRY,
    LogProof,
    TreeHead,
    log_entry,
    proof_to_json,
    require_logged,
    sign_head,
)
from provenance.signing import SigningKey

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
KEYS = KEY.public_jwks()
START = datetime(2026, 1, 2, tzinfo=UTC)
DIGESTS = [sha256_digest(f"object {number}".encode()) for number in range(9)]
ENTRIES = [log_entry(ATTESTATION_ENTRY, digest, START + timedelta(minutes=n)) for n, digest in enumerate(DIGESTS)]


def _head(size: int, *, key: SigningKey = KEY, log_id: str = "log", minutes: int | None = None) -> TreeHead:
    moment = START + timedelta(minutes=size - 1 if minutes is None else minutes)
    return sign_head(log_id, size, tree_root(size, nodes_of([leaf_hash(one) for one in ENTRIES])), moment, key)


def _proof(index: int, size: int) -> LogProof:
    node = nodes_of([leaf_hash(one) for one in ENTRIES])
    return LogProof(
        entry=ENTRIES[index],
        index=index,
        path=inclusion_path(index, size, node),
        head=_head(size),
        previous=_head(index) if index else None,
        consistency=consistency_path(index, size, node),
    )


@pytest.mark.requirement("PROV-LOG-001")
def test_each_entry_is_shown_under_each_later_head() -> None:
    for size in range(1, 10):
        for index in range(size):
            proof = _proof(index, size)
            shown = require_logged(proof_to_json(proof), DIGESTS[index], ATTESTATION_ENTRY, KEYS)
            assert (shown, shown.logged_at) == (proof, START + timedelta(minutes=index))


_BREAKS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "another digest": ("another object", lambda p: p["entry"].update(digest=DIGESTS[4])),
    "another time": ("not in the tree", lambda p: p["entry"].update(loggedAt="2026-01-02T00:03:01.000Z")),
    "a head of an earlier time": ("later than the tree head", lambda p: p.update(head=_head(7, minutes=1).jws)),
    "one more member": ("another form", lambda p: p["entry"].update(note="x")),
    "another place": ("not in the tree", lambda p: p.update(index=2)),
    "a place outside": ("outside", lambda p: p.update(index=99)),
    "a place that is no number": ("another form", lambda p: p.update(index=True)),
    "a shorter path": ("too short", lambda p: p["path"].pop()),
    "a hash of another length": ("another form", lambda p: p["path"].__setitem__(0, "sha256:00")),
    "no list of hashes": ("another form", lambda p: p.update(path="sha256:")),
    "another head": ("not in the tree", lambda p: p.update(head=_head(6).jws)),
    "a head of another key": ("not among the trusted", lambda p: p.update(head=_head(7, key=OTHER).jws)),
    "a cut head": ("signature|JWS", lambda p: p.update(head=p["head"][:-3])),
    "no head before": ("without the tree head before", lambda p: p.update(previous=None)),
    "a head before of another log": ("different logs", lambda p: p.update(previous=_head(3, log_id="other").jws)),
    "a head before that holds it": ("holds the entry", lambda p: p.update(previous=_head(4).jws)),
    "a head before that is later": ("earlier than the tree head", lambda p: p.update(previous=_head(3, minutes=4).jws)),
    "another past": ("not the beginning", lambda p: p.update(previous=_other_past().jws)),
    "no consistency": ("consistency", lambda p: p.update(consistency=[])),
    "one more name": ("another form", lambda p: p.update(more=1)),
    "another version": ("another form", lambda p: p.update(version="2")),
}


def _other_past() -> TreeHead:
    return sign_head("log", 3, b"\x07" * 32, START + timedelta(minutes=2), KEY)


@pytest.mark.requirement("PROV-LOG-001")
@pytest.mark.parametrize("name", _BREAKS)
def test_a_proof_that_was_changed_is_refused_with_the_reason(name: str) -> None:
    reason, change = _BREAKS[name]
    content = copy.deepcopy(proof_to_json(_proof(3, 7)))
    change(content)
    with pytest.raises(VerificationFailed, match=reason):
        require_logged(content, DIGESTS[3], ATTESTATION_ENTRY, KEYS)


@pytest.mark.parametrize("content", [None, [], {}, "x", {"version": 1}, 7])
def test_what_is_no_proof_is_refused(content: object) -> None:
    with pytest.raises(VerificationFailed, match="another form"):
        require_logged(content, DIGESTS[0], ATTESTATION_ENTRY, KEYS)


def test_an_entry_of_one_kind_is_not_taken_for_another() -> None:
    with pytest.raises(VerificationFailed, match="recall"):
        require_logged(proof_to_json(_proof(3, 7)), DIGESTS[3], RECALL_ENTRY, KEYS)


@pytest.mark.requirement("PROV-KEY-001")
def test_a_head_that_a_key_signed_after_it_stopped_is_refused() -> None:
    stopped = {"keys": [KEYS["keys"][0] | {"exp": int(START.timestamp()) + 300}]}
    require_logged(proof_to_json(_proof(3, 5)), DIGESTS[3], ATTESTATION_ENTRY, stopped)
    with pytest.raises(VerificationFailed, match="had stopped"):
        require_logged(proof_to_json(_proof(3, 6)), DIGESTS[3], ATTESTATION_ENTRY, stopped)
