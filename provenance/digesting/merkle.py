"""Merkle trees: roots, and proofs that an entry is in a tree or that one tree is the beginning of another.

A tree is given by its complete subtrees (`Node`), so the same functions serve a list in memory and a log in a database: each
root or proof asks for at most 2 log2(size) of them. Hashes are 32 bytes of SHA-256; a leaf and an inner node are hashed with
different first bytes, so neither can be taken for the other.

References
----------
RFC 6962 section 2.1 (trees and proofs); RFC 9162 sections 2.1.3.2 and 2.1.4.2 (how a verifier checks them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from domain.errors import VerificationFailed

# (level, index) -> hash of the complete subtree of 2**level leaves that starts at leaf index * 2**level.
Node = Callable[[int, int], bytes]

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf that holds `entry` (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the inner node above two subtrees (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_of(leaves: Sequence[bytes]) -> Node:
    """Return the complete subtrees of a tree whose leaf hashes are in memory."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return lambda level, index: levels[level][index]


def tree_root(size: int, node: Node) -> bytes:
    """Return the root of the first `size` leaves; that of no leaf is the hash of nothing."""
    return _range_hash(0, size, node) if size else EMPTY_ROOT


def inclusion_path(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index`, counted from 0, in the tree of the first `size` leaves; nearest sibling first.

    References
    ----------
    RFC 6962 section 2.1.1.
    """
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start = middle
    return tuple(reversed(path))


def consistency_path(first: int, second: int, node: Node) -> tuple[bytes, ...]:
    """Return the proof that the tree of `first` leaves is the beginning of the tree of `second` leaves; empty if `first` is 0.

    References
    ----------
    RFC 6962 section 2.1.2.
    """
    if first in {0, second}:
        return ()
    path: list[bytes] = []
    start, end, known = 0, second, True
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(_range_hash(middle, end, node))
            end = middle
        else:
            path.append(_range_hash(start, middle, node))
            start, known = middle, False
    if not known:
        path.append(_range_hash(start, end, node))
    return tuple(reversed(path))


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that `path` leads to from `leaf`; the caller compares it with a root that he trusts.

    Raises
    ------
    VerificationFailed
        If no tree of this size has such a path.

    References
    ----------
    RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise _no_proof("a leaf number outside its tree")
    place, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0 or len(sibling) != HASH_BYTES:
            raise _no_proof("an audit path that is too long, or not made of SHA-256 hashes")
        if place & 1 or place == last:
            root = node_hash(sibling, root)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise _no_proof("an audit path that is too short")
    return root


def require_consistent(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the tree of `first` leaves is the beginning of the tree of `second` leaves.

    Raises
    ------
    VerificationFailed
        If the proof does not show it.

    References
    ----------
    RFC 9162 section 2.1.4.2.
    """
    if not 0 <= first <= second:
        raise _no_proof("a later tree that is smaller than the earlier one")
    if first in {0, second}:
        same = first_root == (EMPTY_ROOT if first == 0 else second_root)
        if path or not same:
            raise _no_proof("two roots of one tree size, or a proof where none is needed")
        return
    early, late = _roots_of_consistency(first, first_root, second, path)
    if (early, late) != (first_root, second_root):
        raise _no_proof("an earlier tree that is not the beginning of the later one")


class Frontier:
    """The complete subtrees at the end of a tree that grows: so much as its root, and that of each later tree, needs."""

    def __init__(self) -> None:
        self._subtrees: list[tuple[int, bytes]] = []  # level and hash, the largest first

    @classmethod
    def after(cls, last: bytes, size: int, path: Sequence[bytes]) -> Frontier:
        """Return the frontier of a tree from the hash of its last leaf and the audit path of that leaf.

        Raises
        ------
        VerificationFailed
            If the path is not as long as such a path is. Whether it leads to a root that is trusted, the caller compares.
        """
        levels = [level for level in range(size.bit_length()) if size - 1 >> level & 1]
        if len(levels) != len(path):
            raise _no_proof("an audit path of a last leaf that is too long or too short")
        frontier = cls()
        frontier._subtrees = list(zip(reversed(levels), reversed(path), strict=True))
        frontier.add(last)
        return frontier

    def add(self, leaf: bytes) -> None:
        """Append the hash of a leaf."""
        level = 0
        while self._subtrees and self._subtrees[-1][0] == level:
            leaf = node_hash(self._subtrees.pop()[1], leaf)
            level += 1
        self._subtrees.append((level, leaf))

    @property
    def root(self) -> bytes:
        """Root of the tree as it is now."""
        if not self._subtrees:
            return EMPTY_ROOT
        *larger, (_, root) = self._subtrees
        for _, subtree in reversed(larger):
            root = node_hash(subtree, root)
        return root


def _roots_of_consistency(first: int, first_root: bytes, second: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes or any(len(one) != HASH_BYTES for one in hashes):
        raise _no_proof("a consistency proof that is empty, or not made of SHA-256 hashes")
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    early = late = hashes[0]
    for one in hashes[1:]:
        if last == 0:
            raise _no_proof("a consistency proof that is too long")
        if place & 1 or place == last:
            early, late = node_hash(one, early), node_hash(one, late)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            late = node_hash(late, one)
        place, last = place >> 1, last >> 1
    if last:
        raise _no_proof("a consistency proof that is too short")
    return early, late


def _range_hash(start: int, end: int, node: Node) -> bytes:
    """Hash of the leaves from `start` to before `end`, a range as the recursion of RFC 6962 makes it."""
    width = end - start
    if width & (width - 1) == 0:
        return node(width.bit_length() - 1, start // width)
    middle = start + _split(width)
    return node_hash(_range_hash(start, middle, node), _range_hash(middle, end, node))


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def _no_proof(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found,
        allowed="a Merkle proof as RFC 6962 makes it",
        action="ask for the object and its proof as they were published; if the proof stays wrong, its log was rewritten",
    )
