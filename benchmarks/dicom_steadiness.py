"""What must not grow or get lost: associations of a sender that sends all day, and the memory of a receiver under load.

- 100 times 400 small instances to DCMTK's storescp: runs that failed, that had to open a second association, that were stuck
  (took more than ten times the median).
- Ten associations that do nothing: what the receiver's polling costs.
- 2,000 instances of 512x512x16 over 8 associations of DCMTK's storescu: memory of our receiving process before, at most, after.

Run: python benchmarks/dicom_steadiness.py [RUNS]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dicom_throughput import free_port, make_files, our_receiver, send
from dicom_node.calling.sending import store
from dicom_node.presentation import verification_contexts
from dicom_node.scu import Peer, association
from domain.errors import VeraiconError
from tests.builders_dicom import series_datasets
from tests.peers.dcmtk import running_storescp

_SMALL, _LARGE, _ASSOCIATIONS = 400, 2000, 8
_IDLE, _IDLE_S = 10, 10.0


def lost_associations(runs: int) -> str:
    """Return a Markdown row."""
    reopened: list[str] = []
    structlog.configure(processors=[lambda _, __, event: reopened.append(event["event"]) or str(event)])
    sent, seconds, failed = series_datasets(_SMALL), [], 0
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, running_storescp(Path(folder), port):
        for _ in range(runs):
            started = time.perf_counter()
            try:
                store(Peer("storescp", "ANY", "127.0.0.1", port), sent)
            except VeraiconError:
                failed += 1
            seconds.append(time.perf_counter() - started)
    stuck = sum(took > 10 * statistics.median(seconds) for took in seconds)
    again = sum("ended too early" in event for event in reopened)
    return f"| lost, reopened, stuck associations in {runs} runs of {_SMALL} sends | {failed}, {again}, {stuck} |"


def memory_under_load() -> str:
    """Return a Markdown row."""
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(files), _LARGE)
        with our_receiver(Path(folder)) as (port, process):
            before, samples, done = _rss_mib(process), [0.0], threading.Event()
            watcher = threading.Thread(target=_watch, args=(process, samples, done))
            watcher.start()
            took = send(port, "VERAICON", paths, _ASSOCIATIONS)
            done.set()
            watcher.join()
            after = _rss_mib(process)
    return (
        f"| memory of the receiver, {_LARGE} instances over {_ASSOCIATIONS} associations ({_LARGE / took:.0f}/s): "
        f"before, most, after | {before:.0f}, {max(samples):.0f}, {after:.0f} MiB |"
    )


def idle_associations() -> str:
    """Return a Markdown row."""
    with tempfile.TemporaryDirectory() as folder, our_receiver(Path(folder)) as (port, process), ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(association(Peer("node", "VERAICON", "127.0.0.1", port), verification_contexts()))
        time.sleep(2.0)
        before = _cpu_s(process)
        time.sleep(_IDLE_S)
        share = (_cpu_s(process) - before) / _IDLE_S
    return f"| processor of the receiver, {_IDLE} idle associations over {_IDLE_S:g} s | {100 * share:.1f} % of one |"


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _watch(process: int, samples: list[float], done: threading.Event) -> None:
    while not done.wait(0.05):
        samples.append(_rss_mib(process))


def _rss_mib(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Print a Markdown table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print("| what | measured |\n|---|---|")
    print(memory_under_load(), flush=True)
    print(idle_associations(), flush=True)
    print(lost_associations(runs))


if __name__ == "__main__":
    main()
