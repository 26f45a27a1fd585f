"""A whole Veraicon on loopback, as a site runs it: `veraicon serve` or `veraicon work` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.peers.dcmtk import run_dcmtk
from tests.peers.forked import Command
from veraicon.settings import load_settings

ENDED = {"attested", "rejected", "failed", "cancelled"}


@dataclass
class VeraiconSite:
    """One site: its settings file, its processes, and what a person does with it."""

    folder: Path
    node_port: int
    http_port: int
    extra_toml: str = ""
    processes: list[Command] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.folder / "veraicon.toml"

    @property
    def url(self) -> str:
        """Our HTTP face."""
        return f"http://127.0.0.1:{self.http_port}"

    def write_config(self, extra_toml: str | None = None) -> None:
        """Write the settings; `extra_toml` replaces the part that a test adds."""
        self.extra_toml = self.extra_toml if extra_toml is None else extra_toml
        self.config.write_text(
            f'[storage]\nfolder = "{self.folder / "data"}"\nmin_free_mib = 1\n[node]\nport = {self.node_port}\nsettle_s = 0.5\n'
            f"[http]\nport = {self.http_port}\n{self.extra_toml}\n",
            encoding="utf-8",
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours with the site's settings."""
        with tempfile.TemporaryDirectory() as talk:
            out, err = Path(talk) / "out", Path(talk) / "err"
            command = self._command(arguments, out, err, {})
            try:
                status = command.wait(timeout=120)
            finally:
                command.kill()
            return subprocess.CompletedProcess(arguments, status, out.read_text("utf-8"), err.read_text("utf-8"))

    def run_in_a_fresh_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours in an interpreter that shares nothing with another one, not even its order of hashes."""
        command = [sys.executable, "-m", "veraicon", "--config", str(self.config), *arguments]
        environment = {**os.environ, "TCP_NODELAY": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=self.folder, env=environment)

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Command:
        """Start a long-running command of ours."""
        log = self.folder / "site.log"
        process = self._command(arguments, log, log, environment or {})
        self.processes.append(process)
        return process

    def _command(self, arguments: Sequence[str], out: Path, err: Path, more: Mapping[str, str]) -> Command:
        environment = {**os.environ, "TCP_NODELAY": "1", **more}
        return Command(["--config", str(self.config), *arguments], self.folder, out, err, environment)

    def serve(self, *, supervised: bool = False, deadline_s: float = 60.0) -> Command:
        """Start `serve`, wait until it answers, and start the worker that the settings want beside it.

        With `supervised`, `serve` starts and keeps its worker itself, in a fresh Python that first reads its libraries.
        """
        beside = load_settings(self.config).worker.embedded and not supervised
        process = self.start("serve", environment={"VERAICON_WORKER__EMBEDDED": "false"} if beside else {})
        end = time.monotonic() + deadline_s
        while time.monotonic() < end and process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2).is_success:
                    if beside:
                        self.start("work")
                    return process
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"serve does not answer: {self.log()[-2000:]}")

    def push(self, folder: Path) -> None:
        """Send a folder of instances with DCMTK's storescu, as a PACS does."""
        files = sorted(path for path in folder.rglob("*.dcm"))
        run_dcmtk("storescu", "-aet", "PACS", "-aec", "VERAICON", "127.0.0.1", str(self.node_port), *files)

    def jobs(self) -> list[dict[str, Any]]:
        """What `veraicon job list --json` says."""
        listed: list[dict[str, Any]] = json.loads(self.run("job", "list", "--json").stdout)
        return listed

    def await_job(self, job: str | None = None, *, deadline_s: float = 90.0) -> dict[str, Any]:
        """Wait until a job has ended, over HTTP."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            found = [one for one in httpx.get(f"{self.url}/jobs", timeout=10).json() if job in (None, one["job"])]
            found.sort(key=lambda one: -int(one["draw"]))  # a rejected volume is drawn again, under a job of its own
            if found and found[0]["state"] in ENDED and (job or found[0]["state"] != "rejected" or found[0]["draw"] > 3):
                return dict(found[0])
            time.sleep(0.1)
        raise AssertionError(f"no job has ended: {self.log()[-3000:]}")

    def log(self) -> str:
        """Everything that the processes have said."""
        path = self.folder / "site.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End every process, and whatever it started, at once: how they end by themselves is for tests to ask."""
        for process in self.processes:
            process.kill_all()
        self.processes.clear()


@contextmanager
def veraicon_site(folder: Path, free_port: Callable[[], int], extra_toml: str = "") -> Iterator[VeraiconSite]:
    """Give a site with settings and free ports; nothing runs yet."""
    folder.mkdir(parents=True, exist_ok=True)
    site = VeraiconSite(folder, free_port(), free_port(), extra_toml)
    site.write_config()
    try:
        yield site
    finally:
        site.stop()
