"""Failures as rows and lists keep them: in words, without what only a traceback could tell."""

from __future__ import annotations

import traceback
from pathlib import Path

from domain.errors import VeraiconError


def as_ours(caught: Exception) -> VeraiconError:
    """Return the error itself, or what stands for a fault of ours: its place, not its message, which may hold patient data."""
    if isinstance(caught, VeraiconError):
        return caught
    place = traceback.extract_tb(caught.__traceback__)[-1]
    return VeraiconError(
        found=f"an unexpected {type(caught).__name__} at {Path(place.filename).name}:{place.lineno}",
        allowed="no unexpected error",
        action="report it with this place and the version, then retry what failed",
    )


def error_words(error: VeraiconError) -> dict[str, object]:
    """Return an error as a row keeps it and the lists show it."""
    return {
        "code": error.code,
        "name": type(error).__name__,
        "found": error.found,
        "allowed": error.allowed,
        "next": error.action,
    }
