"""A real FHIR R4 server on loopback: `sekmet serve` (PyPI sekmet-fhir), started and stopped by the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SETTINGS = """\
base_url: {url}
host: 127.0.0.1
port: {port}
data_dir: {folder}/data
simulator: {{enabled: false}}
"""


def find_sekmet() -> str:
    """Return the program, or skip by its name."""
    named = os.environ.get("VERAICON_SEKMET")
    beside = _ROOT / ".venv-sekmet" / "bin" / "sekmet"
    program = named or (str(beside) if beside.exists() else shutil.which("sekmet"))
    if not program:
        pytest.skip("FHIR server not here: sekmet (PyPI sekmet-fhir in .venv-sekmet, or VERAICON_SEKMET)")
    return program


@contextmanager
def running_sekmet(folder: Path, port: int, *, deadline_s: float = 60.0) -> Iterator[str]:
    """Run the server with its data in `folder`; gives its base URL once it answers, and stops it at the end."""
    program, url = find_sekmet(), f"http://127.0.0.1:{port}/fhir"
    settings = folder / "settings.yaml"
    settings.write_text(_SETTINGS.format(url=url, port=port, folder=folder), encoding="utf-8")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", "-c", str(settings)], stdout=log, stderr=log, cwd=folder)
        try:
            _await_answer(process, f"{url}/metadata", folder, deadline_s)
            yield url
        finally:
            process.kill()  # nobody reads what it would still write
            process.wait(timeout=20)


def _await_answer(process: subprocess.Popen[bytes], url: str, folder: Path, deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"sekmet did not start: {(folder / 'server.log').read_text(errors='replace')[-2000:]}")
