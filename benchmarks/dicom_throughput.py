"""Instances a second that are received and sent, beside Orthanc and DCMTK in the same run.

400 MR instances of 512x512x16 bit (212 MB) over the loopback interface; the ways are interleaved, so that a slow minute of the
machine meets all of them. Each receiver has taken 200 others before, and starts when the disk has nothing left to write. Our
receiver and Orthanc sync each instance to disk before they answer; DCMTK's storescp does not.

Run: python benchmarks/dicom_throughput.py [ROUNDS] [--instances N]
Needs: storescu, storescp (Debian package dcmtk), Orthanc (package orthanc); one that is absent is left out by name.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.calling.sending import store
from dicom_node.holding.files import to_part10
from dicom_node.scu import Peer
from tests.builders_dicom import slice_dataset
from tests.peers.dcmtk import find_dcmtk, running_storescp
from tests.peers.orthanc import running_orthanc

RECEIVER = """
import logging
import sys
from pathlib import Path
import structlog
from dicom_node.scp import StorageNode
from tests.builders_dicom import new_archive
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
node = StorageNode(new_archive(Path(sys.argv[1])), ae_title="VERAICON", host="127.0.0.1", port=int(sys.argv[2]))
node.start()
print("ready", flush=True)
sys.stdin.read()
"""
_BEFORE = 200
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Load:
    """Files of two series: one that each receiver has taken before, and the one that is timed."""

    before: list[Path]
    measured: list[Path]


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_files(folder: Path, count: int) -> list[Path]:
    """Write the instances of one series; noise, so that nothing on the way can compress it."""
    rng = np.random.default_rng(1)
    paths = []
    for number in range(count):
        ds = slice_dataset(number, rng.integers(0, 4096, (512, 512), dtype=np.uint16), name=folder.name)
        paths.append(folder / f"{number:04d}.dcm")
        paths[-1].write_bytes(to_part10(ds))
    return paths


@contextmanager
def our_receiver(folder: Path) -> Iterator[tuple[int, int]]:
    """Run our node in a process of its own; gives its port and process id."""
    port = free_port()
    command = [sys.executable, "-c", RECEIVER, str(folder), str(port)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT
    ) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("our receiver did not start")
        yield port, process.pid
        process.kill()


def send(port: int, called: str, paths: list[Path], associations: int) -> float:
    """Send all instances by DCMTK's storescu, shared out over some associations; return seconds."""
    shares = [paths[part::associations] for part in range(associations)]
    os.sync()  # what others have left to be written is not ours to wait for
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            [find_dcmtk("storescu"), "-aec", called, "127.0.0.1", str(port), *map(str, share)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    for sender in senders:
        _, trouble = sender.communicate()
        if sender.returncode:
            raise SystemExit(f"storescu to {called}: {trouble.decode()[-400:]}")
    return time.perf_counter() - started


def receive_ours(load: Load, associations: int) -> float:
    """Return seconds for our node to take all instances."""
    with tempfile.TemporaryDirectory() as folder, our_receiver(Path(folder)) as (port, _):
        send(port, "VERAICON", load.before, 1)
        return send(port, "VERAICON", load.measured, associations)


def receive_orthanc(load: Load, associations: int) -> float:
    """Return seconds for Orthanc, which syncs its storage area by default."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_orthanc(Path(folder), dicom_port=free_port(), http_port=free_port(), node_port=free_port()) as orthanc,
    ):
        send(orthanc.peer.port, "ORTHANC", load.before, 1)
        return send(orthanc.peer.port, "ORTHANC", load.measured, associations)


def receive_storescp(load: Load, associations: int) -> float:
    """Return seconds for DCMTK's storescp, which syncs nothing."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, running_storescp(Path(folder), port, *["--fork"] * (associations > 1)):
        send(port, "ANY", load.before, 1)
        return send(port, "ANY", load.measured, associations)


def send_ours(load: Load, _: int) -> float:
    """Return seconds for our `store` to send all instances to storescp, reading the files included."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, running_storescp(Path(folder), port):
        store(Peer("storescp", "ANY", "127.0.0.1", port), load.before)
        os.sync()
        started = time.perf_counter()
        store(Peer("storescp", "ANY", "127.0.0.1", port), load.measured)
        return time.perf_counter() - started


def main() -> None:
    """Print a Markdown table: median rate, range, ratio of medians."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("rounds", type=int, nargs="?", default=5)
    arguments.add_argument("--instances", type=int, default=400)
    arguments.add_argument("--only", default="")
    options = arguments.parse_args()
    ways: dict[str, tuple[Callable[[Load, int], float], int]] = {
        "storescp <- storescu, 1 association": (receive_storescp, 1),
        "Orthanc <- storescu, 1 association": (receive_orthanc, 1),
        "veraicon <- storescu, 1 association": (receive_ours, 1),
        "veraicon <- storescu, 4 associations": (receive_ours, 4),
        "storescp <- veraicon, 1 association": (send_ours, 1),
    }
    ways = {name: way for name, way in ways.items() if options.only in name}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "before").mkdir()
        (folder / "measured").mkdir()
        load = Load(make_files(folder / "before", _BEFORE), make_files(folder / "measured", options.instances))
        for _ in range(options.rounds):
            for name, (measure, associations) in ways.items():
                rates[name].append(options.instances / measure(load, associations))
                print(f"{name}: {rates[name][-1]:.0f}/s", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base, orthanc = (medians.get(f"{name} <- storescu, 1 association", float("nan")) for name in ("storescp", "Orthanc"))
    print(f"{options.instances} instances of 512x512x16, {options.rounds} interleaved rounds, {os.cpu_count()} cores\n")
    print("| way | instances/s, median | range | over storescp <- storescu | over Orthanc |\n|---|---|---|---|---|")
    for name, values in rates.items():
        middle = medians[name]
        print(
            f"| {name} | {middle:.0f} | {min(values):.0f} to {max(values):.0f} | {middle / base:.2f} | {middle / orthanc:.2f} |"
        )


if __name__ == "__main__":
    main()
