from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.errors import ConfigurationError, NonFiniteOutput, RequestInvalid
from generators.augmentation import bent, volumes_mm3
from generators.denoiser_stage import DenoiserStage, averaged_networks
from generators.export import export_bundle
from generators.hippocampus_data import Crop, of_subjects, on_grid, read_crops, split_subjects
from generators.latent_data import LatentData
from generators.recipes import TrainingPlan, recipe_of
from generators.registry import load_generator
from generators.stages import schedule
from generators.training import load_checkpoint, run_stage, train
from generators.training_set import Facts, FactVectors, TrainingSet, tell_at_random
from generators.weights import load_bundle
from tests.builders_generators import CONCEPTS, GRID, tiny_encoder, tiny_recipe

_PLAN = TrainingPlan(check_every=4, patience=2)


class _Walk:
    """A stage whose weight is a sum over its steps: a step that is lost or done twice shows."""

    name = "walk"

    def __init__(self, *, stop_at: int = -1, held_out: Callable[[float], float] = lambda weight: -weight) -> None:
        self.weight, self.stop_at, self.held_out = 0.0, stop_at, held_out

    def step(self, step: int, steps: int) -> dict[str, float]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.weight += step**2
        return {"loss": 1 / (1 + self.weight)}

    def held_out_loss(self) -> float:
        return self.held_out(self.weight)

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        self.weight = state["weight"]


def _run(stage: Any, folder: Path, steps: int = 10, plan: TrainingPlan = _PLAN) -> list[int]:
    seen: list[int] = []
    run_stage(stage, folder, steps=steps, plan=plan, progress=lambda _name, step, _steps, _loss: seen.append(step))
    return seen


def test_a_broken_run_goes_on_from_its_last_checkpoint_to_the_same_end(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(_Walk(stop_at=6), tmp_path)
    resumed = _Walk()
    assert _run(resumed, tmp_path) == [5, 6, 7, 8, 9, 10]
    unbroken = sum(step**2 for step in range(10))
    assert resumed.weight == unbroken
    assert load_checkpoint(tmp_path / "walk.pt")["stage"]["weight"] == unbroken


def test_training_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best(tmp_path: Path) -> None:
    stage = _Walk(held_out=lambda weight: abs(weight - 14))  # 14 after the first check; every later one is worse
    assert _run(stage, tmp_path, steps=100)[-1] == 12
    assert load_checkpoint(tmp_path / "walk-best.pt")["step"] == 4
    assert len([line for line in (tmp_path / "losses.jsonl").read_text().splitlines() if "held_out" in json.loads(line)]) == 3


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    stage = _Walk()
    stage.step = lambda _step, _steps: {"loss": float("nan")}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteOutput):
        _run(stage, tmp_path)
    assert not (tmp_path / "walk.pt").exists()


