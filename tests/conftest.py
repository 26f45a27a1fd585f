"""Fixtures that every test may use: real data where it lies beside the checkout, free ports, a patient deadline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Let no test write to the log stream that another one has set up, and closed."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """Return a function that finds a folder or file of real data, or skips by its name."""
    base = Path(os.environ.get("VERAICON_TEST_DATA", _ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = base / name
        if not path.exists():
            pytest.skip(f"real data not here: {name} (set VERAICON_TEST_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that gives a TCP port of the loopback interface on which nobody listens."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Return a function that polls until a condition returns something true, or fails at the deadline."""

    def wait(condition: Callable[[], object], *, deadline_s: float = 30.0, every_s: float = 0.05) -> object:
        end = time.monotonic() + deadline_s
        while True:
            answer = condition()
            if answer:
                return answer
            if time.monotonic() > end:
                pytest.fail(f"not true within {deadline_s:g} s: {getattr(condition, '__name__', condition)}")
            time.sleep(every_s)

    return wait
