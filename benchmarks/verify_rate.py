"""How many instances `veraicon verify FOLDER` verifies in a second, start-up included, offline and without torch.

Run it from the repository root: ``python benchmarks/verify_rate.py [--instances 1000] [--runs 7]``. It publishes made-up series
of 40 slices of 48 x 40 voxels, each request with its sidecar, Provenance and Bundle, verifies the folder several times as a
user would (a process of its own each time), and prints rows of a Markdown table: median, and the range of all runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.holding.files import to_part10
from dicom_node.writing import write_series
from domain.generation import Publication, Receipt
from fhir_adapter.bundles import publication_bundle
from provenance.as_dicom import embed_series
from provenance.attest import SIDECAR_NAME, attest, sidecar
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_provenance import NOW, MemoryLog, make_series, make_statement
from tests.builders_quality import make_card

_ROOT = Path(__file__).resolve().parents[1]

SLICES, ROWS, COLUMNS = 40, 48, 40


def publish(folder: Path, request_id: str, key: SigningKey, log: MemoryLog) -> int:
    """Put the series of one request and everything beside it into a folder; return how many instances it has."""
    phantom = generated_phantom()
    voxels = np.random.default_rng(abs(hash(request_id)) % 2**32).random((SLICES, ROWS, COLUMNS), dtype=np.float32)
    volume = replace(phantom, volume=replace(phantom.volume, array=voxels))
    instances = write_series(volume, series_identity(request_id), source=source_series())
    series = make_series(instances)
    statement = make_statement(request_id, series)
    embed_series(instances, series, sign_statement(statement, key), provenance_reference(request_id))
    publication = Publication(request_id, series, (Receipt("pacs", "C-STORE", len(instances), NOW),))
    attestation, resources = attest(
        statement, publication, make_card(), key, now=NOW, organization="Example Hospital", enter=log.enter
    )
    folder.mkdir()
    for number, ds in enumerate(instances):
        (folder / f"{number:05d}.dcm").write_bytes(to_part10(ds))
    (folder / SIDECAR_NAME).write_text(json.dumps(sidecar(attestation)), encoding="utf-8")
    (folder / "fhir-bundle.json").write_text(json.dumps(publication_bundle(resources)), encoding="utf-8")
    return len(instances)


def verify(folder: Path, keys: Path, jobs: int) -> float:
    """Return the seconds that one verification took; everything must be true."""
    command = [sys.executable, "-m", "veraicon", "verify", str(folder), "--keys", str(keys), "--offline", "--json"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--jobs", str(jobs)], capture_output=True, text=True, cwd=_ROOT, check=False)
    taken = time.perf_counter() - began
    if done.returncode or not json.loads(done.stdout)["verdict"]:
        raise SystemExit(f"the folder does not verify: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return taken


def row(what: str, instances: int, taken: list[float]) -> str:
    """Return a row of the table."""
    rates = sorted(instances / one for one in taken)
    return f"| {what} | {len(taken)} | {statistics.median(rates):.0f} | {rates[0]:.0f} to {rates[-1]:.0f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    key = SigningKey.generate()
    log = MemoryLog(key)
    with tempfile.TemporaryDirectory() as name:
        folder, keys = Path(name) / "published", Path(name) / "jwks.json"
        folder.mkdir()
        keys.write_text(json.dumps(key.public_jwks()), encoding="utf-8")
        requests = -(-options.instances // SLICES)
        instances = sum(publish(folder / f"r{n}", f"request-{n}", key, log) for n in range(requests))
        print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, Python ", end="")
        print(f"{platform.python_version()}; {instances} instances of {requests} requests\n")
        print("| `veraicon verify FOLDER` | runs | instances a second, median | all runs |")
        print("|---|---|---|---|")
        verify(folder, keys, 0)  # fills the caches of the file system
        for what, jobs in (("as it comes", 0), ("one process", 1)):
            print(row(what, instances, [verify(folder, keys, jobs) for _ in range(options.runs)]))


if __name__ == "__main__":
    main()
