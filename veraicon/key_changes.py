"""Replacing and revoking keys. Each change is signed and entered in the transparency log before it takes effect.

A rotation can be cut short after each of its steps and is finished by the next one: the successor is written once and names
its own time, so its handover is the same document again; the old key signs until its retired half exists (`site_keys`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from domain.errors import ConfigurationError, RequestInvalid
from provenance.log_proof import KEY_ENTRY
from provenance.signatures.keyring import REASONS, RetiredKey, sign_handover, sign_retirement, sign_revocation
from provenance.signing import SigningKey
from veraicon import faults
from veraicon.artifacts import BYTES, save
from veraicon.site_keys import KeyStore, from_environment, stop_after
from veraicon.transparency.log import TransparencyLog


@dataclass(frozen=True)
class Rotation:
    """What a rotation did.

    Attributes
    ----------
    old, new : str
        Key ids.
    stopped_at : datetime
        From then on the old key's signatures are not valid.
    leaf : int
        Place of the handover in the log.
    in_place : bool
        Whether processes find the new key by themselves; False: it has to be given to them.
    """

    old: str
    new: str
    stopped_at: datetime
    leaf: int
    in_place: bool


def rotate(store: KeyStore, log: TransparencyLog, *, keep: bool = False, to: Path | None = None) -> Rotation:
    """Have a new key take the place of the one that signs.

    Parameters
    ----------
    store : KeyStore
    log : TransparencyLog
        Gets the handover, in which the old key signs the public half of the new one, and when the old one stops.
    keep : bool
        Keep the old private key, beside the retired ones; else it is deleted (which no file system promises to be for ever).
    to : Path or None
        Write the new key there and leave the old one in its place: for keys that this program cannot replace.

    Raises
    ------
    ConfigurationError
        If the key comes from the environment and `to` is not given, or a file cannot be written.
    """
    if store.file is None and to is None:
        raise from_environment()
    old = store.load()
    new = SigningKey.load_or_create(to or store.successor_file())
    _require_successor(store, old, new)
    faults.reach("rotate:made")
    proof = log.enter(KEY_ENTRY, sign_handover(old, new, new.made_at or datetime.now(UTC)))
    faults.reach("rotate:logged")
    if keep and store.file is not None:
        kept = store.retired.parent / "kept" / f"{old.kid}.jwk"
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save(kept, BYTES, store.file.read_bytes())
    stopped_at = _log_stop(log, old, new)
    faults.reach("rotate:told")
    retired = store.retire(old, stopped_at=stopped_at)
    faults.reach("rotate:retired")
    if to is None:
        store.load()  # puts the successor in place
    return Rotation(old.kid, new.kid, retired.stopped_at, proof.index, in_place=to is None)


def _log_stop(log: TransparencyLog, old: SigningKey, new: SigningKey) -> datetime:
    """Enter when the old key stops, by its successor's word, and return it: witnesses learn it from there.

    The log's own time may be ahead of this machine's, and an entry may have to wait: no head that the old key signed may come
    to lie behind its end. Of several such entries the last one counts.
    """
    for tries in itertools.count():
        stopped_at = stop_after(max(datetime.now(UTC), log.head().signed_at) + timedelta(seconds=2**tries - 1))
        retired = RetiredKey(old.public_jwks()["keys"][0], stopped_at)
        log.enter(KEY_ENTRY, sign_retirement(new, retired, datetime.now(UTC)))
        if max(datetime.now(UTC), log.head().signed_at) < stopped_at:
            break
    return stopped_at


def revoke(
    store: KeyStore, log: TransparencyLog, current: SigningKey, kid: str, *, reason: str, since: datetime | None = None
) -> RetiredKey:
    """Revoke a retired key: what it signed from a moment on is not valid.

    Parameters
    ----------
    current : SigningKey
        Signs the revocation.
    kid : str
        Key id, or its first characters.
    reason : str
        One of `provenance.signatures.keyring.REASONS`.
    since : datetime or None
        The moment; None: now. A key that others may have used longer ago needs an earlier one.

    Raises
    ------
    RequestInvalid
        If it is the key that signs, no key of ours, revoked since no later moment already, or the reason is another.
    """
    if reason not in REASONS:
        raise RequestInvalid(found=f"the reason {reason[:20]!r}", allowed=", ".join(REASONS), action="give one of these")
    if current.kid.startswith(kid):
        raise RequestInvalid(
            found="the key that signs", allowed="a key that was retired", action="run `veraicon keys rotate`, then revoke it"
        )
    found = [key for key in store.retired_keys() if key.kid.startswith(kid)]
    moment = datetime.fromtimestamp(int((since or datetime.now(UTC)).timestamp()), UTC)
    if len(found) != 1 or (found[0].revoked_at is not None and found[0].revoked_at <= moment):
        raise RequestInvalid(
            found=f"{len(found)} retired keys whose ids start so" if len(found) != 1 else "a key that is revoked already",
            allowed="one retired key that is not revoked, or revoked since a later moment",
            action="see `veraicon keys list`; --since takes an earlier moment",
        )
    revoked = replace(found[0], revoked_at=moment, reason=reason)
    log.enter(KEY_ENTRY, sign_revocation(current, revoked, datetime.now(UTC)))
    store.write(revoked)
    return revoked


def _require_successor(store: KeyStore, old: SigningKey, new: SigningKey) -> None:
    if store.is_retired(old.kid):
        raise ConfigurationError(
            found=f"a key in place that was retired (key id {old.kid})",
            allowed="a key that signs",
            action="give this process the new key first, as the last rotation said",
        )
    if new.kid == old.kid or store.is_retired(new.kid):
        raise RequestInvalid(
            found="a file that holds the present key or a retired one", allowed="a new file", action="name another file"
        )
