"""The transparency log of a site: an append-only Merkle tree in the database, with a signed head for each size it has had.

An append is one transaction that holds the log's own row, so appends queue up, in one process or on many machines. Every
complete subtree is kept, so an append or a proof reads about log2(size) rows.

The log's id is a random UUID, made once in the database. It does not derive from a key, since one key may come to serve two
databases: two logs that had one id would look like one log that tells two stories.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from dicom_node.holding.transactions import in_transaction
from domain.errors import RequestInvalid, ResourceNotFound, VerificationFailed
from provenance.canonical import instant, sha256_digest
from provenance.digesting.merkle import EMPTY_ROOT, Node, consistency_path, inclusion_path, leaf_hash, node_hash, tree_root
from provenance.log_proof import (
    ATTESTATION_ENTRY,
    ENTRY_KINDS,
    KEY_ENTRY,
    LogProof,
    TreeHead,
    log_entry,
    sign_head,
    verified_head,
)
from provenance.signatures.keyring import require_valid_at, without_times
from provenance.signing import SigningKey, key_id_of
from veraicon.tables import LogHeadRow, LogIdentityRow, LogLeafRow, LogNodeRow
from veraicon.transparency.check import KeptProof, LogReport, check_log

_THE_LOG = 1


class TransparencyLog:
    """The log in a database.

    Parameters
    ----------
    engine : Engine
        Migrated.
    key : SigningKey
        Signs the tree heads.
    keys : callable or None
        Gives the JWK Set of all keys that the site has signed with; None: `key` alone.
    """

    def __init__(self, engine: sa.Engine, key: SigningKey, keys: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self._engine, self._key, self._given_keys = engine, key, keys or key.public_jwks

    def _keys(self) -> dict[str, Any]:
        """All keys, valid for ever: a key that was revoked later does not make the log of that time a false one."""
        return without_times(self._given_keys())

    def enter(self, kind: str, jws: str) -> LogProof:
        """Append a signed object, once, and return the proof under the tree head that its entry brought.

        The same object gets the same proof again, also after a restart.

        Parameters
        ----------
        kind : str
            One of `provenance.log_proof.ENTRY_KINDS`.
        jws : str
            The object: its digest goes into the log. A document of a key (kind ``key``) is kept with it, for whoever follows.

        Raises
        ------
        VerificationFailed
            If the log in the database is not what its last tree head says: nothing is put on top of it. And if the key of a
            new attestation has stopped: its signer has a new key by now.
        """
        if kind not in ENTRY_KINDS:
            raise RequestInvalid(
                found=f"an entry of the kind {kind!r}", allowed=", ".join(sorted(ENTRY_KINDS)), action="use one of these"
            )
        digest = sha256_digest(jws.encode("ascii"))
        index = in_transaction(self._engine, lambda session: self._append_once(session, kind, digest, jws))
        return self.prove(index, index + 1)

    def head(self) -> TreeHead:
        """Return the newest tree head; that of a log without entries is made now."""
        with Session(self._engine) as session:
            row = _last_head(session)
            if row is not None:
                return self._head(session, row.size)
        log_id = in_transaction(self._engine, _hold)
        return sign_head(log_id, 0, EMPTY_ROOT, _now(), self._key)

    def prove(self, index: int, size: int | None = None) -> LogProof:
        """Return the proof of entry `index` under the tree head of `size` entries; None: the newest.

        Raises
        ------
        ResourceNotFound
            If the log has no such entry or size.
        """
        with Session(self._engine) as session:
            present = _size_of(session)
            size = present if size is None else size
            leaf = session.get(LogLeafRow, index) if 0 <= index < size <= present else None
            if leaf is None:
                raise _not_there(f"no entry {index} in a tree of {size}")
            node = _nodes(session)
            return LogProof(
                entry=leaf.entry,
                index=index,
                path=inclusion_path(index, size, node),
                head=self._head(session, size),
                previous=self._head(session, index) if index else None,
                consistency=consistency_path(index, size, node),
            )

    def consistency(self, first: int, second: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of `first` entries is the beginning of that of `second`.

        Raises
        ------
        ResourceNotFound
            If the log has not had these sizes, or the first is larger.
        """
        with Session(self._engine) as session:
            if not 0 <= first <= second <= _size_of(session):
                raise _not_there(f"no trees of {first} and, later, {second} entries")
            return consistency_path(first, second, _nodes(session))

    def find(self, digest: str) -> int:
        """Return the place of the object with this digest; the first one, should it stand under two kinds.

        Raises
        ------
        ResourceNotFound
            If the log does not hold it.
        """
        with Session(self._engine) as session:
            query = select(LogLeafRow.leaf_index).where(col(LogLeafRow.digest) == digest).order_by(col(LogLeafRow.leaf_index))
            index = session.exec(query).first()
        if index is None:
            raise _not_there("no entry with this digest")
        return index

    def entries(self, start: int, end: int) -> list[dict[str, Any]]:
        """Return the entries from `start` to before `end`, each with its place, and its document where that is public."""
        with Session(self._engine) as session:
            place = col(LogLeafRow.leaf_index)
            rows = session.exec(select(LogLeafRow).where(place >= start, place < end).order_by(place)).all()
        return [
            {"index": row.leaf_index, "entry": json.loads(row.entry)} | ({"document": row.document} if row.document else {})
            for row in rows
        ]

    def check(self, attested: Iterable[KeptProof] = ()) -> LogReport:
        """Compute every hash again and compare; `attested` are proofs that are kept elsewhere, to be found in the log."""
        return check_log(self._engine, self._keys(), attested)

    def require_sound_end(self) -> TreeHead:
        """Return the newest tree head, if its signature holds and its root is that of the leaves.

        Raises
        ------
        VerificationFailed
            If not.
        """
        with Session(self._engine) as session:
            self._require_sound_end(session, _size_of(session), _last_head(session))
        return self.head()

    def _append_once(self, session: Session, kind: str, digest: str, jws: str) -> int:
        known = _place_of(session, kind, digest)
        if known is not None:
            return known
        log_id = _hold(session)
        known = _place_of(session, kind, digest)  # another one may have entered it while we waited
        return self._append(session, log_id, kind, digest, jws) if known is None else known

    def _append(self, session: Session, log_id: str, kind: str, digest: str, jws: str) -> int:
        index, last = _size_of(session), _last_head(session)
        self._require_sound_end(session, index, last)
        # Clocks of several machines differ; the log's own time never goes back.
        moment = _now() if last is None else max(_now(), _aware(last.signed_at))
        if kind == ATTESTATION_ENTRY:
            self._require_key_of(jws, moment)
        entry = log_entry(kind, digest, moment)
        session.add(
            LogLeafRow(
                leaf_index=index,
                kind=kind,
                digest=digest,
                entry=entry,
                logged_at=moment,
                document=jws if kind == KEY_ENTRY else None,
            )
        )
        _add_nodes(session, index, leaf_hash(entry))
        session.flush()
        head = sign_head(log_id, index + 1, tree_root(index + 1, _nodes(session)), moment, self._key)
        session.add(LogHeadRow(size=head.size, root=head.root, signed_at=head.signed_at, jws=head.jws))
        return index

    def _require_key_of(self, jws: str, moment: datetime) -> None:
        """An attestation is judged by the time of its entry: one that waited until its key had stopped would never be valid."""
        kid, keys = key_id_of(jws), self._given_keys()
        if kid in {one.get("kid") for one in keys["keys"]}:
            require_valid_at(kid, keys, moment)

    def _require_sound_end(self, session: Session, size: int, last: LogHeadRow | None) -> None:
        if (last.size if last else 0) != size:
            raise _unsound(f"{size} entries under a tree head of {last.size if last else 0}")
        if last is not None and verified_head(last.jws, self._keys()).root != tree_root(size, _nodes(session)):
            raise _unsound(f"another root than that of the tree head of {size} entries")

    def _head(self, session: Session, size: int) -> TreeHead:
        row = session.get(LogHeadRow, size)
        if row is None:
            raise _not_there(f"no tree head of {size} entries")
        return verified_head(row.jws, self._keys())


