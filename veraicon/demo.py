"""`veraicon demo`: the whole main job on this machine, told as a short story.

The demo is only a customer: it starts `veraicon serve`, pushes a study over a real association, posts the patient's Bundle over
HTTP, and looks at what comes out with the commands and files that anybody has.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset, dcmread
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dicom_node.calling.sending import store
from dicom_node.reading import read_volume
from dicom_node.scu import Peer
from domain.errors import AttemptsExhausted, PeerUnreachable, RequestInvalid, VerificationFailed
from domain.findings import QualityReport
from domain.pairing import PairedContext
from domain.volume import Volume, to_patient_axes
from fhir_adapter.outcomes import error_classes
from provenance.attest import SIDECAR_NAME
from veraicon.artifacts import GENERATED_VOLUME, json_codec
from veraicon.commands.console import err, out
from veraicon.files import dicom_files
from veraicon.pipeline import JobState
from veraicon.preview import draw, origin_of
from veraicon.sections import GenerationSettings
from veraicon.settings import load_settings
from veraicon.verifying.targets import verify
from veraicon.wiring import open_site

SAMPLE = Path(__file__).parent / "sample"
_DEADLINE_S = 180.0


@dataclass(frozen=True)
class Server:
    """A running `veraicon serve` of the demo."""

    folder: Path
    config: Path
    dicom_port: int
    http: httpx.Client

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()


def run(folder: Path, *, dicom: Path | None = None, fhir: Path | None = None) -> None:
    """Run the demo and leave everything that it made in `folder`.

    Parameters
    ----------
    folder : Path
        Emptied first if an earlier demo made it.
    dicom, fhir : Path or None
        The user's own series and Bundle; None for the packaged sample, which our own generator made.

    Raises
    ------
    VeraiconError
        What the job ended with, or `VerificationFailed` if the result does not verify.
    """
    _prepare(folder)
    instances = _read_series(dicom or SAMPLE / "series")
    bundle = (fhir or SAMPLE / "patient.json").read_bytes()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("starting the server")
        with _server(folder) as server:
            progress.update(task, description="the EHR sends the patient's Bundle")
            server.http.post("/fhir", content=bundle, headers={"Content-Type": "application/fhir+json"}).raise_for_status()
            progress.update(task, description="the PACS pushes the study")
            _push(server, instances)
            job = _await_end(server, progress, task)
            _collect(server, job)
    _tell(folder, job, instances)


def _prepare(folder: Path) -> None:
    marker = folder / ".veraicon-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise RequestInvalid(
            found="an output folder with other files in it", allowed="a new or empty folder", action="name another --out"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def _read_series(path: Path) -> list[Dataset]:
    instances: list[Dataset] = [dcmread(file) for file in dicom_files(path)]
    series = {str(ds.SeriesInstanceUID) for ds in instances}
    if len(series) != 1:
        raise RequestInvalid(
            found=f"{len(series)} series in --dicom", allowed="one series for the demo", action="name the folder of one series"
        )
    return instances


@contextmanager
def _server(folder: Path) -> Iterator[Server]:
    """Run `veraicon serve` on free ports, with everything embedded."""
    dicom_port, http_port = _free_ports(2)
    config = folder / "veraicon.toml"
    config.write_text(
        f'[storage]\nfolder = "{(folder / "data").absolute()}"\n'
        f"[node]\nport = {dicom_port}\nsettle_s = 1.0\n[http]\nport = {http_port}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "veraicon", "--config", str(config), "serve"]
    with (folder / "server.log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
        http = httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=60, trust_env=False)
        server = Server(folder, config, dicom_port, http)
        try:
            _await_start(server, process)
            yield server
        finally:
            http.close()
            process.send_signal(signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _await_start(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if server.http.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise PeerUnreachable(
        found="a server that does not start", allowed="an answer at /health", action=f"read {server.folder / 'server.log'}"
    )


def _push(server: Server, instances: list[Dataset]) -> None:
    store(
        Peer(
            name="our own node",
            ae_title="VERAICON",
            host="127.0.0.1",
            port=server.dicom_port,
            calling_ae_title="DEMO-PACS",
            timeout_s=60,
        ),
        instances,
    )


def _await_end(server: Server, progress: Progress, task: Any) -> dict[str, Any]:
    end = time.monotonic() + _DEADLINE_S
    while time.monotonic() < end:
        jobs = sorted(server.get("/jobs"), key=lambda job: -int(job["draw"]))
        if jobs:
            progress.update(task, description=f"the server works: draw {jobs[0]['draw']}, {jobs[0]['state']}")
            if JobState(jobs[0]["state"]).ended and not _draws_again(jobs[0]):
                return dict(jobs[0])
        time.sleep(0.1)
    raise AttemptsExhausted(
        found="no finished job in time",
        allowed=f"an end within {_DEADLINE_S:g} s",
        action=f"read {server.folder / 'server.log'}",
    )


def _draws_again(job: dict[str, Any]) -> bool:
    """True where the server asks again by itself after a rejected volume."""
    return JobState(job["state"]) is JobState.REJECTED and int(job["draw"]) <= GenerationSettings().redraws


def _collect(server: Server, job: dict[str, Any]) -> None:
    """Fetch what anybody may fetch: public keys and Provenance."""
    (server.folder / "jwks.json").write_text(json.dumps(server.get("/.well-known/jwks.json")), encoding="utf-8")
    if job["provenance"]:
        provenance = server.http.get(f"/fhir/{job['provenance']}")
        (server.folder / "provenance.json").write_bytes(provenance.content)


def _tell(folder: Path, job: dict[str, Any], instances: list[Dataset]) -> None:
    """Tell the story from what the server kept, and verify the result with the public key alone."""
    settings = load_settings(folder / "veraicon.toml")
    source = to_patient_axes(read_volume(instances))
    out.print(f"[bold]in[/]        {len(instances)} {source.modality} instances, {_size(source)}, pushed by DEMO-PACS")
    with open_site(settings) as site:
        if job["error"]:
            _raise_ended(job)
        rejected = site.jobs.recent(states=[JobState.REJECTED])
        kept = site.jobs.artifacts(job["job"]).folder
        paired = json_codec(PairedContext).read(kept / "paired.json")
        generated = GENERATED_VOLUME.read(kept / "generated.npz")
        report = json_codec(QualityReport).read(kept / "checked.json")
        steps = site.jobs.timings(job["job"])
        origin = origin_of(job["job"], kept)
        shutil.copytree(kept / "series", folder / "series")
        shutil.copy(kept / SIDECAR_NAME, folder)
    for row in rejected:
        out.print("[bold]rejected[/]  an earlier draw: ", end="")
        out.print(str((row.error or {}).get("found")), markup=False)
    facts = f"{len(paired.context.facts)} facts as of the imaging time"
    out.print(f"[bold]paired[/]    by {'; '.join(evidence.statement for evidence in paired.evidence)}; {facts}")
    told = generated.conditioning
    out.print(f"[bold]asked[/]     {generated.model.name} obeys: {', '.join(told.used) or 'nothing'}", end="")
    out.print(f"; not known: {', '.join(told.missing)}" if told.missing else "")
    out.print(f"[bold]steps[/]     {', '.join(f'{name} {seconds:.2f} s' for name, seconds in steps)}")
    for finding in report.findings:
        out.print(f"[bold]check[/]     {finding.check}: {finding.outcome.value}. ", end="")
        out.print(finding.statement, markup=False)
    out.print(f"[bold]out[/]       series {job['generated_series_uid']} in {folder / 'series'}, and in our archive")
    out.print(f"[bold]lineage[/]   {job['provenance']} in {folder / 'provenance.json'}")
    picture = draw(
        source,
        generated.volume,
        folder / "side-by-side.png",
        caption=f"{generated.model.name}, seed {generated.seed}",
        origin=origin,
    )
    out.print(f"[bold]picture[/]   {picture}")
    verdict = verify(folder / "series", settings=lambda: settings, keys=folder / "jwks.json", offline=True)
    out.print(f"[bold]verify[/]    {'true' if verdict.verdict else 'false'}: ", end="")
    out.print(", ".join(f"{claim.name} {claim.truth.value}" for claim in verdict.claims), markup=False)
    if not verdict.verdict:
        raise VerificationFailed(
            found="; ".join(claim.why for claim in verdict.false),
            allowed="every claim true",
            action="report this with the folder",
        )


def _size(volume: Volume) -> str:
    return (
        " x ".join(str(length) for length in volume.shape)
        + " voxels of "
        + " x ".join(f"{mm:g}" for mm in volume.spacing_mm)
        + " mm"
    )


def _raise_ended(job: dict[str, Any]) -> None:
    """Raise the error that a job ended with, as its own class."""
    problem = job["error"]
    kinds = {kind.code: kind for kind in error_classes()}
    raise kinds[problem["code"]](problem["found"], allowed=problem["allowed"], action=problem["next"])
