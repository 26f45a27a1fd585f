"""Kill -9 at every step, and between push and settling: nothing acknowledged is lost, nothing happens twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fhir_adapter.local.intake import prepare_intake
from tests.builders_main_job import small_bundle
from tests.peers.veraicon_site import ENDED, VeraiconSite, veraicon_site
from veraicon.asking import request_from
from veraicon.jobs import describe
from veraicon.pipeline import JobState
from veraicon.settings import load_settings
from veraicon.wiring import open_site

_STEPS = ("received", "paired", "encoded", "generated", "checked", "published", "attested")
_BUNDLE = small_bundle("PGBM-002", {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0})


def _submit(site: VeraiconSite, series: Path) -> str:
    """Put the input where a server would have put it, and ask for one volume."""
    settings = load_settings(site.config)
    with open_site(settings) as parts:
        for path in sorted(series.glob("*.dcm")):
            parts.archive.land(path.read_bytes(), source="PACS")
        parts.fhir.transact(prepare_intake(_BUNDLE))
        source = parts.archive.unannounced(0)[0].series_uid
        request = request_from(parts.archive, source, settings.generation, requested_by="test", seed=11)
        assert parts.jobs.submit(request)
        assert not parts.jobs.submit(request)
    return request.request_id


def _look(site: VeraiconSite, job: str) -> dict[str, Any]:
    with open_site(load_settings(site.config)) as parts:
        return describe(parts.jobs.get(job))


@pytest.mark.requirement("PROV-JOB-001")
def test_a_job_survives_a_kill_in_every_step(
    tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path], eventually: Callable[..., Any]
) -> None:
    """One job is killed after each step's effect and again after its result is kept, before the engine knows of either."""
    with veraicon_site(tmp_path / "site", free_port) as site:
        job = _submit(site, data_folder("dicom/mr_hippocrop_PGBM-002"))
        for step in _STEPS:
            for point in ("effect", "done"):
                worker = site.start("work", environment={"VERAICON_FAULT": f"{step}:{point}"})
                assert worker.wait(timeout=120) == -signal.SIGKILL, f"{step}:{point} was not reached: {site.log()[-2000:]}"
                assert _look(site, job)["state"] not in ENDED - {"attested"}
        last = site.start("work")
        eventually(lambda: _engine_says(site, job) == "SUCCESS", deadline_s=60)
        last.terminate()
        last.wait(timeout=40)
        ended = _look(site, job)
        assert ended["state"] == "attested", ended
        _everything_happened_once(site, ended)


def _engine_says(site: VeraiconSite, job: str) -> str:
    with sa.create_engine(load_settings(site.config).database_url).connect() as connection:
        query = sa.text("SELECT status FROM workflow_status WHERE workflow_uuid = :job")
        return str(connection.execute(query, {"job": job}).scalar())


def _everything_happened_once(site: VeraiconSite, ended: dict[str, Any]) -> None:
    with open_site(load_settings(site.config)) as parts:
        assert len(parts.archive.references({"SeriesInstanceUID": [ended["generated_series_uid"]]})) == 32
        with parts.engine.connect() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM dicom_conflict")).scalar() == 0
        for kind, expected in (("Provenance", 1), ("ImagingStudy", 1), ("Device", 1)):
            resources = [resource.body for resource in parts.fhir.search(kind, {})]
            assert len(resources) == expected, kind
            assert [resource["meta"]["versionId"] for resource in resources] == ["1"], kind
    verified = site.run("verify", str(site.folder / "data" / "jobs" / ended["job"] / "series"), "--json")
    assert json.loads(verified.stdout)["verdict"] is True, verified.stdout


@pytest.mark.requirement("PROV-JOB-001")
def test_a_push_that_was_acknowledged_becomes_a_job_after_kill_minus_nine(
    tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path]
) -> None:
    series = data_folder("dicom/mr_hippocrop_PGBM-002")
    with veraicon_site(tmp_path / "site", free_port, "[worker]\nembedded = false\n") as site:
        serving = site.serve()
        httpx.post(f"{site.url}/fhir", json=_BUNDLE, timeout=30).raise_for_status()
        site.push(series)
        serving.kill()
        serving.wait(timeout=20)
        site.write_config("")
        site.serve()
        job = site.await_job()
        assert job["state"] == JobState.ATTESTED.value, job
        assert len(site.jobs()) == 1
