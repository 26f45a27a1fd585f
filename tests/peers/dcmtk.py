"""DCMTK's programs as real peers on loopback, started and stopped by the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

# Without it DCMTK waits 40 ms for an acknowledgement with each small PDU.
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def find_dcmtk(program: str) -> str:
    """Return a program of DCMTK, or skip by its name."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"DICOM peer not here: {program} (Debian package dcmtk)")
    return found


def run_dcmtk(program: str, *arguments: str | Path, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its talk is on stderr and stdout, its exit status is for the test to judge."""
    command = [find_dcmtk(program), *(str(argument) for argument in arguments)]
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def running_storescp(folder: Path, port: int, *options: str, deadline_s: float = 20.0) -> Iterator[Path]:
    """Run `storescp` into `folder`/received; gives that folder once the port answers."""
    received = folder / "received"
    received.mkdir()
    command = [find_dcmtk("storescp"), *options, "--output-directory", str(received), str(port)]
    with (folder / "storescp.log").open("wb") as log:
        process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=log, stderr=log)
        try:
            await_port(process, port, deadline_s)
            yield received
        finally:
            process.terminate()
            process.wait(timeout=10)


@contextmanager
def running_dcmqrscp(folder: Path, port: int, *hosts: tuple[str, int], deadline_s: float = 20.0) -> Iterator[None]:
    """Run DCMTK's `dcmqrscp`, a small PACS with its database in `folder`; it is called DCMQR and sends to `hosts` (AE, port)."""
    program = find_dcmtk("dcmqrscp")
    (folder / "store").mkdir()
    peers = "\n".join(f"peer{number} = ({title}, 127.0.0.1, {at})" for number, (title, at) in enumerate(hosts))
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 8\nHostTable BEGIN\n{peers}\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQR {folder / 'store'} RW (100, 1024mb) ANY\nAETable END\n",
        encoding="utf-8",
    )
    command = [program, "--config", str(folder / "dcmqrscp.cfg")]
    with (folder / "dcmqrscp.log").open("wb") as log:
        process = subprocess.Popen(command, env=_ENVIRONMENT, stdout=log, stderr=log, cwd=folder)
        try:
            await_port(process, port, deadline_s)
            yield
        finally:
            process.terminate()
            process.wait(timeout=10)


def await_port(process: subprocess.Popen[bytes], port: int, deadline_s: float) -> None:
    """Return once somebody listens on the port, or fail the test."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"{_name(process.args)} does not listen on its port within {deadline_s:g} s")


def _name(command: Sequence[str] | str | bytes | os.PathLike[str] | object) -> str:
    return Path(str(command[0])).name if isinstance(command, list) else "the peer"
