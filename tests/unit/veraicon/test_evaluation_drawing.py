from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from domain.errors import RequestInvalid
from domain.model_card import ConceptInput, ValueRange
from generators.hippocampus_data import CONCEPTS
from tests.builders_evaluation import RuledModel, box, evaluated_card, make_crops, obedient
from veraicon.evaluation.generating import Arm, clipped, draw_arm, replayed, usable
from veraicon.evaluation.lesions import Lesions, lesion_rows
from veraicon.evaluation.people import other_side, volume_of
from veraicon.evaluation.run import _subject


def _quiet(_done: int, _of: int) -> None:
    return None


def _draw(model: RuledModel, count: int, **options: Any) -> Arm:
    return draw_arm(model, make_crops(3), count=count, seed=7, tell=_quiet, **options)  # type: ignore[arg-type]


def test_every_crop_is_drawn_before_any_is_drawn_again_each_with_a_seed_of_its_own() -> None:
    model = RuledModel(obedient)
    arm = _draw(model, 14)
    assert [one.crop.number for one in arm.drawn] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2]
    assert len({one.seed for one in arm.drawn}) == 14
    assert arm.people.tolist()[:4] == [1, 1, 2, 2]
    assert [call["seed"] for call in model.calls] == [one.seed for one in arm.drawn]


def test_asked_are_the_two_parts_of_a_crop_and_the_prior_image_is_its_other_side() -> None:
    model, crops = RuledModel(obedient), make_crops(3)
    _draw(model, 2)
    first, second = model.calls
    assert first["told"] == dict(zip(CONCEPTS[:2], crops[0].values[:2], strict=True))
    assert np.array_equal(first["prior"].array, crops[1].image)
    assert np.array_equal(second["prior"].array, crops[0].image)
    assert first["like"] == crops[0].image.shape
    assert first["guidance"] is None


def test_with_the_value_dropped_nothing_is_asked_and_nothing_is_guided() -> None:
    model = RuledModel(obedient)
    arm = _draw(model, 2, told=False)
    assert [(call["told"], call["guidance"]) for call in model.calls] == [({}, 1.0)] * 2
    assert model.calls[0]["prior"] is not None
    assert arm.requested.tolist() == [list(crop.values) for crop in make_crops(3)[:2]]


def test_a_value_beyond_the_trained_range_is_asked_for_at_its_end() -> None:
    crop = make_crops(1)[0]
    narrow = replace(evaluated_card(), concepts=(ConceptInput(CONCEPTS[0], ValueRange(0, crop.values[0] - 20, "mm3")),))
    asked = clipped(crop, narrow)
    assert asked == (crop.values[0] - 20, crop.values[1], crop.values[2] - 20)
    assert clipped(crop, evaluated_card()) == crop.values


def test_crops_that_the_model_does_not_take_are_left_out_and_are_nobodys_prior_image() -> None:
    crops = make_crops(2)
    image, labels = box(200, 200, (30, 20, 17))
    mixed = (crops[0], replace(crops[1], image=image, labels=labels), *crops[2:])
    kept = usable(mixed, evaluated_card())
    assert [crop.number for crop in kept] == [1, 3, 4]
    assert other_side(kept[0], kept) is None
    assert other_side(kept[1], kept) is kept[2]


def test_a_crop_as_a_volume_has_its_own_voxel_size() -> None:
    volume = volume_of(replace(make_crops(1)[0], voxel_mm3=8.0))
    assert volume.spacing_mm == pytest.approx((2, 2, 2))
    assert volume.modality == "MR"


def test_a_replay_is_the_same_only_if_every_bit_of_image_and_labels_is() -> None:
    crops = make_crops(3)
    still = RuledModel(obedient)
    arm = _draw(still, 4)
    assert replayed(still, arm, crops, count=3).tolist() == [True] * 3  # type: ignore[arg-type]

    def drifting(told: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
        image, labels = obedient(told, seed)
        if seed == arm.drawn[1].seed:
            image[0, 0, 0] = np.nextafter(image[0, 0, 0], np.float32(2))
        if seed == arm.drawn[2].seed:
            labels[0, 0, 0] = 3
        return image, labels

    assert replayed(RuledModel(drifting), arm, crops, count=4).tolist() == [True, False, False, True]  # type: ignore[arg-type]


def _lesions(count: int) -> Lesions:
    """People whose lesion grows with the score, roughly; of one the score is not known."""
    rng = np.random.default_rng(0)
    numbers = torch.tensor(np.stack([rng.integers(0, 30, count), rng.integers(50, 90, count)], 1), dtype=torch.float32)
    labels = torch.zeros(count, 8, 8, 8, dtype=torch.uint8)
    for case in range(count):
        labels[case].view(-1)[: int(5 * numbers[case, 0] + rng.integers(0, 120))] = 1
    numbers[3, 0] = float("nan")
    answers = torch.full((count, 3), -1)
    answers[:, 2] = torch.tensor(rng.integers(0, 2, count))
    facts = SimpleNamespace(
        kinds=("nihss", "age", "sex"),
        numbers=torch.cat([numbers, torch.full((count, 1), float("nan"))], 1),
        answers=answers,
        texts=("female", "male"),
    )
    part = SimpleNamespace(facts=facts, labels=labels, extents=torch.full((count, 3), 8))
    part_type = type("Part", (SimpleNamespace,), {"__len__": lambda self: count})
    return Lesions(part_type(**vars(part)), 2.0)


def _by_score(told: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels.ravel()[: int(10 * told["nihss"])] = 1
    return labels.astype(np.float32), labels


def test_the_lesion_figure_is_the_rank_correlation_of_score_and_volume_beside_that_of_real_people() -> None:
    card = evaluated_card(("nihss", "age", "sex"))
    model, lesions = RuledModel(_by_score, card=card), _lesions(60)
    rows = {row.key: row for row in lesion_rows(model, lesions, count=118, seed=1, replays=2, tell=_quiet)}  # type: ignore[arg-type]
    assert rows["nihss"].value.value == pytest.approx(1)
    assert rows["nihss"].value.n == 118
    real = rows["nihss"].beside
    assert real is not None
    assert 0.6 < real.low < real.value < real.high < 0.99
    assert (real.n, real.people) == (59, 59)
    assert rows["replayed"].value.value == 1
    told = [call["told"] for call in model.calls]
    assert all(set(one) == {"nihss", "age", "sex"} for one in told), "whose score is not known is not drawn for"
    assert {one["sex"] for one in told} == {"female", "male"}
    assert lesions.volumes[0] == 8 * int((lesions.part.labels[0] > 0).sum())


def test_a_model_is_told_only_what_it_can_be_told_and_within_its_range() -> None:
    card = evaluated_card(("nihss",))
    card = replace(card, concepts=(ConceptInput("nihss", ValueRange(0, 1, "{score}")),))
    asked = _lesions(5).asked(0, card)
    assert [(fact.text, fact.value, fact.unit) for fact in asked] == [("nihss", 1, "{score}")]


def test_models_of_different_things_are_not_measured_together() -> None:
    one, other = RuledModel(obedient), RuledModel(obedient, card=evaluated_card(("nihss",)))
    assert _subject([one, one]) == CONCEPTS[0]  # type: ignore[list-item]
    assert _subject([other]) == "nihss"  # type: ignore[list-item]
    with pytest.raises(RequestInvalid, match="one kind at a time"):
        _subject([one, other])  # type: ignore[list-item]
