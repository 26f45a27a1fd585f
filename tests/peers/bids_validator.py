"""The BIDS validator of the BIDS maintainers (PyPI bids-validator-deno), as an outside judge of what we export; it runs offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def bids_errors(folder: Path) -> list[str]:
    """Return the errors that the validator finds in a data set, each with its place."""
    name = "bids-validator-deno"
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"validator not here: {name} (PyPI {name})")
    with tempfile.TemporaryDirectory() as elsewhere:  # its runtime reads nothing below /dev, where folders of tests may lie
        judged = shutil.copytree(folder, Path(elsewhere) / folder.name)
        done = subprocess.run([found, str(judged), "--json"], capture_output=True, text=True, timeout=120, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{one['code']} {one.get('subCode', '')} {one.get('location', '')}" for one in issues if one["severity"] == "error"]
