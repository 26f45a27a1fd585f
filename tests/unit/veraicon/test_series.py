"""A series that somebody declares complete, over HTTP and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from domain.identifiers import derive_uid
from tests.builders_dicom import part10_series
from veraicon.api.app import create_app
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

SERIES = derive_uid("series", "series")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "veraicon.toml"
    path.write_text(
        f'[storage]\nfolder = "{tmp_path / "data"}"\nmin_free_mib = 1\n[http]\ntoken = "secret"\n', encoding="utf-8"
    )
    return path


@pytest.fixture
def site(config: Path) -> Iterator[Site]:
    with open_site(load_settings(config)) as opened:
        yield opened


@pytest.mark.requirement("DICOM-SETTLE-002")
def test_http_settles_a_held_series_for_whoever_has_the_token(site: Site) -> None:
    with TestClient(create_app(site)) as client:
        assert client.post(f"/series/{SERIES}/settle").status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        assert client.post(f"/series/{SERIES}/settle").status_code == 404
        assert client.post("/series/no-uid/settle").status_code == 400
        for data in part10_series(2):
            site.archive.land(data, source="CT1")
        assert site.archive.unannounced(3600) == []
        answer = client.post(f"/series/{SERIES}/settle")
        assert (answer.status_code, answer.json()) == (202, {"series_uid": SERIES, "instances": 2, "handed_on": False})
    assert [found.series_uid for found in site.archive.unannounced(3600)] == [SERIES]


@pytest.mark.requirement("DICOM-SETTLE-002")
def test_the_command_settles_a_held_series(site: Site, config: Path) -> None:
    command = [sys.executable, "-m", "veraicon", "--config", str(config), "series", "settle", SERIES, "--json"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, "ResourceNotFound" in refused.stderr) == (65, True), refused.stderr
    for data in part10_series(2):
        site.archive.land(data, source="CT1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["instances"] == 2
    assert [found.series_uid for found in site.archive.unannounced(3600)] == [SERIES]
