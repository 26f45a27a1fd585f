"""The measured figures as a table for people and as JSON for programs. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality.resampling import Estimate
from veraicon.evaluation.goals import GOALS, Goal, Reached

_NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one model.

    Attributes
    ----------
    key : str
        The same for the same figure of every model.
    name, unit : str
        For people; the unit is empty where the figure is a pure number.
    value : Estimate
    beside : Estimate or None
        The same figure of real volumes, or of the measuring network on real people; None where there is none.
    """

    key: str
    name: str
    value: Estimate
    unit: str = ""
    beside: Estimate | None = None


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All figures of one model, and what has to be known to read them."""

    model: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...] = ()

    def row(self, key: str) -> Row | None:
        """Return a figure by its key."""
        return next((row for row in self.rows if row.key == key), None)


@dataclass(frozen=True, slots=True)
class Report:
    """Models side by side."""

    models: tuple[ModelReport, ...]
    facts: tuple[tuple[str, str], ...]

    def goals(self) -> tuple[Goal, ...]:
        """Return the goals of which some model has a figure."""
        return tuple(goal for goal in GOALS if any(model.row(goal.key) for model in self.models))


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain values; what is not finite is null."""
    goals = {goal.key: goal for goal in report.goals()}
    return {
        "facts": dict(report.facts),
        "models": [
            {
                "model": model.model,
                "facts": dict(model.facts),
                "figures": [_row_content(row, goals.get(row.key)) for row in model.rows],
            }
            for model in report.models
        ],
    }


def to_markdown(report: Report) -> str:
    """Return the report for people: first what has to be reached, then every figure beside the real one."""
    names = [model.model for model in report.models]
    parts = ["# Evaluation", "", *(f"- {name}: {text}" for name, text in report.facts), ""]
    for model in report.models:
        parts += [f"- {model.model}, {name}: {text}" for name, text in model.facts]
    goals = [
        [goal.name, str(goal.bar), goal.aim_text, *(_judged(model, goal) for model in report.models)] for goal in report.goals()
    ]
    parts += ["", "## Reached", "", *_table(["figure", "bar", "aim", *names], goals), "", "## All figures", ""]
    parts += _table(["figure", *(f"{name}{side}" for name in names for side in ("", ", real beside it"))], _all_rows(report))
    return "\n".join([*parts, ""])


def write(report: Report, folder: Path) -> None:
    """Write ``evaluation.md`` and ``evaluation.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.md").write_text(to_markdown(report), encoding="utf-8")
    content = json.dumps(to_json(report), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "evaluation.json").write_text(content + "\n", encoding="utf-8")


def shown(estimate: Estimate | None) -> str:
    """Return a figure with interval and counts as the table shows it.

    Examples
    --------
    >>> shown(Estimate(0.98765, 0.9712, 0.99, 200, 29)), shown(None)
    ('0.988 [0.971, 0.990], n 200', '-')
    """
    if estimate is None:
        return _NONE
    interval = f" [{_number(estimate.low)}, {_number(estimate.high)}]" if math.isfinite(estimate.low) else ""
    return f"{_number(estimate.value)}{interval}, n {estimate.n}"


def _judged(model: ModelReport, goal: Goal) -> str:
    row = model.row(goal.key)
    if row is None:
        return _NONE
    reached = goal.judge(row.value.value, row.beside)
    return f"{shown(row.value)}: {f'**{reached}**' if reached is Reached.MISSED else reached}"


def _all_rows(report: Report) -> list[list[str]]:
    """Return every figure in the order in which models have them; each model with the real figure beside it."""
    keys = {row.key: row for model in reversed(report.models) for row in reversed(model.rows)}
    order = list(dict.fromkeys(row.key for model in report.models for row in model.rows))
    rows = []
    for key in order:
        unit = f", {keys[key].unit}" if keys[key].unit else ""
        cells = [
            shown(estimate)
            for model in report.models
            for row in [model.row(key)]
            for estimate in ((row.value, row.beside) if row else (None, None))
        ]
        rows.append([keys[key].name + unit, *cells])
    return rows


def _row_content(row: Row, goal: Goal | None) -> dict[str, Any]:
    judged = {} if goal is None else {
        "bar": str(goal.bar), "aim": goal.aim_text, "reached": str(goal.judge(row.value.value, row.beside))
    }  # fmt: skip
    return {
        "key": row.key,
        "figure": row.name,
        "unit": row.unit,
        **_estimate_content(row.value),
        "real": _estimate_content(row.beside) if row.beside else None,
        **judged,
    }


def _estimate_content(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": _finite(estimate.value),
        "interval": [_finite(estimate.low), _finite(estimate.high)],
        "n": estimate.n,
        "people": estimate.people,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    """Return a number with three decimals, fewer for large ones."""
    if not math.isfinite(value):
        return "not defined"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
