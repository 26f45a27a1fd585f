from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {"domain", "fhir_adapter", "dicom_node", "multimodal", "generators", "provenance", "quality", "veraicon"}


def test_wheel_holds_our_packages_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == _PACKAGES


def test_wheel_holds_weights_sample_and_migrations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "generators/bundles/hippocampus-t1/weights.safetensors",
        "generators/bundles/hippocampus-t1/card.json",
        "veraicon/sample/patient.json",
        "veraicon/migrations/env.py",
        "domain/py.typed",
    } <= names
    assert any(name.startswith("veraicon/sample/series/") for name in names)
    migrations = {
        f"veraicon/migrations/versions/{path.name}" for path in (_ROOT / "veraicon/migrations/versions").glob("0*.py")
    }
    assert migrations
    assert migrations <= names


def test_installed_wheel_runs_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Install without dependencies into a folder of its own, put before everything else, and run the command line."""
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    code = "import sys, veraicon; print(veraicon.__file__); from veraicon.cli import app; app(['models', 'show', 'hippocampus-t1'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, env={"PYTHONPATH": str(target)}
    )
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    assert "CC BY-SA 4.0" in done.stdout or "CC-BY-SA-4.0" in done.stdout
