"""Measured figures as a model's card has them, and in words where they miss what was to be reached. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from domain.model_card import Interval, Measurement, ModelCard, with_unit
from veraicon.evaluation.goals import GOALS
from veraicon.evaluation.report import ModelReport, Row

_SPLIT = "test people"
_LEVEL = 95.0
_DIGITS = 4


def with_figures(card: ModelCard, report: ModelReport) -> ModelCard:
    """Return a card with the figures of an evaluation in place of those that it had, and with what they say of its failures."""
    measured = tuple(_measurement(row) for row in report.rows if math.isfinite(row.value.value))
    return replace(card, measured=measured, known_failures=known_failures(measured))


def known_failures(measured: Sequence[Measurement]) -> tuple[str, ...]:
    """Return a sentence for each figure that misses its bar; a figure that is not there says nothing."""
    goals = {goal.name: goal for goal in GOALS}
    missed = [(figure, goals[figure.name]) for figure in measured if figure.name in goals]
    return tuple(
        f"{goal.name}: {with_unit(f'{figure.value:g}', figure.unit)}, where {goal.bar} was to be reached (n {figure.n})."
        for figure, goal in missed
        if figure.value not in goal.bar
    )


def _measurement(row: Row) -> Measurement:
    """Return a figure as a card has it; one that has a goal has the goal's name."""
    names = {goal.key: goal.name for goal in GOALS}
    estimate = row.value
    bounded = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return Measurement(
        name=names.get(row.key, row.name),
        value=round(estimate.value, _DIGITS),
        unit=row.unit or "1",
        n=estimate.n,
        split=_SPLIT,
        interval=Interval(round(estimate.low, _DIGITS), round(estimate.high, _DIGITS), _LEVEL) if bounded else None,
    )
