"""The keys of a site: the one that signs, from a file or the environment, and the public halves of those before it.

    keys/signing.jwk         signs; or the file that [provenance] key_file names, or VERAICON_PROVENANCE__KEY
    keys/signing.jwk.next    its successor, while a rotation is under way
    keys/public/KID.jwk      public half of each key that has signed
    keys/retired/KID.jwk     public half of a key that signs no more, with `exp` and, where it was revoked, `revoked`

A key signs until its retired half exists. That file is written before the successor takes the key's place, so at no moment is
a public half lost; and whoever finds a retired key still in its place puts the successor there, so at no moment is there none.

Where the key file was moved away and another key is made, the lost one is retired: log and outputs go on holding.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from domain.errors import ConfigurationError
from provenance.signatures.keyring import Keyring, RetiredKey
from provenance.signing import SigningKey
from veraicon.artifacts import BYTES, save
from veraicon.settings import Settings

# Room for a signature that is being made while its key is retired: its time is a moment old already.
_GRACE_S = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KeyStore:
    """Where the keys of a site lie.

    Attributes
    ----------
    file : Path or None
        The private key; None: it comes from the environment.
    text : str
        The private key itself, where it comes from the environment.
    retired : Path
        Folder of the retired public halves.
    """

    file: Path | None
    text: str = field(repr=False)
    retired: Path

    def load(self) -> SigningKey:
        """Return the key that is in place, retired or not; made once where there is none.

        Raises
        ------
        ConfigurationError
            If it cannot be read, or others may read it.
        """
        if self.file is None:
            return SigningKey.from_text(self.text)
        made = not self.file.exists()
        key = SigningKey.load_or_create(self.file)
        if made:
            self._retire_lost(key)
        successor = self.successor_file()
        if not self.is_retired(key.kid) or not successor.exists():
            return key
        _put_in_place(successor, self.file)  # a rotation that was cut short
        return SigningKey.load_or_create(self.file)

    def remember(self, key: SigningKey) -> None:
        """Keep the public half of a key that signs, durably: it must not be lost with the private one."""
        path = self.retired.parent / "public" / f"{key.kid}.jwk"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            save(path, BYTES, json.dumps(key.public_jwks()["keys"][0], indent=1).encode("ascii"))

    def _retire_lost(self, made: SigningKey) -> None:
        """Retire each key that has signed and is not there any more, now that another one was made in its place."""
        now = datetime.now(UTC)
        for path in sorted((self.retired.parent / "public").glob("*.jwk")):
            if path.stem != made.kid and not self.is_retired(path.stem):
                lost = _read_retired(path, {"exp": int(stop_after(now).timestamp())})
                self.write(lost)
                _log.warning("a signing key was lost and is retired; another one was made", lost=lost.kid, made=made.kid)

    def successor_file(self) -> Path:
        """Return where the next key lies while a rotation is under way.

        Raises
        ------
        ConfigurationError
            If the key comes from the environment.
        """
        if self.file is None:
            raise from_environment()
        return self.file.with_name(f"{self.file.name}.next")

    def is_retired(self, kid: str) -> bool:
        """True if the key may sign no more."""
        return (self.retired / f"{kid}.jwk").exists()

    def retired_keys(self) -> tuple[RetiredKey, ...]:
        """Return the retired public halves, the one that stopped last first.

        Raises
        ------
        ConfigurationError
            If a file there is no such key.
        """
        keys = [_read_retired(path) for path in self.retired.glob("*.jwk")] if self.retired.is_dir() else []
        return tuple(sorted(keys, key=lambda key: (key.stopped_at, key.kid), reverse=True))

    def retire(self, key: SigningKey, *, stopped_at: datetime) -> RetiredKey:
        """Write down that a key stopped signing; the first time that is written stays."""
        if not self.is_retired(key.kid):
            self.write(RetiredKey(key.public_jwks()["keys"][0], stopped_at))
        return _read_retired(self.retired / f"{key.kid}.jwk")

    def write(self, key: RetiredKey) -> None:
        """Keep a retired public half, durably."""
        self.retired.mkdir(parents=True, exist_ok=True, mode=0o700)
        save(self.retired / f"{key.kid}.jwk", BYTES, json.dumps(key.to_jwk(), indent=1).encode("ascii"))


def stop_after(at: datetime) -> datetime:
    """Return when a key stops that is retired at a moment: a whole second, with room for a signature that is being made."""
    return datetime.fromtimestamp(math.ceil(at.timestamp()) + _GRACE_S, UTC)


def key_store(settings: Settings) -> KeyStore:
    """Return where a site's keys lie."""
    folder = settings.storage.folder.absolute() / "keys"
    text = settings.provenance.key.get_secret_value()
    file = None if text else Path(settings.provenance.key_file or folder / "signing.jwk")
    return KeyStore(file, text, folder / "retired")


