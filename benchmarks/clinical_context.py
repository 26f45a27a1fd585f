"""What it takes to read one patient of 2,000 resources: round trips, seconds, and MB/s of parsing.

Run it from the repository root: ``python benchmarks/clinical_context.py [--resources 2000] [--runs 15] [--bundles FOLDER]``. It
starts a real FHIR server (sekmet) on loopback and our own store in a temporary folder, writes made-up resources into both, and
prints rows of a Markdown table. Medians stand with the 2.5 and 97.5 percentile of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fhir_adapter.clinical.ehr import EhrReader
from fhir_adapter.json_text import parse_json
from fhir_adapter.local.store import LocalFhirStore
from fhir_adapter.server.client import FhirClient
from veraicon.database import connect, migrate
from veraicon.settings import load_settings

_ROOT = Path(__file__).resolve().parents[1]
_START = datetime(2020, 1, 1, tzinfo=UTC)
_AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
_LOINC, _SNOMED, _UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
_ENTRIES = 500


def patient(count: int) -> list[dict[str, Any]]:
    """Return one Patient and `count` resources of theirs: four in five Observations, else Conditions and Procedures."""
    return [{"resourceType": "Patient", "id": "bench-1"}, *(_resource(n) for n in range(count))]


def _resource(n: int) -> dict[str, Any]:
    moment = (_START + timedelta(hours=20 * n)).isoformat()
    common = {"id": f"bench-r{n}", "subject": {"reference": "Patient/bench-1"}}
    if n % 10 == 8:
        code = {"coding": [{"system": _SNOMED, "code": "38341003", "display": "Hypertension"}]}
        state = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
        return {"resourceType": "Condition", **common, "code": code, "clinicalStatus": state, "recordedDate": moment}
    if n % 10 == 9:
        code = {"coding": [{"system": _SNOMED, "code": "241615005", "display": "MRI"}]}
        return {"resourceType": "Procedure", **common, "status": "completed", "code": code, "performedDateTime": moment}
    quantity = {"value": Decimal(f"{60 + n % 40}.50"), "unit": "mg/dL", "system": _UCUM, "code": "mg/dL"}
    code = {"coding": [{"system": _LOINC, "code": "2339-0", "display": "Glucose"}]}
    observed = {"status": "final", "code": code, "effectiveDateTime": moment, "valueQuantity": quantity}
    return {"resourceType": "Observation", **common, **observed}


def fill(store: FhirClient | LocalFhirStore, resources: list[dict[str, Any]]) -> None:
    """Write the resources, some hundred in each transaction."""
    for start in range(0, len(resources), _ENTRIES):
        part = resources[start : start + _ENTRIES]
        entries = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in part]
        store.transact({"resourceType": "Bundle", "type": "transaction", "entry": entries})


@contextmanager
def sekmet(folder: Path) -> Iterator[str]:
    """Run the FHIR server; give its base URL."""
    beside = _ROOT / ".venv-sekmet" / "bin" / "sekmet"
    program = os.environ.get("VERAICON_SEKMET") or (str(beside) if beside.exists() else shutil.which("sekmet"))
    if not program:
        raise SystemExit("FHIR server not here: sekmet (PyPI sekmet-fhir in .venv-sekmet, or VERAICON_SEKMET)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, settings = f"http://127.0.0.1:{port}/fhir", folder / "settings.yaml"
    lines = (f"base_url: {url}", "host: 127.0.0.1", f"port: {port}", f"data_dir: {folder}/data", "simulator: {enabled: false}")
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", "-c", str(settings)], stdout=log, stderr=log, cwd=folder)
        try:
            _await(f"{url}/metadata")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


def _await(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the FHIR server did not start within a minute")


def seconds(runs: int, do: Callable[[], object]) -> list[float]:
    """Return the wall time of each run; one run before them is not counted."""
    do()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        do()
        taken.append(time.perf_counter() - start)
    return taken


def told(values: list[float], unit: str) -> str:
    """Return median and 95 % interval of the runs."""
    ends = statistics.quantiles(values, n=40, method="inclusive")
    return f"{statistics.median(values):.3g} {unit} ({ends[0]:.3g} to {ends[-1]:.3g}, n={len(values)})"


def _snapshot(store: FhirClient | LocalFhirStore) -> int:
    """Read as the first job of a process does: nothing of the server is known yet."""
    context = EhrReader(store, salt=b"0" * 16).snapshot("Patient/bench-1", _AS_OF)
    return len(context.facts) + sum(entry.count for entry in context.left_out)


class _Socket:
    """Time that requests spend outside our code: from the first byte sent to the last one received."""

    def __init__(self) -> None:
        self.taken_s = 0.0

    def __enter__(self) -> _Socket:
        self._send = httpx.HTTPTransport.handle_request
        ours = self

        def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            start = time.perf_counter()
            response = ours._send(transport, request)
            content = b"".join(response.iter_raw())
            ours.taken_s += time.perf_counter() - start
            return httpx.Response(response.status_code, headers=response.headers, content=content)

        httpx.HTTPTransport.handle_request = handle  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        httpx.HTTPTransport.handle_request = self._send  # type: ignore[method-assign]


def over_server(folder: Path, resources: list[dict[str, Any]], runs: int) -> None:
    """Measure the real server."""
    with sekmet(folder) as url, FhirClient(url) as client:
        fill(client, resources)
        before = client.requests
        facts = _snapshot(client)
        trips = client.requests - before
        taken = seconds(runs, lambda: _snapshot(client))
        at_socket = []
        for _ in range(min(runs, 5)):
            with _Socket() as waited:
                _snapshot(client)
            at_socket.append(waited.taken_s)
        print(f"| sekmet at {urlsplit(url).hostname}, {len(resources)} resources, {facts} facts kept or left out |")
        print(f"| round trips of one snapshot, the CapabilityStatement included | {trips} |")
        print(f"| one snapshot | {told(taken, 's')} |")
        print(f"| of it at the socket | {told(at_socket, 's')} |")


def over_store(folder: Path, resources: list[dict[str, Any]], runs: int) -> None:
    """Measure our own store."""
    settings = load_settings(storage={"folder": str(folder / "own")})
    engine = connect(settings)
    migrate(engine)
    store = LocalFhirStore(engine)
    fill(store, resources)
    print(f"| one snapshot from our own store (SQLite) | {told(seconds(runs, lambda: _snapshot(store)), 's')} |")
    engine.dispose()


def parsing(folder: Path, runs: int) -> None:
    """Measure parsing of Bundles against the standard library with floats."""
    texts = [file.read_bytes() for file in sorted(folder.glob("*.json"))]
    size = sum(map(len, texts)) / 1e6
    if not texts:
        print(f"| parsing | no Bundles in {folder.name} |")
        return
    for name, parse in (("ours, exact decimals", parse_json), ("json.loads, floats", json.loads)):
        rates = [size / taken for taken in seconds(runs, lambda parse=parse: [parse(text) for text in texts])]
        print(f"| parsing {len(texts)} Bundles, {size:.0f} MB: {name} | {told(rates, 'MB/s')} |")


def main() -> None:
    """Measure, and print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--resources", type=int, default=2000)
    asked.add_argument("--runs", type=int, default=15)
    asked.add_argument("--bundles", type=Path, default=_ROOT.parent / "shared" / "data" / "fhir" / "synthea-r4")
    options = asked.parse_args()
    resources = patient(options.resources)
    with tempfile.TemporaryDirectory() as name:
        over_server(Path(name), resources, options.runs)
        over_store(Path(name), resources, options.runs)
    parsing(options.bundles, max(3, options.runs // 3))
    print(f"| load average while it ran | {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs |")


if __name__ == "__main__":
    main()
