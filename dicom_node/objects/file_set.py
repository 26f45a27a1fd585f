"""Instances as a DICOM file-set with its DICOMDIR: what goes onto a disc, or to a program that reads folders.

References
----------
DICOM PS3.10 section 8 (file-sets, file ids), PS3.3 F (Basic Directory IOD).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
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
# What a killed process leaves beside the folder begins so.
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
        If there is no file, or the folder is not empty.
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
    _require_writable(folder, len(sources))
    making = folder.parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    making.mkdir(parents=True)
    try:
        _write(headers, sources, making)
        making.replace(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return len(sources)


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


def _require_writable(folder: Path, count: int) -> None:
    if not count:
        raise RequestInvalid(found="no instance to export", allowed="one or more", action="name a series that is held")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestInvalid(
            found="an output folder that is not empty", allowed="a new or empty folder", action="name another folder"
        )


def _cannot_be_listed(found: str) -> UnreadableInstance:
    return UnreadableInstance(
        found=found,
        allowed=f"instances that state {', '.join(_NEEDED)} (PS3.3 F.5)",
        action="complete the series at its source, or leave it out",
    )
