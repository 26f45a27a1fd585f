"""Recall over a thousand published instances and more, in Orthanc and sekmet, killed twice with -9 and resumed.

Publishes outputs by the site's own publisher (phantoms, so that nothing is measured but publication and recall), recalls all of
them by their weights, kills the process twice at random moments, resumes, and then looks at every instance and every resource:

    python -m benchmarks.recall_scale --outputs 28 --slices 35

Needs Orthanc and sekmet as the tests do; prints counts and times of this machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from pydicom import dcmread

from dicom_node.holding.rejecting import read_rejection
from domain.identifiers import derive_uid
from provenance.recall_as_fhir import is_recall_of, require_signed
from provenance.recall_notice import read_notice
from tests.builders_recall import MODEL, publish_output
from tests.peers.orthanc import Orthanc, running_orthanc
from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import VeraiconSite
from veraicon.database import connect
from veraicon.settings import load_settings
from veraicon.wiring import open_site

_WHY = ("--reason", "quality", "--note", "recall benchmark", "--by", "benchmark")
_KILLS = 2


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def publish_all(site: VeraiconSite, outputs: int, slices: int) -> tuple[list[str], float]:
    """Publish and attest; return the request ids and the seconds."""
    began = time.perf_counter()
    with open_site(load_settings(site.config)) as parts:
        made = [publish_output(parts, number, slices=slices) for number in range(outputs)]
    return made, time.perf_counter() - began


def recall_with_kills(site: VeraiconSite, rng: random.Random, outputs: int) -> tuple[dict[str, Any], list[int], float]:
    """Execute, kill twice after a random number of finished outputs, resume to the end.

    Returns
    -------
    dict, list of int, float
        The report; how many outputs were done at each kill; the seconds in all.
    """
    engine = connect(load_settings(site.config))
    began, done_at, arguments = time.perf_counter(), [], ["--weights", MODEL, "--execute", *_WHY]
    bounds = sorted(rng.sample(range(1, outputs), _KILLS))
    for bound in bounds:
        process = _start(site, *arguments)
        while process.poll() is None and _done(engine) < bound:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))  # somewhere in the midst of the next one
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("the recall ended before it could be killed: take more outputs")
        done_at.append(_done(engine))
        arguments = ["resume", _recall_id(engine)]
    process = _start(site, *arguments, "--json")
    said, complaint = process.communicate()
    if process.returncode:
        raise SystemExit(f"the recall did not finish: {complaint.decode()[-2000:]}")
    return json.loads(said), done_at, time.perf_counter() - began


def _start(site: VeraiconSite, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "veraicon", "--config", str(site.config), "recall", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=site.folder, env=os.environ)


def _done(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text("SELECT count(*) FROM recall_output WHERE finished_at IS NOT NULL")) or 0)


def _recall_id(engine: sa.Engine) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(sa.text("SELECT recall_id FROM recall")))


def check_pacs(orthanc: Orthanc, published: dict[str, set[str]]) -> Counter[str]:
    """Look at every instance that the PACS holds: one note a study, which names each instance of it and nothing else."""
    counts: Counter[str] = Counter()
    for study in orthanc.get("/studies?expand"):
        uid = study["MainDicomTags"]["StudyInstanceUID"]
        named, held = [], set()
        for instance in orthanc.get(f"/studies/{study['ID']}/instances"):
            if instance["MainDicomTags"].get("SOPInstanceUID") in published[uid]:
                held.add(instance["MainDicomTags"]["SOPInstanceUID"])
                continue
            rejection = read_rejection(dcmread(io.BytesIO(orthanc.file(instance["ID"]))))
            named.append(set(rejection.instances) if rejection else set())
        counts["studies"] += 1
        counts["instances"] += len(held)
        counts["notes"] += len(named)
        counts["wrong"] += named != [published[uid]] or held != published[uid]
    return counts


def check_fhir(ehr: str, site: VeraiconSite, requests: list[str]) -> Counter[str]:
    """Look at every resource: each with a status is entered in error, one superseding Provenance, each signature holds."""
    counts: Counter[str] = Counter()
    with open_site(load_settings(site.config)) as parts:
        keys = parts.keyring.public_jwks()
        folders = [parts.jobs.artifacts(request).folder for request in requests]
        recall_provenances = [one.body for one in parts.fhir.search("Provenance", {"_count": "100"})]
    for folder in folders:
        prepared = json.loads((folder / "prepared-attestation.json").read_text())
        reference = prepared["attestation"]["provenance_reference"]
        superseding = [one for one in recall_provenances if is_recall_of(one, reference)]
        counts["superseding"] += len(superseding)
        counts["wrong"] += len(superseding) != 1
        for entry in json.loads(prepared["bundle"])["entry"]:
            body = httpx.get(f"{ehr}/{entry['request']['url']}", timeout=30).raise_for_status().json()
            counts["resources"] += 1
            if body["resourceType"] == "Provenance":
                require_signed(body, keys)
                counts["original signatures"] += 1
            elif body["resourceType"] != "Patient":
                counts["entered in error"] += body["status"] == "entered-in-error"
                counts["wrong"] += body["status"] != "entered-in-error"
        for one in superseding:
            require_signed(one, keys)
    return counts


def check_log(site: VeraiconSite, requests: list[str]) -> Counter[str]:
    """Look at the log: sound, one entry for the recall, and the notice names each output once."""
    (path,) = (site.folder / "data" / "recalls").glob("*/notice.recall.jws")
    with open_site(load_settings(site.config)) as parts:
        parts.log.check()
        entries = parts.log.entries(0, parts.log.head().size)
        notice = read_notice(path.read_text(), parts.keyring.public_jwks())
    named = sorted(one.request_id for one in notice.recalled)
    entered = sum(entry["entry"]["kind"] == "recall" for entry in entries)
    return Counter(
        {"recall entries": entered, "named outputs": len(named), "wrong": int(named != sorted(requests) or entered != 1)}
    )


def main() -> None:
    """Publish, recall with kills, check everything, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=28)
    parser.add_argument("--slices", type=int, default=35, help="instances of an output, less one for the segmentation")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which the process is killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folders = {part: Path(name) / part for part in ("orthanc", "sekmet", "site")}
        for folder in folders.values():
            folder.mkdir()
        port = free_port()
        with (
            running_orthanc(folders["orthanc"], dicom_port=port, http_port=free_port(), node_port=free_port()) as orthanc,
            running_sekmet(folders["sekmet"], free_port()) as ehr,
        ):
            site = VeraiconSite(folders["site"], free_port(), free_port())
            destination = f'[[destinations]]\nname = "pacs"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {port}\n'
            destination += 'commitment = "off"\n'
            site.write_config(f'[fhir]\nbase_url = "{ehr}"\n{destination}')
            run(site, orthanc, ehr, options)


