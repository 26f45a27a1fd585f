"""Files that a person names on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domain.errors import RequestInvalid, UnreadableInstance
from fhir_adapter.json_text import parse_json_once


def dicom_files(target: Path) -> list[Path]:
    """Return the Part 10 files of a target, by name: itself, or all below a folder, whatever their suffix.

    Raises
    ------
    UnreadableInstance
        If a folder holds none.
    """
    paths = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else [target]
    files = [path for path in paths if _is_part10(path)]
    if target.is_dir() and not files:
        raise UnreadableInstance(
            found=f"no DICOM file among {len(paths)} files",
            allowed="Part 10 files (DICM at byte 128)",
            action="name the folder of a series",
        )
    return files


def _is_part10(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; numbers keep their digits.

    Raises
    ------
    RequestInvalid
        If the file cannot be read or holds no JSON object.
    """
    try:
        content = parse_json_once(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestInvalid(
            found=f"{path.name}, which cannot be read as JSON", allowed="a JSON object", action="check the file"
        ) from error
    if not isinstance(content, dict):
        raise RequestInvalid(found=f"{path.name}, which holds no JSON object", allowed="a JSON object", action="check the file")
    return content
