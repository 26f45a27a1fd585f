"""Training of the families VAE and GAN: what their losses are, that they fall, and that a broken run goes on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from domain.errors import ConfigurationError
from generators.adversarial import gradient_penalty, hard_labels, sliced_distance, volume_loss
from generators.denoiser_stage import averaged_networks
from generators.results import threads_set
from generators.training import load_checkpoint, train
from generators.variational import divergence, with_free_bits
from generators.vector_data import VectorData
from generators.vector_decoder import VectorDecoder
from tests.builders_generators import tiny_encoder
from tests.builders_vectors import SHAPE, blocks, random_autoencoder, stage_of, vector_recipe, vectors

_BOTH = pytest.mark.parametrize("family", ["vae", "gan"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads_set(1):
        yield


def test_training_of_a_vae_brings_validation_people_closer() -> None:
    stage = stage_of("vae")
    stage.rate = 3e-3
    before = stage.held_out_loss()
    losses = [stage.step(300 + step, 3000) for step in range(25)]
    assert stage.held_out_loss() < 0.5 * before
    assert losses[-1]["labels"] < 0.5 * losses[0]["labels"]
    assert losses[-1]["image"] < 0.8 * losses[0]["image"]


def test_the_discriminator_joins_a_vae_when_there_is_something_to_judge() -> None:
    stage = stage_of("vae")
    first = [weights.clone() for weights in stage._discriminator.parameters()]
    assert "judged" not in stage.step(5, 20)
    assert all(torch.equal(was, now) for was, now in zip(first, stage._discriminator.parameters(), strict=True))
    assert {"judged", "discriminator"} <= set(stage.step(6, 20))
    assert any(not torch.equal(was, now) for was, now in zip(first, stage._discriminator.parameters(), strict=True))
    assert stage._networks["decoder"].grained.weight.abs().sum() > 0


def test_training_of_a_gan_brings_its_volumes_closer_to_validation_people() -> None:
    stage = stage_of("gan")
    stage.rate = 1e-3
    before = stage.held_out_loss()
    volumes = [stage.step(300 + step, 3000)["volumes"] for step in range(120)]
    assert stage.held_out_loss() < 0.5 * before
    assert sum(volumes[-10:]) < 0.6 * sum(volumes[:10])


@_BOTH
def test_a_restored_stage_goes_on_as_the_unbroken_one(family: str) -> None:
    unbroken = stage_of(family)
    for step in range(2):
        unbroken.step(step, 20)
    state = {name: dict(part) for name, part in unbroken.state().items()}
    resumed = stage_of(family)
    resumed.restore(_copied(state))
    assert unbroken.step(2, 20) == resumed.step(2, 20)
    for ours, theirs in zip(unbroken._average.parameters(), resumed._average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert unbroken.held_out_loss() == resumed.held_out_loss()


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return type(state)({key: _copied(value) for key, value in state.items()})
    return [_copied(value) for value in state] if isinstance(state, list) else state


@_BOTH
def test_a_recipe_trains_its_autoencoder_and_then_its_family(family: str, tmp_path: Path) -> None:
    recipe = vector_recipe(family, steps={"image-autoencoder": 2, family: 2})
    parts = dict.fromkeys(("train", "validation", "test"), blocks())
    with pytest.raises(ConfigurationError, match="image-autoencoder"):
        train(recipe, parts, tmp_path, encoder=tiny_encoder(recipe), vectors=vectors(), stages=[family], threads=1)
    seen: list[str] = []
    train(
        recipe, parts, tmp_path, encoder=tiny_encoder(recipe), vectors=vectors(),
        threads=1, progress=lambda stage, *_: seen.append(stage),
    )  # fmt: skip
    assert seen == ["image-autoencoder"] * 2 + [family] * 2
    networks = averaged_networks(load_checkpoint(tmp_path / f"{family}.pt")["stage"])
    VectorDecoder(SHAPE).load_state_dict(networks["decoder"])
    fitted = tiny_encoder(recipe)
    fitted.load_state_dict(networks["encoder"])
    torch.testing.assert_close(fitted.scale[:, 0], parts["train"].facts.numbers.mean(0))


def test_a_data_set_without_images_is_refused() -> None:
    bare = dataclasses.replace(blocks(), images=None)
    with pytest.raises(ConfigurationError, match="without images"):
        VectorData.of(bare, random_autoencoder(vector_recipe("vae")), variants=1, seed=0)


def test_a_drawn_batch_is_the_same_again_and_its_numbers_are_those_of_the_bent_labels() -> None:
    data = VectorData.of(blocks(), random_autoencoder(vector_recipe("vae")), variants=2, seed=1)
    scale = torch.zeros(3), torch.ones(3)
    first, again = (data.draw(12, scale, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.known.numbers[:, 2], (first.labels > 0).sum((1, 2, 3)).float())
    real = {float(volume) for volume in blocks().facts.numbers[:, 2]}
    kept = sum(float(volume) in real for volume in first.known.numbers[:, 2])
    assert 0 < kept < 12, "some cases are to keep their texture, the others to be bent"


def test_divergence_is_that_of_two_normal_distributions() -> None:
    rng = torch.Generator().manual_seed(1)
    means, logs = torch.randn(2, 5, 4, generator=rng), torch.randn(2, 5, 4, generator=rng)
    ours, prior = (means[0], logs[0].exp()), (means[1], logs[1].exp())
    torch.testing.assert_close(divergence(ours, prior), kl_divergence(Normal(*ours), Normal(*prior)))


def test_a_value_below_the_free_bits_is_pressed_no_further() -> None:
    divergences = torch.tensor([[0.01, 2.0], [0.03, 4.0]], requires_grad=True)
    loss = with_free_bits(divergences, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0.1 + 3.0)
    assert divergences.grad is not None
    assert divergences.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_hard_labels_are_hard_and_still_teach() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    present = hard_labels(logits)
    assert torch.equal(present.detach().round(decimals=4).unique(), torch.tensor([0.0, 1.0]))
    assert torch.equal(present.detach().argmax(1)[present.detach().amax(1) > 0.5] + 1, logits.argmax(1)[logits.argmax(1) > 0])
    present[:, 0].sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()


def test_volumes_are_regressed_only_where_they_were_told() -> None:
    labels = blocks(2).labels
    exact = torch.nn.functional.one_hot(labels.long(), 3)[..., 1:].movedim(-1, 1).float()
    half = exact * torch.tensor([1.0, 0.5]).view(1, 2, 1, 1, 1)
    groups = ((1,), (2,), (1, 2), ())
    everything, first_only = torch.ones(2, 4, dtype=torch.bool), torch.tensor([[True, False, False, True]] * 2)
    assert volume_loss(exact, labels, groups, everything).item() == 0
    assert volume_loss(half, labels, groups, first_only).item() == 0
    assert volume_loss(0 * exact, labels, groups, everything).item() > 9, "a label that is gone has to be called back"
    # Label 2 has half its volume and the whole three quarters of its own; 0.05 is what the rounded tip of the loss takes off.
    assert volume_loss(half, labels, groups, everything).item() == pytest.approx(
        (math.log(2) - 0.05) + (math.log(4 / 3) - 0.05), rel=0.02
    )


def test_penalty_is_the_squared_gradient_at_real_volumes() -> None:
    real = torch.randn(3, 2, 4, 4, 4).requires_grad_()
    weight = torch.randn(2, 4, 4, 4)
    scores = (real * weight).sum((1, 2, 3, 4), keepdim=True)
    assert gradient_penalty(scores, real).item() == pytest.approx(weight.square().sum().item(), rel=1e-5)


def test_sliced_distance_sees_brightness_texture_and_nothing_in_the_order() -> None:
    rng = torch.Generator().manual_seed(3)
    real = torch.randn(6, 2, 16, 16, 16, generator=rng)

    def distance(other: torch.Tensor) -> float:
        return sliced_distance(real, other, torch.Generator().manual_seed(0))

    assert distance(real.flip(0)) == 0
    others = torch.randn(6, 2, 16, 16, 16, generator=rng)
    assert distance(others) < distance(others * 0.8) < distance(others * 0.4)
    assert distance(others) < distance(others + 0.3)
