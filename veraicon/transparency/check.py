"""Looks through the whole transparency log: every hash is computed again from the entries, every signed head is compared.

The walk holds one page of rows and 32 bytes for each entry. It ends at the first entry that differs: what comes after it cannot
be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from domain.errors import AttestationError, VerificationFailed
from provenance.canonical import sha256_digest
from provenance.digesting.merkle import leaf_hash, node_hash
from provenance.log_proof import TreeHead, log_entry, verified_head
from veraicon.tables import LogHeadRow, LogIdentityRow, LogLeafRow, LogNodeRow

_PAGE = 512


@dataclass(frozen=True, slots=True)
class KeptProof:
    """What somebody keeps of an object that was logged.

    Attributes
    ----------
    name : str
        How it is called in the report.
    digest : str
        Digest of the object.
    index : int
        Its place in the log.
    head : str
        JWS of the tree head under which it was proved.
    """

    name: str
    digest: str
    index: int
    head: str


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found.

    Attributes
    ----------
    size : int
        Entries that hold, from the first on.
    attested : int
        Kept proofs that were compared.
    problems : tuple of str
        Empty if the log is sound; else the first entry that differs, and each kept proof that the log does not answer.
    """

    size: int
    attested: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing differs."""
        return not self.problems


class _Edge:
    """The complete subtrees at the right edge of a growing tree."""

    def __init__(self) -> None:
        self._hashes: dict[int, bytes] = {}

    def add(self, index: int, value: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Add a leaf; yield level, place and hash of each subtree that it completes, its own first."""
        level, place = 0, index
        yield level, place, value
        while place & 1:
            value = node_hash(self._hashes[level], value)
            level, place = level + 1, place >> 1
            yield level, place, value
        self._hashes[level] = value

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` leaves, which are those added."""
        root = b""
        for level in (level for level in range(size.bit_length()) if size >> level & 1):
            root = node_hash(self._hashes[level], root) if root else self._hashes[level]
        return root


def check_log(engine: sa.Engine, keys: Mapping[str, Any], kept: Iterable[KeptProof]) -> LogReport:
    """Compare entries, hashes, heads and kept proofs; see `TransparencyLog.check`.

    Parameters
    ----------
    engine : Engine
        The log's database.
    keys : mapping
        JWK Set of every key that signed a head.
    kept : iterable of KeptProof
        Proofs kept elsewhere.
    """
    roots: list[bytes] = []
    problems: list[str] = []
    with Session(engine) as session:
        identity = session.exec(select(LogIdentityRow)).first()
        log_id = identity.log_id if identity else ""
        try:
            _walk(session, log_id, keys, roots)
        except VerificationFailed as error:
            problems.append(error.found)
        compared = 0
        for one in kept:
            compared += 1
            wrong = _answer(session, log_id, roots, one, keys)
            problems += [f"{one.name}: {wrong}"] if wrong else []
    return LogReport(len(roots), compared, tuple(problems))


def _walk(session: Session, log_id: str, keys: Mapping[str, Any], roots: list[bytes]) -> None:
    """Go through all leaves in order; `roots` gets the root of each size that holds."""
    edge, before = _Edge(), None
    count = session.exec(select(sa.func.max(LogLeafRow.leaf_index))).one()
    heads = session.exec(select(sa.func.max(LogHeadRow.size))).one() or 0
    size = max(-1 if count is None else int(count), heads - 1) + 1
    for start in range(0, size, _PAGE):
        leaves, nodes, signed = _page(session, start, start + _PAGE)
        for index in range(start, min(start + _PAGE, size)):
            leaf = leaves.get(index)
            if leaf is None:
                raise _differs(f"leaf {index} is missing, of {size} that tree heads or later leaves speak of")
            _check_leaf(leaf)
            for level, place, value in edge.add(index, leaf_hash(leaf.entry)):
                if nodes.get((level, place)) != value:
                    above = f"the hash {level} levels above it differs"
                    raise _differs(f"leaf {index}: {above if level else 'it is not the entry that was logged there'}")
            root = edge.root(index + 1)
            before = _check_head(signed.get(index + 1), index + 1, root, log_id, keys, before)
            roots.append(root)
        session.expunge_all()
    _check_counts(session, size)


def _page(
    session: Session, start: int, end: int
) -> tuple[dict[int, LogLeafRow], dict[tuple[int, int], bytes], dict[int, LogHeadRow]]:
    """The leaves from `start` to before `end`, the subtrees that they complete, and the heads that they brought."""
    place = col(LogLeafRow.leaf_index)
    leaves = session.exec(select(LogLeafRow).where(place >= start, place < end)).all()
    levels = [
        sa.and_(col(LogNodeRow.level) == n, col(LogNodeRow.place) >= start >> n, col(LogNodeRow.place) < end >> n)
        for n in range(end.bit_length())
    ]
    nodes = session.exec(select(LogNodeRow).where(sa.or_(*levels))).all()
    heads = session.exec(select(LogHeadRow).where(col(LogHeadRow.size) > start, col(LogHeadRow.size) <= end)).all()
    return (
        {row.leaf_index: row for row in leaves},
        {(row.level, row.place): row.hash for row in nodes},
        {row.size: row for row in heads},
    )


def _check_leaf(leaf: LogLeafRow) -> None:
    moment = leaf.logged_at if leaf.logged_at.tzinfo else leaf.logged_at.replace(tzinfo=UTC)
    try:
        same = log_entry(leaf.kind, leaf.digest, moment) == leaf.entry
    except AttestationError:
        same = False
    if not same:
        raise _differs(f"leaf {leaf.leaf_index}: its row and its entry say different things")
    if leaf.document is not None and sha256_digest(leaf.document.encode()) != leaf.digest:
        raise _differs(f"leaf {leaf.leaf_index}: its document is another one")


def _check_head(
    row: LogHeadRow | None, size: int, root: bytes, log_id: str, keys: Mapping[str, Any], before: TreeHead | None
) -> TreeHead:
    if row is None:
        raise _differs(f"leaf {size - 1}: its tree head, of {size} entries, is missing")
    try:
        head = verified_head(row.jws, keys)
    except VerificationFailed as error:
        raise _differs(f"leaf {size - 1}: its tree head, of {size} entries, does not hold: {error.found}") from error
    if (head.size, head.log_id) != (size, log_id) or row.root != head.root:
        raise _differs(f"leaf {size - 1}: its tree head, of {size} entries, was replaced by that of another tree")
    if head.root != root:
        raise _differs(f"leaf {size - 1}: its tree head, of {size} entries, was signed for other entries")
    if before is not None and head.signed_at < before.signed_at:
        raise _differs(f"leaf {size - 1}: its tree head, of {size} entries, is earlier than the one before it")
    return head


def _check_counts(session: Session, size: int) -> None:
    for name, row, expected in (
        ("leaves", LogLeafRow, size),
        ("subtrees", LogNodeRow, sum(size >> level for level in range(size.bit_length()))),
        ("tree heads", LogHeadRow, size),
    ):
        count = session.exec(select(sa.func.count()).select_from(row)).one()
        if count != expected:
            raise _differs(f"{count} {name} where a log of {size} entries has {expected}")


def _answer(session: Session, log_id: str, roots: list[bytes], kept: KeptProof, keys: Mapping[str, Any]) -> str:
    """Say what the log lacks of a kept proof; nothing where it holds it."""
    if not kept.head:
        return "no proof of the log is kept with it: an older version made it, or somebody removed the proof"
    try:
        head = verified_head(kept.head, keys)
    except VerificationFailed as error:
        return f"the tree head that is kept with it does not hold: {error.found}"
    leaf = session.get(LogLeafRow, kept.index)
    if head.log_id != log_id:
        wrong = "it was entered in another log"
    elif leaf is None:
        wrong = f"leaf {kept.index}, its entry, is missing"
    elif leaf.digest != kept.digest:
        wrong = f"leaf {kept.index} is not its entry"
    elif head.size > len(roots):
        wrong = f"it was proved in a tree of {head.size} entries, and only {len(roots)} hold"
    elif roots[head.size - 1] != head.root:
        wrong = f"the tree of {head.size} entries in which it was proved had another root"
    else:
        wrong = ""
    return wrong


def _differs(found: str) -> VerificationFailed:
    return VerificationFailed(found=found, allowed="the log as it was signed", action="restore the database from a sound copy")
