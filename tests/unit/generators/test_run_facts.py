from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from generators.run_facts import run_facts


@pytest.mark.requirement("PROV-CARD-003")
def test_facts_of_a_run_come_from_its_plan_its_losses_and_its_data(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    for folder in (run, data / "images", data / "labels"):
        folder.mkdir(parents=True)
    (run / "plan.json").write_text(
        json.dumps({"seed": 20261, "stages": ["autoencoder"], "batch": {"autoencoder": 2, "vae": 8}})
    )
    rows = [{"stage": "autoencoder", "step": 10, "time": 1000}, {"stage": "autoencoder", "step": 20, "held_out": 1.0}]
    rows += [{"stage": "autoencoder", "step": 30, "time": 2800}, {"stage": "denoiser", "step": 10, "time": 5000}]
    (run / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "images" / "b.nii.gz").write_bytes(b"image")
    (data / "labels" / "a.nii.gz").write_bytes(b"label")
    facts = dict(run_facts(run, data))
    assert facts["seed"] == "20261"
    assert facts["autoencoder batch"] == "2"
    assert "vae batch" not in facts
    assert facts["hours of the autoencoder, pauses included"] == "0.50"
    command = "sha256sum images/b.nii.gz labels/a.nii.gz | sha256sum"
    said = subprocess.run(command, shell=True, cwd=data, capture_output=True, text=True, check=True).stdout
    assert facts["data set digest"] == f"sha256:{said.split()[0]} over 2 files"


def test_what_a_run_does_not_say_is_left_out(tmp_path: Path) -> None:
    assert [name for name, _ in run_facts(tmp_path, tmp_path)] == ["data set digest"]
