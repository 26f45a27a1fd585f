"""PostgreSQL as a real database server on loopback, with a cluster of its own, started and stopped by the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_INSTALLED = Path("/usr/lib/postgresql")


def _programs() -> Path:
    """Return the folder of the server's programs, or skip by its name."""
    found = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])) if _INSTALLED.is_dir() else []
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("database not here: PostgreSQL (Debian package postgresql)")
    return (found[-1] if found else Path(str(on_path))).parent


def _as_server(*command: str) -> list[str]:
    """The server does not run as root: it then runs as the user of its package."""
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("runuser") is None:
        pytest.skip("runuser not here: PostgreSQL does not run as root")
    return ["runuser", "-u", "postgres", "--", *command]


@contextmanager
def running_postgresql(folder: Path, port: int) -> Iterator[str]:
    """Run a server with a fresh cluster in `folder`; gives the SQLAlchemy URL of its database."""
    programs = _programs()
    # pytest's folders are for their owner alone, and the server may be another user.
    cluster, name = folder / "cluster", "veraicon"
    for path in (folder, *folder.parents):
        mode = path.stat().st_mode
        if not mode & 0o001:
            path.chmod(mode | 0o001)
    cluster.mkdir()
    if os.geteuid() == 0:
        shutil.chown(cluster, "postgres")
    initialise = [str(programs / "initdb"), "-D", str(cluster), "-U", name, "--auth=trust", "--encoding=UTF8", "--no-sync"]
    subprocess.run(_as_server(*initialise), check=True, capture_output=True, timeout=60, cwd="/")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={cluster}"
    control = [str(programs / "pg_ctl"), "-D", str(cluster), "-w", "-l", str(cluster / "log")]
    subprocess.run(_as_server(*control, "-o", options, "start"), check=True, capture_output=True, timeout=60, cwd="/")
    try:
        yield f"postgresql+psycopg://{name}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(_as_server(*control, "-m", "immediate", "stop"), check=True, capture_output=True, timeout=60, cwd="/")