def _hold(session: Session) -> str:
    """Hold the log until the transaction ends, and return its id: whoever else appends waits in this statement."""
    held = session.connection().execute(sa.update(LogIdentityRow).values(number=_THE_LOG))
    if not held.rowcount:
        session.add(LogIdentityRow(number=_THE_LOG, log_id=str(uuid.uuid4())))
        session.flush()  # of two that do this at once, one fails and comes again
    row = session.get(LogIdentityRow, _THE_LOG)
    if row is None:
        raise _unsound("a log without its own row")
    return row.log_id


def _add_nodes(session: Session, index: int, value: bytes) -> None:
    """Add the leaf's hash and each subtree that it completes."""
    node = _nodes(session)
    level, place = 0, index
    session.add(LogNodeRow(level=level, place=place, hash=value))
    while place & 1:
        value = node_hash(node(level, place - 1), value)
        level, place = level + 1, place >> 1
        session.add(LogNodeRow(level=level, place=place, hash=value))


def _nodes(session: Session) -> Node:
    def node(level: int, place: int) -> bytes:
        row = session.get(LogNodeRow, (level, place))
        if row is None:
            raise _unsound(f"no hash of the subtree {place} of level {level}")
        return row.hash

    return node


def _place_of(session: Session, kind: str, digest: str) -> int | None:
    query = select(LogLeafRow.leaf_index).where(col(LogLeafRow.kind) == kind, col(LogLeafRow.digest) == digest)
    return session.exec(query).first()


def _size_of(session: Session) -> int:
    last = session.exec(select(sa.func.max(LogLeafRow.leaf_index))).one()
    return 0 if last is None else int(last) + 1


def _last_head(session: Session) -> LogHeadRow | None:
    return session.exec(select(LogHeadRow).order_by(col(LogHeadRow.size).desc()).limit(1)).first()


def _now() -> datetime:
    return datetime.fromisoformat(instant(datetime.now(UTC)))


def _aware(moment: datetime) -> datetime:
    """SQLite forgets the zone, and all of ours are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _not_there(found: str) -> ResourceNotFound:
    return ResourceNotFound(
        found=found, allowed="what the log holds: `veraicon log head` says its size", action="ask for another entry or size"
    )


def _unsound(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=f"a transparency log that was changed: {found}",
        allowed="the entries that were logged, under the heads that were signed",
        action="run `veraicon log check`, which names the first entry that differs; restore the database from a sound copy",
    )