def run(site: VeraiconSite, orthanc: Orthanc, ehr: str, options: argparse.Namespace) -> None:
    """Do it on running servers."""
    requests, publishing_s = publish_all(site, options.outputs, options.slices)
    with open_site(load_settings(site.config)) as parts:
        published = {
            derive_uid(one, "study"): {uid for held in parts.outputs.series(one).values() for _, uid in held}
            for one in requests
        }
    instances = sum(map(len, published.values()))
    report, done_at, recall_s = recall_with_kills(site, random.Random(options.seed), options.outputs)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(f"published: {len(requests)} outputs, {instances} instances in {publishing_s:.1f} s")
    print(f"recalled in {recall_s:.1f} s, killed with -9 {_KILLS} times, after {done_at} outputs; state {report['state']}")
    print("report", report["counts"])
    checks = {"PACS": check_pacs(orthanc, published), "FHIR": check_fhir(ehr, site, requests), "log": check_log(site, requests)}
    for name, counts in checks.items():
        print(name, dict(counts))
    if any(counts["wrong"] for counts in checks.values()) or checks["PACS"]["instances"] != instances:
        raise SystemExit("something is not as it has to be")
    print("every instance is named by one note, every resource is withdrawn once, every signature holds")


if __name__ == "__main__":
    main()
