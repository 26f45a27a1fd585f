"""Named failure points for tests: a process kills itself where the environment says so. Off everywhere else."""

from __future__ import annotations

import os
import signal

VARIABLE = "VERAICON_FAULT"


def reach(point: str) -> None:
    """Die here by SIGKILL if ``VERAICON_FAULT`` names this point (``published:done``), as a loss of power would."""
    if os.environ.get(VARIABLE) == point:
        os.kill(os.getpid(), signal.SIGKILL)