def test_learning_rate_warms_up_and_ends_low() -> None:
    rates = [schedule(step, 3000) for step in range(3000)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(1, abs=0.02)
    assert 0.02 < rates[-1] < 0.04


def _latents(count: int = 4) -> LatentData:
    rng = torch.Generator().manual_seed(0)
    return LatentData(
        label_z=torch.randn(count, 2, 2, 4, 4, 4, generator=rng).half(),
        image_z=torch.randn(count, 2, 2, 4, 4, 4, generator=rng).half(),
        labels=torch.randint(3, (count, 2, 16, 16, 16), generator=rng, dtype=torch.uint8),
        numbers=1500 + 300 * torch.randn(count, 2, 3, generator=rng),
        answers=torch.full((count, 3), -1),
        extents=torch.full((count, 3), 16),
        partner=torch.tensor([1, 0, -1, -1]),
    )


def _vectors(others: int = 0) -> FactVectors:
    rng = torch.Generator().manual_seed(9)
    return FactVectors(
        tuple(torch.randn(2, 8, generator=rng) for _ in range(3)),
        torch.randn(0, 8, generator=rng),
        torch.randn(others, 8, generator=rng),
    )


def _facts() -> Facts:
    return Facts(CONCEPTS, ("clinical-facts",) * 3, torch.zeros(4, 3), torch.full((4, 3), -1))


@pytest.fixture(scope="module")
def stage() -> DenoiserStage:
    torch.manual_seed(3)
    recipe, latents = tiny_recipe(), _latents()
    return DenoiserStage(recipe, latents, latents, tiny_encoder(recipe), _vectors(), _facts())


def test_averaged_weights_forget_the_random_start(stage: DenoiserStage) -> None:
    def bias(networks: Any) -> torch.Tensor:
        return networks.number[0].bias.detach().clone()

    def averaged() -> torch.Tensor:
        return averaged_networks(stage.state())["encoder"]["clinical.number.0.bias"]

    encoder = stage._networks["encoder"].clinical
    start = bias(encoder)
    for step in range(2):
        stage.step(step, 400)
    with torch.no_grad():
        encoder.number[0].bias.copy_(start + 1)  # as if training had moved it: an average of constant decay would hardly follow
    for _ in range(40):
        stage._average.update_parameters(stage._networks)
    assert (averaged() - start).mean() > 0.9


def test_the_denoisers_learn_and_their_encoder_knows_the_scale_of_the_numbers(stage: DenoiserStage) -> None:
    before = stage.held_out_loss()
    for step in range(60):
        losses = stage.step(step, 60)
    assert {"labels", "image"} <= losses.keys()
    assert stage.held_out_loss() < before
    numbers = _latents().numbers.flatten(0, 1)
    scale = averaged_networks(stage.state())["encoder"]["scale"]
    torch.testing.assert_close(scale[:, 0], numbers.mean(0))
    torch.testing.assert_close(scale[:, 1], numbers.std(0, correction=0))


def test_training_begins_from_the_weights_of_a_finished_model(stage: DenoiserStage) -> None:
    recipe, latents = tiny_recipe(), _latents()
    other = DenoiserStage(recipe, latents, latents, tiny_encoder(recipe), _vectors(), _facts())
    finished = averaged_networks(stage.state())
    other.begin_from(finished)
    begun = averaged_networks(other.state())
    assert all(torch.equal(begun[part][name], tensor) for part in finished for name, tensor in finished[part].items())


def test_a_drawn_batch_is_the_same_again_and_never_shows_a_prior_image_that_is_not_there() -> None:
    latents = _latents()
    first, again = (latents.draw(400, latents.scale(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.label_z, again.label_z)
    assert torch.equal(first.known.numbers, again.known.numbers)
    alone = (first.label_z.unsqueeze(1) == latents.label_z[2:].flatten(0, 1).float().unsqueeze(0)).flatten(2).all(2).any(1)
    assert 100 < alone.sum() < 300
    assert not first.known.prior_there[alone].any()


def test_every_subset_is_told_and_what_is_unknown_never_is() -> None:
    latents = _latents()
    known = latents.draw(400, latents.scale(), torch.Generator().manual_seed(5)).known
    known.numbers[:, 2] = float("nan")
    told = tell_at_random(
        known, ("demographics", "clinical-facts", "clinical-facts"), _vectors(), torch.Generator().manual_seed(1)
    )
    assert not told.present[:, 2].any()
    assert not told.prior_present[~known.prior_there].any()
    subsets = {tuple(row) for row in torch.cat([told.present[:, :2], told.prior_present[:, None]], dim=1).tolist()}
    assert len(subsets) == 8, "each subset has to occur, or a fact alone is not obeyed"
    assert told.number.isfinite().all()


def test_facts_that_say_nothing_are_told_beside_but_never_where_nothing_is() -> None:
    latents = _latents()
    known = latents.draw(400, latents.scale(), torch.Generator().manual_seed(5)).known
    told = tell_at_random(known, ("demographics",) * 3, _vectors(others=5), torch.Generator().manual_seed(1))
    assert told.present.shape == (400, 7)
    counts = told.present[:, 3:].sum(1)
    assert set(counts.tolist()) == {0, 1, 2, 3, 4}
    assert not told.number_present[:, 3:].any()


def test_bending_keeps_labels_on_the_image_and_changes_their_volume() -> None:
    rng = torch.Generator().manual_seed(2)
    labels = torch.zeros(32, 32, 32, dtype=torch.uint8)
    labels[10:22, 9:16, 10:22], labels[10:22, 16:23, 10:22] = 1, 2
    image = (labels > 0).float().unsqueeze(0)
    ratios = []
    for _ in range(12):
        bent_image, bent_labels = bent(image, labels, torch.tensor([28, 28, 28]), rng)
        inside, outside = bent_image[0][bent_labels > 0], bent_image[0][bent_labels == 0]
        assert inside.mean() > 0.85
        assert outside.mean() < 0.02
        ratios.append(float(volumes_mm3(bent_labels[None])[0, 2] / volumes_mm3(labels[None])[0, 2]))
    assert min(ratios) < 0.99
    assert max(ratios) > 1.01
    assert np.std(ratios) < 0.08, "the spread of real sizes has to stay"
    assert len(set(ratios)) == 12


def test_no_person_is_in_two_parts_and_the_split_is_always_the_same() -> None:
    crops = [Crop(n, (n + 1) // 2, np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), 1.0) for n in range(1, 295)]
    split = split_subjects(crops)
    assert [len(split.train), len(split.validation), len(split.test)] == [103, 15, 29]
    assert len(split.train | split.validation | split.test) == 147
    assert split == split_subjects(crops[::-1])
    assert {crop.subject for crop in of_subjects(crops, split.test)} == split.test


def test_real_crops_measure_what_the_data_set_says(data_folder: Callable[[str], Path]) -> None:
    folder = data_folder("imaging/msd_hippocampus")
    crops = {crop.number: crop for crop in read_crops(folder)}
    assert crops[1].image.shape == (35, 51, 35)
    assert crops[1].values == (1324, 1624, 2948)
    assert crops[1].image.min() == 0
    assert crops[1].image.max() == 1
    # The head lies in front: rows run to Posterior, so label 1 has the smaller row numbers.
    head, body = (np.argwhere(crops[1].labels == label)[:, 1].mean() for label in (1, 2))
    assert head < body
    both = on_grid([crops[3], crops[4], crops[1]])
    assert both.partner.tolist() == [1, 0, -1]
    assert volumes_mm3(both.labels).tolist() == both.facts.numbers.tolist()


def _training_set(count: int) -> TrainingSet:
    """Ellipsoids in two halves, on a brighter ground: enough to learn something of."""
    rng = torch.Generator().manual_seed(count)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in GRID), indexing="ij")
    sizes = 0.5 + 0.3 * torch.rand(count, 3, generator=rng)
    inside = torch.stack([(z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 < 1 for a, b, c in sizes.tolist()])
    labels = torch.where(inside, torch.where(y < 0, 1, 2), 0).to(torch.uint8)
    images = 0.6 - 0.3 * (labels > 0).float() + 0.05 * torch.randn(labels.shape, generator=rng)
    numbers = volumes_mm3(labels)
    return TrainingSet(
        labels=labels,
        images=images.clamp(0, 1).unsqueeze(1),
        extents=torch.tensor([GRID] * count),
        partner=torch.arange(count) ^ 1,
        facts=Facts(CONCEPTS, ("clinical-facts",) * 3, numbers, torch.full(numbers.shape, -1)),
        measured=volumes_mm3,
    )


def test_a_model_is_trained_stage_by_stage_resumed_and_exported_to_a_bundle_that_generates(tmp_path: Path) -> None:
    steps = {"label-autoencoder": 12, "image-autoencoder": 12, "denoiser": 8}
    recipe = tiny_recipe(name="hippocampus-t1")
    recipe = replace(recipe, plan=replace(recipe.plan, steps=steps, check_every=4))
    parts = {"train": _training_set(6), "validation": _training_set(4), "test": _training_set(2)}
    run_folder = tmp_path / "run"
    with pytest.raises(ConfigurationError, match="in order"):
        train(recipe, parts, run_folder, encoder=tiny_encoder(recipe), vectors=_vectors(), stages=("denoiser",))
    seen: list[str] = []
    for stages in (("label-autoencoder",), ()):
        train(
            recipe, parts, run_folder, encoder=tiny_encoder(recipe), vectors=_vectors(), stages=stages,
            progress=lambda stage, _step, _steps, _loss: seen.append(stage),
        )  # fmt: skip
    assert {stage: seen.count(stage) for stage in steps} == steps, "a finished stage is not done again"
    (tmp_path / "data").mkdir()
    card = export_bundle(recipe, parts, run_folder, tmp_path / "data", tmp_path / "bundle", encoder=tiny_encoder(recipe))
    assert card == load_generator(tmp_path / "bundle").card
    assert [concept.kind for concept in card.concepts] == list(CONCEPTS)
    assert dict(card.training)["denoiser steps"] == "8"
    seen.clear()
    recipe = replace(recipe, plan=replace(recipe.plan, steps={**steps, "image-autoencoder": 20}))
    train(
        recipe, parts, tmp_path / "further", encoder=tiny_encoder(recipe), vectors=_vectors(),
        begin_from=load_bundle(tmp_path / "bundle"), progress=lambda stage, _step, _steps, _loss: seen.append(stage),
    )  # fmt: skip
    assert set(seen) == {"denoiser"}, "a finished model's autoencoders are taken as they are"
    assert load_checkpoint(tmp_path / "further" / "image-autoencoder.pt")["step"] == 12, "its card says how long they trained"


def test_training_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Task04"):
        read_crops(tmp_path)
    recipe = tiny_recipe()
    with pytest.raises(ConfigurationError, match="stages"):
        train(recipe, {}, tmp_path, encoder=tiny_encoder(recipe), vectors=_vectors(), stages=("gan",))
    with pytest.raises(RequestInvalid, match="hippocampus-t1"):
        recipe_of("liver-ct")
