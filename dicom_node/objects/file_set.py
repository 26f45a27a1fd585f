"""Instances as a DICOM file-set with its DICOMDIR: what goes onto a disc, or to a program that reads folders.

References
----------
DICOM PS3.10 section 8 (file-sets, file ids), PS3.3 F (Basic Directory IOD).
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet
from pydicom.uid import UID

from dicom_node.holding.headers import PARSE_ERRORS, text_of
from domain.errors import RequestInvalid, UnreadableInstance
from domain.identifiers import derive_uid

# What a directory must name (PS3.3 F.5) and nobody may make up.
_NEEDED = ("PatientID", "StudyDate", "StudyTime", "StudyInstanceUID", "Modality", "SeriesInstanceUID")
# Numbers that a directory must name and instances may leave empty: told as this then, in the directory alone.
_NUMBERS = ("StudyID", "SeriesNumber", "InstanceNumber")
_NO_NUMBER = "0"
FILE_SET_ID = "VERAICON"
# What a killed process leaves beside the folder begins so; the next try to write the same folder removes it.
UNFINISHED = ".unfinished-"


def write_file_set(files: Iterable[Path], folder: Path) -> int:
    """Write a file-set with a DICOMDIR and return how many instances are in it.

    The files keep their bytes; only their names change (``PT000000/ST000000/SE000000/IM000000``). The same files give the same
    file-set.

    Parameters
    ----------
    files : iterable of Path
        Part 10 files; of a SOP Instance UID that comes twice the first one is taken.
    folder : Path
        Root of the file-set: new or empty. It is there whole, or not at all.

    Raises
    ------
    RequestInvalid
        If there is no file, the folder is not empty, or another process is writing it.
    UnreadableInstance
        If a file cannot be read, or lacks what a directory must name.
    """
    sources: dict[str, Path] = {}
    headers: list[Dataset] = []
    for path in files:
        header = _directory_header(path)
        if str(header.SOPInstanceUID) not in sources:
            sources[str(header.SOPInstanceUID)] = path
            headers.append(header)
    if not sources:
        raise RequestInvalid(found="no instance to export", allowed="one or more", action="name a series that is held")
    require_free(folder)
    with _alone_in(folder.parent / f"{UNFINISHED}{folder.name}") as making:
        _write(headers, sources, making)
        require_free(folder)
        making.replace(folder)
    return len(sources)


def require_free(folder: Path) -> None:
    """Go on only with a folder that is new or empty.

    Raises
    ------
    RequestInvalid
        If something is there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestInvalid(
            found="an output folder that is not empty", allowed="a new or empty folder", action="name another folder"
        )


@contextmanager
def _alone_in(making: Path) -> Iterator[Path]:
    """Give an empty folder to one process at a time; what a killed one left in it is removed first, and all at the end."""
    making.mkdir(parents=True, exist_ok=True)
    lock = os.open(making, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise under_way() from error
        # Another process may have finished, and moved the folder, between the two lines above.
        if not making.exists() or not os.path.samestat(os.fstat(lock), making.stat()):
            raise under_way()
        try:
            for leftover in making.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield making
        finally:
            shutil.rmtree(making, ignore_errors=True)
    finally:
        os.close(lock)


def under_way() -> RequestInvalid:
    """Return the refusal of a second process that writes the same folder."""
    return RequestInvalid(
        found="an export to this folder that is under way", allowed="one at a time", action="wait for it to end"
    )


def _write(headers: list[Dataset], sources: dict[str, Path], root: Path) -> None:
    """Let pydicom name and list the headers, then put the whole files in their places: it would write them anew."""
    headers.sort(key=_place)
    file_set = FileSet()
    try:
        file_set.ID = FILE_SET_ID
        file_set.UID = UID(derive_uid("file-set", *sorted(sources)))
        for header in headers:
            _add(file_set, header)
        file_set.write(root)
        for instance in file_set:
            shutil.copyfile(sources[str(instance.SOPInstanceUID)], instance.path)
    finally:
        file_set._stage["t"].cleanup()  # pydicom leaves its temporary folder to the garbage collector, which warns of it


def _add(file_set: FileSet, header: Dataset) -> None:
    try:
        file_set.add(header)
    except (*PARSE_ERRORS, OSError) as error:
        raise _cannot_be_listed(f"an instance of {UID(header.SOPClassUID).name} that lacks a needed attribute") from error


def _directory_header(path: Path) -> Dataset:
    """Return what a directory may name of one file."""
    try:
        header = dcmread(path, stop_before_pixels=True)
    except (*PARSE_ERRORS, OSError) as error:
        raise _cannot_be_listed(f"a file that does not parse as DICOM ({type(error).__name__})") from error
    missing = [keyword for keyword in (*_NEEDED, "SOPInstanceUID", "SOPClassUID") if not text_of(header, keyword)]
    if missing:
        raise _cannot_be_listed(f"an instance without {', '.join(missing)}")
    for keyword in _NUMBERS:
        if not text_of(header, keyword):
            setattr(header, keyword, _NO_NUMBER)
    _drop_report_content(header)
    return header


def _drop_report_content(header: Dataset) -> None:
    """Leave only what modifies a report's title: a directory repeats no more of its content (PS3.3 F.5.27)."""
    if "ContentSequence" not in header:
        return
    kept = [item for item in header.ContentSequence if text_of(item, "RelationshipType") == "HAS CONCEPT MOD"]
    del header.ContentSequence
    if kept:
        header.ContentSequence = kept


def _place(header: Dataset) -> tuple[str, str, int, str, int, str]:
    """Order of names: by patient, study, series and number, whatever the order of the files was."""
    series, instance = (text_of(header, keyword) for keyword in ("SeriesNumber", "InstanceNumber"))
    return (
        text_of(header, "PatientID"),
        text_of(header, "StudyInstanceUID"),
        int(series) if series.isdigit() else 0,
        text_of(header, "SeriesInstanceUID"),
        int(instance) if instance.isdigit() else 0,
        text_of(header, "SOPInstanceUID"),
    )


def _cannot_be_listed(found: str) -> UnreadableInstance:
    return UnreadableInstance(
        found=found,
        allowed=f"instances that state {', '.join(_NEEDED)} (PS3.3 F.5)",
        action="complete the series at its source, or leave it out",
    )
