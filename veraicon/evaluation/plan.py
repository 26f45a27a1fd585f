"""How much an evaluation draws, and how. No torch here: the command line shows the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from domain.generation import Guidance

Tell = Callable[[str, int, int], None]
"""Told (what is being done, how much of it is done, of how much)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How volumes are drawn; None: as the model's card has it by default."""

    guidance: Guidance | None = None
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """One evaluation.

    Attributes
    ----------
    count : int
        Volumes of each arm.
    segmenter_steps : int
        Training steps of each segmenter that tells what volumes are worth as training data; the same for all of them.
    replays : int
        Volumes that are drawn twice.
    write_cards : bool
        Whether the models' cards get the figures.
    measuring : Path or None
        Folder of the measuring network; None for the packaged one.
    """

    count: int = 200
    seed: int = 0
    segmenter_steps: int = 1200
    replays: int = 5
    threads: int = 2
    sampling: Sampling = field(default_factory=Sampling)
    measuring: Path | None = None
    write_cards: bool = False


def telling(tell: Tell, what: str) -> Callable[[int, int], None]:
    """Return what tells of one part of an evaluation."""
    return lambda done, of: tell(what, done, of)
