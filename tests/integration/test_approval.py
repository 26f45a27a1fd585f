"""A site whose volumes a person approves: nothing leaves before, whatever dies, and the statement names the person."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhir_adapter.local.intake import prepare_intake
from tests.peers.orthanc import Orthanc, running_orthanc
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.asking import request_from
from veraicon.demo import SAMPLE
from veraicon.publishing import SIDECAR_NAME
from veraicon.settings import load_settings
from veraicon.wiring import open_site

_SETTINGS = """
[publication]
approval = "person"
[generation]
on_receive = false
redraws = 0
[worker]
embedded = false
[[destinations]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
commitment = "off"
"""


@pytest.fixture
def peer(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", dicom_port=free_port(), http_port=free_port(), node_port=free_port()) as running:
        yield running


def _submit(site: VeraiconSite, *seeds: int) -> list[str]:
    settings, jobs = load_settings(site.config), []
    with open_site(settings) as parts:
        for path in sorted((SAMPLE / "series").glob("*.dcm")):
            parts.archive.land(path.read_bytes(), source="PACS")
        parts.fhir.transact(prepare_intake(json.loads((SAMPLE / "patient.json").read_text())))
        source = parts.archive.unannounced(0)[0].series_uid
        for seed in seeds:
            request = request_from(parts.archive, source, settings.generation, requested_by="test", seed=seed)
            parts.jobs.submit(request)
            jobs.append(request.request_id)
    return jobs


def _shown(site: VeraiconSite, job: str) -> dict[str, Any]:
    return dict(httpx.get(f"{site.url}/jobs/{job}", timeout=10).json())


@pytest.mark.requirement("PROV-APPROVE-001")
def test_nothing_leaves_before_a_person_approves_and_the_statement_names_them(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., Any], peer: Orthanc
) -> None:
    with veraicon_site(tmp_path / "site", free_port, _SETTINGS.format(port=peer.peer.port)) as site:
        kept, refused = _submit(site, 1, 2)
        site.serve()
        for point in ("effect", "done"):  # killed right before it is held, and the worker after it holds again
            worker = site.start("work", environment={"VERAICON_FAULT": f"checked:{point}"})
            assert worker.wait(timeout=120) == -signal.SIGKILL, site.log()[-2000:]
        worker = site.start("work")
        eventually(lambda: [_shown(site, job)["state"] for job in (kept, refused)] == ["held", "held"], deadline_s=90)
        early = site.run("job", "approve", kept[:8], "--by", "")
        assert (early.returncode, "VI-2006" in early.stderr) == (65, True), early.stderr
        picture = tmp_path / "seen.png"
        assert site.run("job", "preview", kept, "--to", str(picture)).returncode == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert peer.get("/statistics")["CountInstances"] == 0, "something left before the approval"
        _refuse(site, refused)
        worker.kill()
        worker.wait(timeout=20)
        approved = site.run("job", "approve", kept[:8], "--by", "radiologist-7", "--note", "whole, no artefact")
        assert approved.returncode == 0, approved.stderr
        again = httpx.post(f"{site.url}/jobs/{kept}/approve", json={"by": "somebody-else"}, timeout=10)
        assert (again.status_code, again.json()["decision"]["by"]) == (202, "radiologist-7")
        _killed_while_it_publishes(site)
        site.start("work")
        eventually(lambda: _shown(site, kept)["state"] == "attested", deadline_s=90)
        assert peer.get("/statistics")["CountSeries"] == 2, "images and labels of the one that was approved"
        late = site.run("job", "approve", refused, "--by", "radiologist-7")
        assert (late.returncode, "VI-6004" in late.stderr) == (65, True), late.stderr
        _says_who(site, kept)
        assert site.run("job", "preview", kept, "--to", str(picture)).returncode == 0
        with open_site(load_settings(site.config)) as parts:
            held_by = {(copy.recipient, copy.protocol) for copy in parts.outputs.copies(kept)}
        assert (str(picture), "preview") in held_by, "a recall tells whoever keeps the picture"


def _refuse(site: VeraiconSite, job: str) -> None:
    answer = httpx.post(f"{site.url}/jobs/{job}/reject", json={"by": "radiologist-7", "reason": "blurred"}, timeout=10)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "rejected"
    assert answer.json()["decision"]["note"] == "blurred"
    assert answer.json()["error"]["code"] == "VI-4003"


def _killed_while_it_publishes(site: VeraiconSite) -> None:
    worker = site.start("work", environment={"VERAICON_FAULT": "published:effect"})
    assert worker.wait(timeout=120) == -signal.SIGKILL, site.log()[-2000:]


def _says_who(site: VeraiconSite, job: str) -> None:
    verified = site.run("verify", str(site.folder / "data" / "jobs" / job / SIDECAR_NAME), "--json")
    assert verified.returncode == 0, verified.stdout
    with open_site(load_settings(site.config)) as parts:
        from provenance.attest import verified_attestation

        content = json.loads((parts.jobs.artifacts(job).folder / SIDECAR_NAME).read_text())
        approval = verified_attestation(content, parts.keyring.public_jwks())["statement"]["approval"]
        provenance = parts.fhir.read(parts.jobs.get(job).provenance_reference).body
    assert (approval["kind"], approval["by"]) == ("person", "radiologist-7")
    verifiers = [agent for agent in provenance["agent"] if agent["type"]["coding"][0]["code"] == "verifier"]
    assert [agent["who"]["display"] for agent in verifiers] == ["radiologist-7"]


def test_a_held_job_that_was_cancelled_and_tried_again_is_held_again(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., Any]
) -> None:
    settings = '[publication]\napproval = "person"\n[worker]\nembedded = false\n'
    with veraicon_site(tmp_path / "site", free_port, settings) as site:
        (job,) = _submit(site, 1)
        site.serve()
        site.start("work")
        eventually(lambda: _shown(site, job)["state"] == "held", deadline_s=90)
        assert site.run("job", "cancel", job).returncode == 0
        told = site.run("job", "approve", job, "--by", "radiologist-7")
        assert "VI-6004" in told.stderr
        assert site.run("job", "retry", job).returncode == 0
        eventually(lambda: _shown(site, job)["state"] == "held", deadline_s=60)
        httpx.post(f"{site.url}/jobs/{job}/approve", json={"by": "radiologist-7"}, timeout=10).raise_for_status()
        eventually(lambda: _shown(site, job)["state"] == "attested", deadline_s=60)
