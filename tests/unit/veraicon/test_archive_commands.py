"""What the archive keeps aside, told on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicom_node.holding.files import digest_of
from domain.errors import UnreadableInstance
from domain.identifiers import derive_uid
from tests.builders_dicom import part10_series
from veraicon.cli import app
from veraicon.settings import load_settings
from veraicon.wiring import open_site


def canary(ds: Dataset) -> None:
    ds.PatientName = "Canary^Name"


def asked(config: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--config", str(config), "archive", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "veraicon.toml"
    path.write_text(f'[storage]\nfolder = "{tmp_path / "data"}"\nmin_free_mib = 1\n', encoding="utf-8")
    return path


@pytest.mark.requirement("DICOM-STORE-014")
def test_other_bytes_under_a_held_uid_are_listed_with_the_place_where_they_lie(config: Path) -> None:
    (held,), (other,) = part10_series(1), part10_series(1, change=canary)
    with open_site(load_settings(config)) as site:
        for data in (held, other):
            site.archive.land(data, source="CT1")
    told: Any = json.loads(asked(config, "conflicts", "--json"))
    assert told["count"] == 1
    (conflict,) = told["conflicts"]
    assert Path(conflict["path"]).read_bytes() == other
    assert (conflict["digest"], conflict["held_digest"]) == (digest_of(other), digest_of(held))
    assert (conflict["sop_instance_uid"], conflict["series_uid"], conflict["study_uid"], conflict["source"]) == (
        derive_uid("series", "instance", "1"),
        derive_uid("series", "series"),
        derive_uid("series", "study"),
        "CT1",
    )
    shown = asked(config, "conflicts")
    assert str(conflict["path"]) in shown
    assert conflict["landed"] in shown
    assert "Canary" not in shown + json.dumps(told)
    with open_site(load_settings(config)) as site:
        site.archive.land(held, source="CT1")
    assert "0 conflicts" in asked(config, "conflicts"), "the sender has sent again what is held"
    assert json.loads(asked(config, "conflicts", "--settled", "--json"))["conflicts"][0]["settled"]


@pytest.mark.requirement("DICOM-STORE-014")
def test_refused_bytes_are_listed_with_the_reason_and_the_place_where_they_lie(config: Path) -> None:
    spoilt = part10_series(1, change=canary)[0][:400]
    with open_site(load_settings(config)) as site, pytest.raises(UnreadableInstance) as why:
        site.archive.land(spoilt, source="CT2")
    told: Any = json.loads(asked(config, "refused", "--json"))
    (refused,) = told["refused"]
    assert Path(refused["path"]).read_bytes() == spoilt
    assert (refused["code"], refused["found"], refused["source"]) == (why.value.code, why.value.found, "CT2")
    shown = asked(config, "refused")
    assert "1 refused" in shown
    assert why.value.found in shown
    assert "Canary" not in shown + json.dumps(told)


def test_a_damaged_file_is_told_and_not_exported(config: Path, tmp_path: Path) -> None:
    with open_site(load_settings(config)) as site:
        landed = site.archive.land(part10_series(1)[0], source="CT1")
        path = site.archive.instance_path(landed.reference)
    whole = ["--config", str(config), "export", landed.series_uid, "--to", str(tmp_path / "whole")]
    assert CliRunner().invoke(app, whole).exit_code == 0
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    done = CliRunner().invoke(app, ["--config", str(config), "export", landed.series_uid, "--to", str(tmp_path / "out")])
    assert isinstance(done.exception, UnreadableInstance)
    assert not (tmp_path / "out" / "DICOMDIR").exists()
