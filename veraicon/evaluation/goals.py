"""What a model has to reach: for each figure a bar, below which it is missed, and an aim. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from quality.resampling import Estimate


@dataclass(frozen=True, slots=True)
class Band:
    """A closed interval; None where it is open to that side."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: float) -> bool:
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return above and below and not math.isnan(value)

    def __str__(self) -> str:
        if self.low is None and self.high is None:
            return "none"
        if self.low is None:
            return f"at most {self.high:g}"
        if self.high is None:
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


class Reached(StrEnum):
    """How far a figure came."""

    AIM = "aim reached"
    BAR = "bar reached"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Goal:
    """Bar and aim of one figure.

    Attributes
    ----------
    key : str
        Of the figure, see `veraicon.evaluation.report.Row`.
    aim : Band or None
        None: within the interval of the real figure beside it.
    """

    key: str
    name: str
    bar: Band
    aim: Band | None

    def judge(self, value: float, real: Estimate | None) -> Reached:
        """Return how far a value came."""
        aim = self.aim or (Band(real.low, real.high) if real else None)
        if aim is not None and value in aim and value in self.bar:
            return Reached.AIM
        return Reached.BAR if value in self.bar else Reached.MISSED

    @property
    def aim_text(self) -> str:
        """The aim in words."""
        return str(self.aim) if self.aim else "within the real interval"


GOALS = (
    Goal("obedience-r", "requested and measured total volume: r over the measuring network's own", Band(0.95), Band(1.0)),
    Goal(
        "obedience-slope",
        "requested and measured total volume: slope over the measuring network's own",
        Band(0.85, 1.15),
        Band(0.95, 1.05),
    ),
    Goal("dropped-spread", "spread of measured volume with the value dropped, over that of real", Band(0.7), Band(0.9, 1.1)),
    Goal("obedience-error", "mean absolute error over the measuring network's own", Band(None, 2.0), Band(None, 1.2)),
    Goal("downstream", "Dice on real people, trained on synthetic, over trained on real", Band(0.90), Band(1.0)),
    Goal("downstream-both", "Dice on real people, trained on real and synthetic, over trained on real", Band(), Band(1.0)),
    Goal("frechet", "Fréchet distance to real, over real to real", Band(None, 3.0), Band(None, 1.3)),
    Goal("copied", "share nearer to a training volume than the held-out 5th percentile", Band(None, 0.10), Band(None, 0.05)),
    Goal("nihss", "Spearman of NIHSS and lesion volume", Band(0.40, 0.56), None),
    Goal("seconds", "seconds a volume, from what is asked to the volume, median", Band(None, 0.5), Band(None, 0.2)),
    Goal("package-size", "weights in the package, all models together, MB", Band(None, 60.0), Band(None, 40.0)),
)
"""What the models of this package are held to."""
