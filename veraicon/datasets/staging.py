"""A folder that is there whole or not at all, and whose making goes on where it was interrupted."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.errors import ConfigurationError, RequestInvalid, StorageExhausted
from veraicon.datasets.layout import WORKING

_LOCK, _UNFINISHED = WORKING


class Staging:
    """The folder while it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, name: str, make: Callable[[], bytes]) -> Path:
        """Write a file whole and on disk, under a name below the folder; one that is there already is left as it is."""
        path = self.folder / name
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(make())
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        return path


@contextmanager
def staged(target: Path, identity: str) -> Iterator[Staging]:
    """Give a folder to fill; it gets its name when the block ends without an error, and is kept for the next try otherwise.

    Parameters
    ----------
    target : Path
        New or empty.
    identity : str
        Of what is written: another try goes on only with what the same identity has begun.

    Raises
    ------
    RequestInvalid
        If the target is not empty, or another process is filling it.
    StorageExhausted
        If the disk is full.
    ConfigurationError
        If the folder cannot be written.
    """
    _require_free(target)
    folder = target.parent / f".{target.name}.{identity[:16]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / _LOCK):
            for leftover in sorted(folder.rglob(f"{_UNFINISHED}*")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
            yield Staging(folder)
            (folder / _LOCK).unlink()
            _require_free(target)
            folder.replace(target)
    except OSError as error:
        raise _cannot_write(error) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestInvalid(
                found="an export to this folder that is under way", allowed="one at a time", action="wait for it to end"
            ) from error
        yield


def _require_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RequestInvalid(
            found="an output folder that is not empty", allowed="a new or empty folder", action="name another folder"
        )


def _cannot_write(error: OSError) -> StorageExhausted | ConfigurationError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageExhausted(
            found="a disk that is full",
            allowed="room for the whole export",
            action="make room and run the same command again: it goes on where it stopped",
        )
    return ConfigurationError(
        found=f"an output folder that cannot be written ({type(error).__name__})",
        allowed="a folder that this user may make and fill",
        action="name another folder",
    )
