"""The verifier by itself: installed as an extra in an environment of its own, and as one file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from provenance.signing import SigningKey
from tests.builders_provenance import publish

_ROOT = Path(__file__).resolve().parents[2]
_NOT_NEEDED = {"torch", "monai", "transformers", "sqlalchemy", "dbos", "fastapi", "pynetdicom", "fhir.resources"}


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with nothing but the extra; needs a package index."""
    folder = tmp_path_factory.mktemp("verifier")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    installed = _pip(folder, "install", "--quiet", f"{wheel}[verify]")
    if "Could not find a version" in installed.stderr or "No matching distribution" in installed.stderr:
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody outside holds: a series, its sidecar, and the public keys."""
    folder, key = tmp_path_factory.mktemp("case"), SigningKey.generate()
    published = publish(key)
    (folder / "series").mkdir()
    for number, ds in enumerate(published.datasets):
        ds.save_as(folder / "series" / f"{number}.dcm", enforce_file_format=True)
    (folder / "attestation.veraicon.json").write_text(json.dumps(published.sidecar))
    (folder / "keys.json").write_text(json.dumps(key.public_jwks()))
    return folder


def _pip(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def _verify(command: list[str], case: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = ["verify", "series", "--keys", "keys.json", "--offline", "--json", *more]
    return subprocess.run(
        [*command, *arguments], cwd=case, capture_output=True, text=True, timeout=120, env={"HOME": str(case)}
    )


@pytest.mark.requirement("PROV-VERIFY-004")
def test_the_extra_verifies_without_torch_and_without_a_database(environment: Path, case: Path) -> None:
    names = {one["name"].lower() for one in json.loads(_pip(environment, "list", "--format", "json").stdout)}
    assert not names & _NOT_NEEDED
    done = _verify([str(environment / "bin/veraicon")], case)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"verdict": true' in done.stdout


def test_what_the_extra_does_not_hold_is_named_with_what_to_install(environment: Path, case: Path) -> None:
    done = subprocess.run(
        [str(environment / "bin/veraicon"), "serve"],
        cwd=case,
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(case)},
    )
    assert done.returncode == 78
    assert "pip install 'veraicon[site]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_one_file_verifies_where_only_the_libraries_are_installed(environment: Path, case: Path, tmp_path: Path) -> None:
    one_file = tmp_path / "veraicon-verify.pyz"
    subprocess.run([sys.executable, str(_ROOT / "tools/make_verifier.py"), str(one_file)], check=True, timeout=60)
    assert _pip(environment, "uninstall", "--yes", "veraicon").returncode == 0
    command = [str(environment / "bin/python"), str(one_file)]
    assert _verify(command, case).returncode == 0
    changed = dcmread(case / "series" / "1.dcm")
    changed.PatientID = "somebody"
    changed.save_as(case / "series" / "1.dcm")
    done = _verify(command, case)
    assert done.returncode == 1
    assert '"verdict": false' in done.stdout
