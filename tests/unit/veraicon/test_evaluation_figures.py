from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quality.measured import Measured
from quality.measuring_network import MeasuringCard, save_measuring_network
from quality.segmentation import Segmenter, SegmenterShape
from tests.builders_evaluation import RuledModel, box, make_crops, obedient
from veraicon.evaluation import figures, hippocampi, looks
from veraicon.evaluation.contact_sheet import middle_of, write_contact_sheet
from veraicon.evaluation.figures import Real
from veraicon.evaluation.generating import Arm, draw_arm
from veraicon.evaluation.goals import GOALS
from veraicon.evaluation.people import People
from veraicon.evaluation.plan import EvaluationPlan, Sampling
from veraicon.evaluation.report import ModelReport, Row
from veraicon.evaluation.run import package_size

_CROPS = make_crops(8)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _arm(model: RuledModel, count: int = 32, **options: Any) -> Arm:
    return draw_arm(model, _CROPS, count=count, seed=0, tell=lambda _done, _of: None, **options)  # type: ignore[arg-type]


def _measured(arm_or_crops: Any, sizes: np.ndarray, features: np.ndarray | None = None) -> Measured:
    """What a measuring network would say that sees these sizes, and labels everything rightly."""
    drawn = arm_or_crops.drawn if isinstance(arm_or_crops, Arm) else None
    labels = [one.generated.label_map for one in drawn] if drawn else [crop.labels for crop in arm_or_crops]
    return Measured(tuple(labels), sizes, np.zeros((len(sizes), 3)) if features is None else features)


def _real(noise: float = 12.0) -> Real:
    true = np.array([crop.values for crop in _CROPS])
    seen = 100 + 0.7 * true + np.random.default_rng(1).normal(0, noise, true.shape)
    return Real(_CROPS, _measured(_CROPS, seen))


def _by_key(rows: Iterator[Row]) -> dict[str, Row]:
    return {row.key: row for row in rows}


def test_a_model_that_obeys_gets_the_slope_of_the_ruler_and_one_that_shrinks_gets_less() -> None:
    real, arm = _real(), _arm(RuledModel(obedient))
    good = _by_key(figures.obedience(arm, _measured(arm, 100 + 0.7 * arm.requested), real))
    assert good["obedience-slope"].value.value == pytest.approx(1, abs=0.1)
    assert good["total-slope"].value.value == pytest.approx(0.7)
    assert good["total-r"].value.value == pytest.approx(1)
    beside = good["total-slope"].beside
    assert beside is not None
    assert beside.value == pytest.approx(0.7, abs=0.07)
    assert beside.n == 16
    assert good["obedience-r"].value.low <= good["obedience-r"].value.value <= good["obedience-r"].value.high
    shrunk = _by_key(figures.obedience(arm, _measured(arm, 300 + 0.35 * arm.requested), real))
    assert shrunk["obedience-slope"].value.value == pytest.approx(good["obedience-slope"].value.value / 2)
    assert shrunk["obedience-r"].value.value == pytest.approx(good["obedience-r"].value.value)


def test_the_error_is_told_over_the_rulers_own_and_the_bias_with_its_sign() -> None:
    real, arm = _real(), _arm(RuledModel(obedient))
    own = np.abs(real.true - real.measured.volumes)[:, 2].mean()
    rows = _by_key(figures.obedience(arm, _measured(arm, arm.requested - 3 * own), real))
    assert rows["obedience-error"].value.value == pytest.approx(3)
    assert rows["total-error"].value.value == pytest.approx(3 * own)
    assert rows["total-bias"].value.value == pytest.approx(-3 * own)
    assert rows["total-error"].unit == "mm3"


