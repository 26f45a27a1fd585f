"""Fixtures that every test may use: real data where it lies beside the checkout, free ports, a patient deadline."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

_ROOT = Path(__file__).resolve().parent.parent
_IN_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 2**30


def pytest_configure() -> None:
    """Keep the folders of tests in memory where it has room, so that nobody waits for a disk.

    Archive and database sync whatever they acknowledge, some ten thousand times in all; on a disk each takes milliseconds. No
    test can show what a sync is for: kill -9 takes a process away, not what it has written.
    """
    if _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK) and _room_in_memory() >= _ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))


def _room_in_memory() -> int:
    """Return how many bytes fit: by the limit of the file system, and by the memory that is free."""
    available = next((line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")), "")
    free = int(available.split()[1]) * 1024 // 2 if available else 0
    return min(shutil.disk_usage(_IN_MEMORY).free, free)


@pytest.fixture(scope="session", autouse=True)
def _one_trust_store() -> Iterator[None]:
    """Let httpx read the world's certificates once, and not for each of the calls by which tests poll over plain HTTP."""
    made = httpx.create_ssl_context
    world = made()

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        return world if verify is True and cert is None else made(verify=verify, cert=cert, trust_env=trust_env)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", create)
        yield


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
