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

from dicom_node.objects.file_set import require_free, under_way
from domain.errors import ConfigurationError, StorageExhausted, UnreadableInstance
from veraicon.datasets.layout import WORKING

_LOCK, _UNFINISHED = WORKING
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Staging:
    """The folder while it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, name: str, make: Callable[[], bytes]) -> Path:
        """Write a file whole and on disk, under a name below the folder; one that is there already is left as it is."""
        path = self.folder / name
        if path.exists():
            return path
        content = make()
        with _writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, content)
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
    UnreadableInstance
        If the block could not read what it was to put there.
    """
    require_free(target)
    folder = target.parent / f".{target.name}.{identity[:16]}.part"
    with _writing(), _locked(folder / _LOCK):
        for leftover in sorted(folder.rglob(f"{_UNFINISHED}*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        try:
            yield Staging(folder)
        except OSError as error:
            raise _failed_within(folder, error) from error
        (folder / _LOCK).unlink()
        require_free(target)
        folder.replace(target)


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cannot_write(error) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise under_way() from error
        yield


def _failed_within(folder: Path, error: OSError) -> StorageExhausted | ConfigurationError | UnreadableInstance:
    """Tell what could not be written from what could not be read: a full disk, a name in the folder, any other."""
    named = isinstance(error.filename, str) and Path(error.filename).resolve().is_relative_to(folder.resolve())
    if error.errno in _FULL or named:
        return _cannot_write(error)
    return UnreadableInstance(
        found=f"a file of a member that cannot be read ({type(error).__name__})",
        allowed="members whose files this user may read",
        action="see to the storage folder, then run the same command again: it goes on where it stopped",
    )


def _cannot_write(error: OSError) -> StorageExhausted | ConfigurationError:
    if error.errno in _FULL:
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