class SiteKey(SigningKey):
    """The key of a site in a process that lives long: when it is retired, the process takes up its successor.

    Raises
    ------
    ConfigurationError
        When it shall sign and was retired, and the process has no successor: a key from the environment needs a restart.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store, self._lock = store, threading.RLock()
        self._take(store.load())

    @property
    def kid(self) -> str:
        """Key id of the key that signs now."""
        with self._lock:
            self._take_up(required=False)
            return self._kid

    def sign(self, payload: Mapping[str, Any] | bytes, *, kind: str) -> str:
        """Return the compact JWS over `payload`; see `SigningKey.sign`."""
        with self._lock:
            self._take_up()
            return super().sign(payload, kind=kind)

    def public_jwks(self) -> dict[str, Any]:
        """Return the public half as a JWK Set; see `SigningKey.public_jwks`."""
        with self._lock:
            self._take_up(required=False)
            return super().public_jwks()

    def _take_up(self, *, required: bool = True) -> None:
        if not self._store.is_retired(self._kid):
            return
        key = self._store.load()
        if required and self._store.is_retired(key.kid):
            raise ConfigurationError(
                found=f"a signing key that was retired (key id {key.kid})",
                allowed="a key that has not stopped",
                action="give every process of the site the new key, as `veraicon keys rotate` said, and restart it",
            )
        self._take(key)

    def _take(self, key: SigningKey) -> None:
        self._store.remember(key)
        self._key, self._kid, self.made_at = key._key, key.kid, key.made_at


def site_keyring(settings: Settings) -> Keyring:
    """Return the keys of a site, without opening its database.

    Raises
    ------
    ConfigurationError
        If they cannot be read.
    """
    store = key_store(settings)
    return keyring_of(store, store.load())


def keyring_of(store: KeyStore, key: SigningKey) -> Keyring:
    """Return the key that signs and those before it, as they are now."""
    return Keyring(key, tuple(one for one in store.retired_keys() if one.kid != key.kid))


def from_environment() -> ConfigurationError:
    """Return the error that says how a key from the environment is replaced."""
    return ConfigurationError(
        found="a signing key that comes from the environment (VERAICON_PROVENANCE__KEY)",
        allowed="a key in a file, or a file for the new one",
        action="run `veraicon keys rotate --to FILE`; put what FILE holds into the environment of every process, restart them, "
        "and delete FILE",
    )


def _read_retired(path: Path, members: Mapping[str, Any] = MappingProxyType({})) -> RetiredKey:
    try:
        return RetiredKey.from_jwk({**json.loads(path.read_bytes()), **members})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(
            found=f"keys/{path.parent.name}/{path.name}, which cannot be read as a retired key ({type(error).__name__})",
            allowed="a public JWK with exp, as `veraicon keys rotate` writes it",
            action="restore the file from a copy: what that key signed cannot be verified without it",
        ) from error


def _put_in_place(successor: Path, file: Path) -> None:
    try:
        successor.replace(file)
    except FileNotFoundError:
        return  # another process was first
    except OSError as error:
        raise ConfigurationError(
            found=f"a key file that cannot be replaced ({type(error).__name__})",
            allowed="a folder in which this user may rename files",
            action="put the .next file into its place, or run `veraicon keys rotate --to FILE`",
        ) from error
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
