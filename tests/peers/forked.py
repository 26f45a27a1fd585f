"""Commands of ours in processes of their own, forked from one that has imported everything once.

What a process then is stays true of each: its own settings, environment, signals, exit status and death by -9. Only the seconds
that Python needs to import the libraries are spent once, instead of in each of some hundred processes. That the command starts
without this is shown where it is installed (`tests/packaging`) and where `serve` starts its own worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# Not the commands themselves: their consoles look at the terminal when they are imported.
_IMPORTED_ONCE = (
    "tests.peers.forked",
    "monai.networks.nets",  # brings torch and transformers: most of what a worker waits for at its start
    "generators.registry",
    "veraicon.server",
    "veraicon.worker",
    "veraicon.worker_wiring",
    "veraicon.model",
    "veraicon.conformance",
    "veraicon.doctor",
)
_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(list(_IMPORTED_ONCE))


class Command:
    """A started command, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], folder: Path, out: Path, err: Path, environment: Mapping[str, str]) -> None:
        self.arguments = tuple(arguments)
        self._process: ForkServerProcess = _forking.Process(
            target=_become, args=(self.arguments, str(folder), str(out), str(err), dict(environment))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
            If it runs on.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0.0)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it as a loss of power would."""
        self._process.kill()

    def kill_all(self) -> None:
        """End it and whatever it has started; what it left behind at its own end, if anything, is not looked for."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.kill()  # also where it was not yet a group of its own
        self.wait(timeout=20)


def _become(arguments: Sequence[str], folder: str, out: str, err: str, environment: Mapping[str, str]) -> None:
    """Be `python -m veraicon` from here on."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, standard in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, standard)
        os.close(file)
    sys.argv = ["veraicon", *arguments]
    from veraicon.cli import main

    main()
