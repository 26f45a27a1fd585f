from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quality.resampling import Estimate
from tests.builders_generators import card as make_card
from veraicon.cli import app
from veraicon.evaluation.carding import known_failures, with_figures
from veraicon.evaluation.goals import GOALS, Band, Reached
from veraicon.evaluation.report import ModelReport, Report, Row, to_json, to_markdown, write

_GOALS = {goal.key: goal for goal in GOALS}


def _estimate(value: float, half: float = 0.01, n: int = 200) -> Estimate:
    return Estimate(value, value - half, value + half, n, 29)


def _report() -> Report:
    first = ModelReport(
        "one 1",
        (
            Row("obedience-r", "r over own", _estimate(0.97)),
            Row("total-error", "error", _estimate(120.4, 10), "mm3", beside=_estimate(80, 10, 45)),
        ),
        (("weights", "sha256:1"),),
    )
    second = ModelReport("two 1", (Row("obedience-r", "r over own", _estimate(0.6)), Row("copied", "copies", _estimate(0.04))))
    return Report((first, second), (("people", "45 crops of 29 people"),))


@pytest.mark.parametrize(
    ("key", "value", "reached"),
    [
        ("obedience-r", 1.001, Reached.AIM),
        ("obedience-r", 0.95, Reached.BAR),
        ("obedience-r", 0.949, Reached.MISSED),
        ("obedience-slope", 1.2, Reached.MISSED),
        ("obedience-slope", 0.84, Reached.MISSED),
        ("obedience-slope", 1.04, Reached.AIM),
        ("dropped-spread", 1.4, Reached.BAR),
        ("obedience-error", 2.01, Reached.MISSED),
        ("downstream-both", 0.99, Reached.BAR),
        ("frechet", 1.3, Reached.AIM),
        ("copied", 0.11, Reached.MISSED),
        ("seconds", float("nan"), Reached.MISSED),
        ("package-size", 41.0, Reached.BAR),
    ],
)
def test_a_figure_is_judged_by_its_bar_and_its_aim(key: str, value: float, reached: Reached) -> None:
    assert _GOALS[key].judge(value, None) is reached


def test_the_aim_of_the_lesion_model_is_the_interval_of_real_people_within_the_bar() -> None:
    goal, real = _GOALS["nihss"], Estimate(0.48, 0.44, 0.60, 171, 171)
    assert goal.judge(0.45, real) is Reached.AIM
    assert goal.judge(0.42, real) is Reached.BAR
    assert goal.judge(0.58, real) is Reached.MISSED, "the bar stands also where the interval reaches beyond it"
    assert goal.judge(0.45, None) is Reached.BAR


def test_a_band_says_what_it_holds() -> None:
    assert [str(band) for band in (Band(1.0), Band(None, 2.0), Band(0.85, 1.15), Band())] == [
        "at least 1",
        "at most 2",
        "0.85 to 1.15",
        "none",
    ]
    assert Band().__contains__(math.nan) is False


def test_the_table_shows_models_side_by_side_and_calls_a_missed_bar_missed() -> None:
    text = to_markdown(_report())
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("| figure | bar"))
    assert head == "| figure | bar | aim | one 1 | two 1 |"
    (goal,) = [line for line in lines if line.startswith(f"| {_GOALS['obedience-r'].name}")]
    assert goal.endswith("| 0.970 [0.960, 0.980], n 200: bar reached | 0.600 [0.590, 0.610], n 200: **missed** |")
    (copies,) = [line for line in lines if line.startswith(f"| {_GOALS['copied'].name}")]
    assert copies.endswith("| - | 0.040 [0.030, 0.050], n 200: aim reached |")
    assert "| error, mm3 | 120 [110, 130], n 200 | 80.0 [70.0, 90.0], n 45 | - | - |" in lines
    assert "45 crops of 29 people" in text
    assert not any(line.startswith(f"| {_GOALS['seconds'].name}") for line in lines), "no model has this figure"


def test_json_holds_every_figure_with_its_interval_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    report = _report()
    broken = ModelReport("three 1", (Row("seconds", "seconds", Estimate(math.nan, math.nan, math.nan, 3, 1), "s"),))
    write(Report((*report.models, broken), report.facts), tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    first, second, third = content["models"]
    assert first["figures"][0] == {
        "key": "obedience-r",
        "figure": "r over own",
        "unit": "",
        "value": 0.97,
        "interval": [0.96, 0.98],
        "n": 200,
        "people": 29,
        "real": None,
        "bar": "at least 0.95",
        "aim": "at least 1",
        "reached": "bar reached",
    }
    assert first["figures"][1]["real"]["n"] == 45
    assert "reached" not in first["figures"][1]
    assert second["figures"][0]["reached"] == "missed"
    assert third["figures"][0]["value"] is None
    assert third["figures"][0]["reached"] == "missed"
    assert (tmp_path / "evaluation.md").read_text().startswith("# Evaluation")
    assert content == to_json(Report((*report.models, broken), report.facts))


def test_the_command_hands_its_options_on_and_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measured(names: list[str], dataset: Path, out: Path, plan: object, tell: object) -> Report:
        seen.append((names, dataset, out, plan))
        tell("drawing", 1, 2)  # type: ignore[operator]
        return _report()

    monkeypatch.setattr("veraicon.evaluation.run.evaluate", measured)
    options = [
        "--dataset",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--count",
        "7",
        "--guidance",
        "prior-image=3",
        "--steps",
        "5",
    ]
    told = CliRunner().invoke(app, ["evaluate", "a", "b", *options])
    assert told.exit_code == 0, told.output
    ((names, dataset, out, plan),) = seen
    assert (names, dataset, out) == (["a", "b"], tmp_path, tmp_path / "out")
    assert (plan.count, plan.sampling.guidance, plan.sampling.steps, plan.measuring) == (7, {"prior-image": 3.0}, 5, None)
    assert to_markdown(_report()) in told.stdout
    as_json = CliRunner().invoke(app, ["evaluate", "a", *options, "--json"])
    assert json.loads(as_json.stdout) == to_json(_report())


def test_a_card_gets_the_figures_and_says_which_bars_they_miss() -> None:
    rows = (
        Row("seconds", "seconds", Estimate(0.75, 0.6, 0.9, 200, 29), "s"),
        Row("frechet", "distance", Estimate(2.5, math.nan, math.nan, 22, 29)),
        Row("other", "Something without a goal", Estimate(7.0, 6.0, 8.0, 5, 5)),
        Row("nihss", "not measured", Estimate(math.nan, math.nan, math.nan, 0, 0)),
    )
    card = with_figures(make_card(known_failures=("Old.",)), ModelReport("m", rows))
    assert [(figure.name, figure.value, figure.n) for figure in card.measured] == [
        (next(goal.name for goal in GOALS if goal.key == "seconds"), 0.75, 200),
        (next(goal.name for goal in GOALS if goal.key == "frechet"), 2.5, 22),
        ("Something without a goal", 7.0, 5),
    ]
    assert card.measured[1].interval is None
    assert len(card.known_failures) == 1
    assert "0.75 s" in card.known_failures[0]
    assert card.known_failures == known_failures(card.measured)
