from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.errors import ConfigurationError, NonFiniteOutput
from generators.augmentation import bent, volumes_mm3
from generators.hippocampus_data import Crop, of_subjects, on_grid, read_crops, split_subjects
from generators.latent_data import LatentData
from generators.stages import DenoiserStage, schedule
from generators.training import TrainingPlan, load_checkpoint, run_stage, train
from multimodal.encoder import EncoderConfig, MultimodalEncoder

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
    run_stage(stage, folder, steps=steps, plan=plan, resume=True, progress=lambda _name, step, _steps, _loss: seen.append(step))
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
        z=torch.randn(count, 2, 3, 4, 4, 4, generator=rng).half(),
        images=torch.randint(256, (count, 2, 1, 16, 16, 16), generator=rng, dtype=torch.uint8),
        values=1500 + 300 * torch.randn(count, 2, 3, generator=rng),
        field=torch.ones(count, 1, 4, 4, 4),
        partner=torch.tensor([1, 0, -1, -1]),
    )


@pytest.fixture(scope="module")
def stage() -> DenoiserStage:
    torch.manual_seed(3)
    latents = _latents()
    return DenoiserStage(latents, latents, MultimodalEncoder(EncoderConfig(grid=(16, 16, 16), width=32)), seed=1, batch=4)


def test_averaged_weights_forget_the_random_start(stage: DenoiserStage) -> None:
    def bias(networks: Any) -> torch.Tensor:
        return networks.value.bias.detach().clone()

    encoder = stage._networks["encoder"].clinical
    start = bias(encoder)
    for step in range(2):
        stage.step(step, 400)
    with torch.no_grad():
        encoder.value.bias.copy_(start + 1)  # as if training had moved it: an average of constant decay would hardly follow
    for _ in range(40):
        stage._average.update_parameters(stage._networks)
    followed = (bias(stage.averaged[1].clinical) - start).mean()
    assert followed > 0.9
    assert torch.equal(stage.averaged[1].clinical.value_mean, encoder.value_mean)


def test_a_drawn_batch_is_the_same_again_and_never_shows_a_prior_image_that_is_not_there() -> None:
    latents = _latents()
    first, again = (latents.draw(400, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.z, again.z)
    assert torch.equal(first.present, again.present)
    alone = (first.z.unsqueeze(1) == latents.z[2:].flatten(0, 1).float().unsqueeze(0)).flatten(2).all(2).any(1)
    assert 100 < alone.sum() < 300
    assert not first.prior_present[alone].any()
    subsets = {tuple(row) for row in first.present.tolist()}
    assert len(subsets) == 8, "each subset of the numbers has to occur, or a number alone is not obeyed"
    nothing = ~first.present.any(1) & ~first.prior_present
    assert 0.05 < nothing.float().mean() < 0.3


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
    assert min(ratios) < 0.97
    assert max(ratios) > 1.03
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
    assert volumes_mm3(both.labels).tolist() == both.values.tolist()


def test_training_says_what_is_missing(tmp_path: Path) -> None:
    encoder = MultimodalEncoder(EncoderConfig(grid=(16, 16, 16), width=32))
    with pytest.raises(ConfigurationError, match="Task04"):
        train(tmp_path, tmp_path / "run", encoder=encoder)
    with pytest.raises(ConfigurationError, match="stages"):
        train(tmp_path, tmp_path / "run", encoder=encoder, stages=("gan",))
    with pytest.raises(ConfigurationError, match="in order"):
        load_checkpoint(tmp_path / "autoencoder.pt")
