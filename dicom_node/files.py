"""Part 10 bytes, their digests, and the only way in which we write a file: safe on disk before anybody is told."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from domain.errors import StorageExhausted
from domain.identifiers import derive_uid

# PS3.7 D.3.3.2: names this implementation; ours for good, so it must not follow a version.
IMPLEMENTATION_CLASS_UID = UID(derive_uid("veraicon", "implementation-class"))
IMPLEMENTATION_VERSION_NAME = "VERAICON_1"

_PREAMBLE = b"\0" * 128 + b"DICM"


def digest_of(data: bytes) -> str:
    """Return ``sha256:`` and the hex digest of some bytes.

    Examples
    --------
    >>> digest_of(b"")[:14]
    'sha256:e3b0c44'
    """
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


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


def wrap_encoded(encoded: bytes, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return a Part 10 file around a dataset as it came over the wire, without decoding it."""
    meta = DicomBytesIO()
    write_file_meta_info(meta, file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid))
    return b"".join((_PREAMBLE, meta.getvalue(), encoded))


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


def write_durably(folder: Path, name: str, data: bytes) -> Path:
    """Write `folder`/`name` so that it is whole and on disk, or not there at all, whatever moment the power fails.

    Temporary file, fsync, rename, fsync of the folder. A file that is there already is kept: names are digests, so it holds
    the same bytes.

    Raises
    ------
    StorageExhausted
        If the disk is full.
    """
    final = folder / name
    try:
        _make_folder(folder)
        if not final.exists():
            _write_and_rename(folder / f".{uuid.uuid4().hex}.part", final, data)
        _sync_folder(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _exhausted("no room left while writing", len(data)) from error
        raise
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


def _write_and_rename(part: Path, final: Path, data: bytes) -> None:
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.rename(final)
    finally:
        part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exhausted(found: str, wanted_bytes: int) -> StorageExhausted:
    return StorageExhausted(
        found=found,
        allowed=f"at least {wanted_bytes // 2**20} MiB free after each instance",
        action="make room or enlarge the volume; senders may repeat then, nothing acknowledged is lost",
    )