def test_a_model_that_always_draws_one_size_has_no_spread_when_nothing_is_told() -> None:
    real, asked, dropped = _real(), _arm(RuledModel(obedient)), _arm(RuledModel(obedient), told=False)
    stuck = np.full((32, 3), 500.0)
    rows = _by_key(figures.variety(asked, dropped, (_measured(asked, 0.7 * asked.requested), _measured(dropped, stuck)), real))
    assert rows["dropped-spread"].value.value == 0
    assert rows["asked-spread"].value.value == pytest.approx(1, abs=0.15)
    varied = _measured(dropped, real.measured.volumes[np.arange(32) % 16])
    rows = _by_key(figures.variety(asked, dropped, (varied, varied), real))
    assert rows["dropped-spread"].value.value == pytest.approx(1, abs=0.05)


def test_labels_that_do_not_belong_to_the_image_show_in_the_dice() -> None:
    real = _real()

    def shifted(told: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
        image, labels = obedient(told, seed)
        return image, np.roll(labels, 3, axis=0)

    arm = _arm(RuledModel(shifted))
    right = tuple(np.roll(one.generated.label_map, -3, axis=0) for one in arm.drawn)  # what a network sees in the image
    rows = _by_key(figures.label_agreement(arm, Measured(right, np.zeros((32, 3)), np.zeros((32, 3))), real))
    assert rows["label-dice-anterior"].value.value < 0.8
    assert rows["label-dice-anterior"].beside is not None
    assert rows["label-dice-anterior"].beside.value == 1


def test_a_model_that_hands_out_its_training_volumes_is_found_out_and_another_is_not() -> None:
    train = make_crops(8, first=50)
    real = _real()

    def blurred(crop: Any) -> Any:
        return (0.5 * crop.image + 0.5 * crop.image.mean()).astype(np.float32)

    def copying(_told: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
        crop = train[seed % len(train)]
        return (0.9 * crop.image + 0.05).astype(np.float32), crop.labels

    copies = _by_key(figures.memory(_arm(RuledModel(copying)), train, real, blurred))
    assert copies["copied"].value.value == 1
    assert copies["nearest"].value.value == pytest.approx(0, abs=1e-6)
    fresh = _by_key(figures.memory(_arm(RuledModel(obedient)), train, real, blurred))
    assert fresh["copied"].value.value < 0.4
    assert fresh["nearest"].beside is not None
    assert fresh["nearest"].beside.n == 16


def test_features_of_the_same_volumes_are_as_far_from_real_as_real_ones() -> None:
    features = np.random.default_rng(2).normal(size=(16, 4))
    real = Real(_CROPS, _measured(_CROPS, np.zeros((16, 3)), features))
    arm = _arm(RuledModel(obedient))
    rows = _by_key(looks.distances(arm, _measured(arm, np.zeros((32, 3)), features[np.arange(32) % 16]), real, splits=20))
    assert rows["frechet"].value.value == pytest.approx(1)
    for key in ("frechet-plain", "kernel", "precision", "recall", "density", "coverage"):
        row = rows[key]
        assert row.beside is not None
        assert (row.value.value, row.value.n) == (pytest.approx(row.beside.value), 8), key
    far = _by_key(looks.distances(arm, _measured(arm, np.zeros((32, 3)), features[np.arange(32) % 16] + 9), real, splits=20))
    assert far["frechet"].value.value > 10
    assert far["precision"].value.value == 0


def test_a_model_that_draws_one_volume_again_and_again_lacks_variety_beside_real_pairs() -> None:
    image, labels = box(250, 250)
    rows = _by_key(looks.diversity(_arm(RuledModel(lambda _told, _seed: (image, labels))), _real()))
    likeness = rows["likeness"]
    assert likeness.value.value == pytest.approx(1)
    assert likeness.beside is not None
    assert likeness.beside.high < 0.99
    assert likeness.value.n == likeness.beside.n == 112, "every pair of two people: 120 pairs less one of each person"


def test_what_synthetic_volumes_are_worth_is_told_over_training_on_real_ones() -> None:
    people, real = np.array([crop.subject for crop in _CROPS]), np.full((16, 2), 0.8)
    overlap = {"real": real, "synthetic": real * 0.95, "both": real * 1.1}
    rows = _by_key(figures.downstream(overlap, people))
    assert rows["downstream"].value.value == pytest.approx(0.95)
    assert rows["downstream-both"].value.low == pytest.approx(1.1)
    assert rows["downstream-posterior"].value.value == pytest.approx(0.76)


def test_the_contact_sheet_says_in_itself_which_half_is_synthetic(tmp_path: Path) -> None:
    real, arm = _real(), _arm(RuledModel(obedient), 16)
    path = write_contact_sheet(tmp_path / "sheet.png", arm, _measured(arm, 0.7 * arm.requested), real, caption="Licence: none.")
    with Image.open(path) as picture:
        assert "SYNTHETIC" in picture.text["Description"]  # type: ignore[attr-defined]
        assert picture.width > picture.height / 2 > 200


def test_the_planes_go_through_the_middle_of_what_is_labelled() -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:5, 6:9, 1:4] = 2
    assert middle_of(labels, labels.shape) == (3, 7, 2)
    assert middle_of(np.zeros_like(labels), labels.shape) == middle_of(None, (10, 10, 10)) == (5, 5, 5)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[RuledModel, ModelReport, Path, dict[str, str]]:
    """One whole evaluation, of a model that draws by rule, by a network of random weights."""
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    card = MeasuringCard("ruler", "1", "CC0-1.0", "Nobody.", "nobody", ("anterior", "posterior"), ())
    save_measuring_network(Segmenter(SegmenterShape(channels=(8, 16))), card, folder / "ruler")
    plan = EvaluationPlan(count=18, segmenter_steps=1, replays=2, threads=1, sampling=Sampling(), measuring=folder / "ruler")
    told: dict[str, str] = {}
    people = People(train=make_crops(3, first=50), test=_CROPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hippocampi, "read_people", lambda _folder: people)
        bench = hippocampi.HippocampusBench(folder, folder, plan, lambda what, done, of: told.update({what: f"{done}/{of}"}))
        model = RuledModel(obedient)
        report = bench.measure(model)  # type: ignore[arg-type]
    return model, report, folder, {**dict(bench.facts()), **told}


def test_an_evaluation_has_a_figure_for_every_goal_of_hippocampus_models(
    evaluated: tuple[RuledModel, ModelReport, Path, dict[str, str]],
) -> None:
    _, report, folder, facts = evaluated
    keys = [row.key for row in (*report.rows, package_size())]
    assert len(keys) == len(set(keys))
    assert {goal.key for goal in GOALS} - set(keys) == {"nihss"}
    assert (folder / "contact-sheet-ruled-1.png").stat().st_size > 10_000
    assert "16 real crops of 8 held-out people" in facts["people"]
    assert facts["measuring and feature network"].startswith("ruler 1, sha256:")
    assert facts["ruled 1: asked"] == facts["ruled 1: value dropped"] == "18/18"
    assert facts["segmenter: real"] == facts["ruled 1: segmenter, both"] == "1/1"


def test_nothing_of_held_out_people_reaches_the_synthetic_training_volumes(
    evaluated: tuple[RuledModel, ModelReport, Path, dict[str, str]],
) -> None:
    model, _, _, _ = evaluated
    held_out = {crop.image.tobytes() for crop in _CROPS}
    for_training = [call for call in model.calls if call["seed"] >= 500_000]
    others = [call for call in model.calls if call["seed"] < 500_000]
    assert len(for_training) == 18
    assert len(others) == 18 + 18 + 2
    assert not any(call["prior"].array.tobytes() in held_out for call in for_training)
    assert all(call["prior"].array.tobytes() in held_out for call in others)
    sizes = {crop.values[0] for crop in make_crops(3, first=50)}
    assert all(call["told"]["hippocampus-anterior-volume"] in sizes for call in for_training)
