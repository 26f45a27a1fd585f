"""Our node in a process of its own, so that what it holds can be seen from outside: memory, threads, open files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.builders_dicom import new_archive

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import json, sys
from pathlib import Path
from dicom_node.scp import StorageNode
from tests.builders_dicom import new_archive
from veraicon.logs import configure
configure(level="warning", json_lines=True)
options = json.loads(sys.argv[3])
node = StorageNode(new_archive(Path(sys.argv[1])), ae_title="VERAICON", host="127.0.0.1", port=int(sys.argv[2]), **options)
node.start()
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Usage:
    """What a process holds."""

    resident_mib: float
    threads: int
    files: int
    cpu_s: float


@dataclass(frozen=True)
class NodeProcess:
    """A running node and its folder."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def usage(self) -> Usage:
        """Return what it holds now, from the kernel's books."""
        kernel = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (kernel / "status").read_text().splitlines() if ":" in line)
        ticks = (kernel / "stat").read_text().rpartition(")")[2].split()
        return Usage(
            resident_mib=int(status["VmRSS"].split()[0]) / 1024,
            threads=int(status["Threads"]),
            files=len(list((kernel / "fd").iterdir())),
            cpu_s=(int(ticks[11]) + int(ticks[12])) / 100,
        )

    def log(self) -> str:
        """Return what it has said."""
        return (self.folder / "node.log").read_text(errors="replace")

    def kept(self, kind: str) -> list[Path]:
        """Return the files of the archive: ``instances`` or ``refused``."""
        return sorted((self.folder / "archive" / kind).rglob("*.dcm"))


@contextmanager
def running_node(folder: Path, port: int, **options: float) -> Iterator[NodeProcess]:
    """Run a node with its archive in `folder`; options are those of `StorageNode`."""
    folder.mkdir(parents=True, exist_ok=True)
    new_archive(folder)
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(port), json.dumps(options)]
    with (
        (folder / "node.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=_ROOT) as process,
    ):
        try:
            assert process.stdout is not None
            assert b"ready\n" in iter(process.stdout.readline, b""), (folder / "node.log").read_text()
            yield NodeProcess(folder, port, process)
        finally:
            process.kill()
