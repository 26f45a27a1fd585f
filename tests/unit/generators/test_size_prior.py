"""Sizes that are drawn: the distribution follows what is told, and the label map has exactly the size that was drawn or asked."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.clinical import ClinicalContext
from domain.volume import Volume
from generators.denoiser_stage import DenoiserStage
from generators.latent_diffusion import LatentDiffusionGenerator
from generators.size_prior import SizePrior, SizePriorShape, standardised
from generators.weights import ENCODER, load_bundle
from multimodal.encoder import MultimodalEncoder
from tests.builders_generators import CONCEPTS, tiny_encoder, tiny_recipe, with_size_prior, write_tiny_bundle
from tests.unit.generators.test_training import _facts, _latents, _vectors
from tests.unit.multimodal.fakes import FakeSentences
from veraicon.asking import asked_fact

_SHAPE = SizePriorShape(label_count=1, components=2, token_width=16, pooled_tokens=2)


def _grave(batch: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens that say yes or no in their first number, and the sizes that go with them: about 3000 or about 50 voxels."""
    grave = torch.rand(batch, generator=rng) < 0.5
    tokens = torch.zeros(batch, 2, 16)
    tokens[:, 0, 0] = torch.where(grave, 2.0, -2.0)
    sizes = torch.where(grave, 3000.0, 50.0) * torch.exp(0.3 * torch.randn(batch, generator=rng))
    return tokens, sizes.unsqueeze(1)


def test_sizes_follow_what_is_told_with_the_spread_that_they_have() -> None:
    torch.manual_seed(0)
    prior, rng = SizePrior(_SHAPE), torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    for _ in range(200):
        tokens, sizes = _grave(32, rng)
        loss = prior.loss(tokens, torch.ones(32, 2, dtype=torch.bool), sizes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    told, mask = torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool)
    for first, median in ((2.0, 3000), (-2.0, 50)):
        told[0, 0, 0] = first
        drawn = np.log([prior.draw(told, mask, rng)[0] for _ in range(300)])
        assert np.median(drawn) == pytest.approx(math.log(median), abs=0.2)
        assert np.std(drawn) == pytest.approx(0.3, abs=0.15)


def test_a_label_has_at_least_one_voxel() -> None:
    assert standardised(torch.tensor([0.0])) == standardised(torch.tensor([1.0]))


def test_the_denoiser_is_trained_with_sizes_beside_it() -> None:
    torch.manual_seed(3)
    recipe, latents = with_size_prior(tiny_recipe()), _latents()
    stage = DenoiserStage(recipe, latents, latents, tiny_encoder(recipe), _vectors(), _facts())
    losses = [stage.step(step, 3000)["sizes"] for step in range(300, 340)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("sized"), with_sizes=True)


def _drawn(folder: Path, *asked: Any, seed: int) -> list[int]:
    bundle = load_bundle(folder)
    generator = LatentDiffusionGenerator.from_bundle(bundle)
    encoder = MultimodalEncoder.from_state(bundle.states[ENCODER], bundle.sizes[ENCODER], bundle.card)
    nobody = ClinicalContext("", None, None, datetime(2026, 1, 1, tzinfo=UTC), (), "")
    facts = tuple(asked_fact(kind, value) for kind, value in zip(asked[::2], asked[1::2], strict=True))
    tokens = encoder.encode(nobody, facts, None, generator.card, sentences=FakeSentences())
    like = Volume(np.zeros((10, 12, 9), np.float32), np.eye(4)[[2, 1, 0, 3]], "", "MR")
    made = generator.generate(tokens, like=like, seed=seed, guidance=1.0, sampler_steps=2)
    assert made.label_map is not None
    return [int((made.label_map == label).sum()) for label in (1, 2)]


def test_what_is_asked_stands_and_the_rest_is_drawn_by_the_seed(folder: Path) -> None:
    free = [_drawn(folder, seed=seed) for seed in (1, 1, 2)]
    assert free[0] == free[1] != free[2]
    assert min(free[0]) >= 1
    asked = _drawn(folder, CONCEPTS[0], 200.0, seed=1)
    assert asked[0] == 200
    assert _drawn(folder, CONCEPTS[0], 200.0, CONCEPTS[1], 150.0, seed=2) == [200, 150]
