"""Part 10 bytes, their digests, and the only way in which we write a file: safe on disk before anybody is told."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
import uuid
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from domain.errors import StorageExhausted
from domain.identifiers import derive_uid

# PS3.7 D.3.3.2: names this implementation; ours for good, so it must not follow a version.
IMPLEMENTATION_CLASS_UID = UID(derive_uid("veraicon", "implementation-class"))
IMPLEMENTATION_VERSION_NAME = "VERAICON_1"

_PREAMBLE = b"\0" * 128 + b"DICM"

# So much of the beginning also stays in memory until the file has its name, since the header is read then.
_HEAD_BYTES = 2**18

# Room on disk is looked at after each of these.
_ROOM_CHECK_BYTES = 16 * 2**20


def digest_of(data: bytes) -> str:
    """Return ``sha256:`` and the hex digest of some bytes.

    Examples
    --------
    >>> digest_of(b"")[:14]
    'sha256:e3b0c44'
    """
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(file: BufferedReader) -> str:
    """Return the digest of an open file from where it stands to its end."""
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def series_digest(instance_digests: Iterable[str]) -> str:
    """Return the digest over a set of instances: over their digests, sorted, one on a line. The order of arrival is no matter.

    Examples
    --------
    >>> series_digest(["sha256:b", "sha256:a"]) == series_digest(["sha256:a", "sha256:b"])
    True
    """
    return digest_of("\n".join(sorted(instance_digests)).encode("ascii"))


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> FileMetaDataset:
    """Return the file meta information that we write; it holds no time and no sender, so equal datasets make equal files.

    References
    ----------
    DICOM PS3.10 section 7.1.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta


def part10_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble and file meta information: with a dataset as it came over the wire, it is a Part 10 file.

    The bytes are those that pydicom writes for `file_meta`, which takes twenty times as long: each received instance has one.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sxxL2s", 2, 0x0001, b"OB", 2, b"\0\1"),
            _meta_text(0x0002, b"UI", sop_class_uid),
            _meta_text(0x0003, b"UI", sop_instance_uid),
            _meta_text(0x0010, b"UI", transfer_syntax_uid),
            _meta_text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _meta_text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    return _PREAMBLE + struct.pack("<HH2sHL", 2, 0x0000, b"UL", 4, len(elements)) + elements


def _meta_text(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii")
    encoded += (b"\0" if vr == b"UI" else b" ") * (len(encoded) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(encoded)) + encoded


def to_part10(ds: Dataset) -> bytes:
    """Return a dataset with file meta information as Part 10 bytes; the same dataset gives the same bytes."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def require_room(folder: Path, size_bytes: int, *, min_free_bytes: int) -> None:
    """Stop before the disk is full, while there is still room to finish what was begun.

    Raises
    ------
    StorageExhausted
        If less than `min_free_bytes` would be left.
    """
    free = shutil.disk_usage(folder).free
    if free - size_bytes < min_free_bytes:
        raise _exhausted(f"{free // 2**20} MiB free in the archive", min_free_bytes)


class DurableFile:
    """A file under a temporary name, digested while it grows; it gets its name when it is whole and on disk.

    Whatever moment the power fails, a name stands for a whole file or for none: temporary file, fsync, rename, fsync of the
    folder.

    Parameters
    ----------
    folder : Path
        Where it is written, on the file system of its last place.
    min_free_bytes : int
        Room that must be left, looked at first and with every 16 MiB.

    Raises
    ------
    StorageExhausted
        If there is too little room.
    """

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder, self._min_free_bytes = folder, min_free_bytes
        self._room_checked_at = 0
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self.size_bytes = 0
        require_room(folder, 0, min_free_bytes=min_free_bytes)
        self._part = folder / f".{uuid.uuid4().hex}.part"
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)

    def write(self, data: bytes | memoryview) -> None:
        """Append.

        Raises
        ------
        StorageExhausted
            If the disk is full, or soon would be.
        """
        if self.size_bytes + len(data) - self._room_checked_at > _ROOM_CHECK_BYTES:
            self._room_checked_at = self.size_bytes
            require_room(self._folder, len(data), min_free_bytes=self._min_free_bytes)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise _translated(error) from error
        self._digest.update(data)
        self.size_bytes += len(data)
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]

    @property
    def digest(self) -> str:
        """``sha256:`` and the hex digest of what was written."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def head(self) -> bytes:
        """The first 256 KiB of what was written."""
        return bytes(self._head)

    def reader(self) -> BinaryIO:
        """Open what was written, to be read from its start."""
        return self._part.open("rb")

    def keep_as(self, final: Path) -> None:
        """Give the file its name, durably, in a folder that exists.

        A file of the same bytes that is there already is kept; one that has been damaged since is replaced.

        Raises
        ------
        StorageExhausted
            If the disk is full.
        """
        try:
            if not _holds(final, self.digest):
                os.fsync(self._descriptor)
                self._part.rename(final)
            _sync_folder(final.parent)
        except OSError as error:
            raise _translated(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close it, and remove it where it got no name; a second call changes nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._part.unlink(missing_ok=True)


def write_durably(folder: Path, name: str, data: bytes) -> Path:
    """Write `folder`/`name` so that it is whole and on disk, or not there at all; see `DurableFile`.

    Raises
    ------
    StorageExhausted
        If the disk is full.
    """
    final = folder / name
    make_folders(folder.parent, [folder.name])
    file = DurableFile(folder)
    try:
        file.write(data)
        file.keep_as(final)
    finally:
        file.discard()
    return final


def remove_leftovers(folder: Path, *, before_s: float) -> int:
    """Remove temporary files that a killed process left behind (last change before `before_s`); return how many."""
    removed = 0
    for part in folder.rglob(".*.part"):
        with suppress(FileNotFoundError):
            if part.stat().st_mtime < before_s:
                part.unlink()
                removed += 1
    return removed


def _holds(path: Path, digest: str) -> bool:
    """Whether a file is there and has these bytes."""
    try:
        with path.open("rb") as file:
            return digest_of_file(file) == digest
    except FileNotFoundError:
        return False


def make_folders(base: Path, names: Iterable[str]) -> None:
    """Make folders below one that are still there after a power failure."""
    made = set()
    for name in names:
        folder = base / name
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            made.add(folder.parent)
    for parent in made:
        _sync_folder(parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(error: OSError) -> Exception:
    """A full disk has an error of its own, which says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _exhausted("no room left while writing", 2**20)
    return error


def _exhausted(found: str, wanted_bytes: int) -> StorageExhausted:
    return StorageExhausted(
        found=found,
        allowed=f"at least {wanted_bytes // 2**20} MiB free after each instance",
        action="make room or enlarge the volume; senders may repeat then, nothing acknowledged is lost",
    )
