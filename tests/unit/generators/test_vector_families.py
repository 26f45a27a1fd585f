"""Families VAE and GAN behind the Protocol of all generators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.clinical import ClinicalContext
from domain.errors import JobError, NonFiniteOutput, RequestInvalid, UnsupportedSeries, WeightsRejected
from domain.volume import Volume
from generators.denoiser import label_hint
from generators.registry import load_generator
from generators.results import threads_set
from generators.vector_decoder import VectorDecoder
from generators.weights import ENCODER, load_bundle
from multimodal.conditioning import ConditioningTokens, null_conditioning
from multimodal.encoder import MultimodalEncoder
from tests.builders_generators import CONCEPTS
from tests.builders_vectors import GENERATORS, SHAPE, generator_of_stage, stage_of, write_vector_bundle
from tests.unit.multimodal.fakes import FakeSentences
from veraicon.asking import asked_fact

_NOBODY = ClinicalContext("", None, None, datetime(2026, 1, 1, tzinfo=UTC), (), "")
_ONCE: dict[str, Any] = {"guidance": 1.0, "sampler_steps": 8, "threads": 1}


def _like(shape: tuple[int, int, int] = (14, 12, 13), modality: str = "MR") -> Volume:
    return Volume(np.random.default_rng(1).random(shape, np.float32), np.eye(4)[[2, 1, 0, 3]], "", modality)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads_set(1):
        yield


@pytest.fixture(scope="module", params=["vae", "gan"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vector_bundle(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def generator(folder: Path) -> Any:
    return load_generator(folder)


def _tokens(folder: Path, generator: Any, *, prior: bool = True, **asked: float) -> ConditioningTokens:
    bundle = load_bundle(folder)
    encoder = MultimodalEncoder.from_state(bundle.states[ENCODER], bundle.sizes[ENCODER], bundle.card)
    facts = tuple(asked_fact(kind.replace("_", "-"), value) for kind, value in asked.items())
    latent = generator.image_latent(_like()) if prior else None
    return encoder.encode(_NOBODY, facts, latent, generator.card, sentences=FakeSentences())


def test_a_family_is_found_by_the_name_in_the_card(generator: Any) -> None:
    assert type(generator) is GENERATORS[generator.card.family]


def test_same_seed_gives_the_same_bits_and_another_seed_others(folder: Path, generator: Any) -> None:
    tokens = _tokens(folder, generator, hippocampus_volume=300.0)
    first, again, other = (generator.generate(tokens, like=_like(), seed=seed, **_ONCE) for seed in (3, 3, 4))
    assert np.array_equal(first.volume.array, again.volume.array)
    assert np.array_equal(first.label_map, again.label_map)
    assert not np.array_equal(first.volume.array, other.volume.array)
    assert first.volume.shape == first.label_map.shape == (14, 12, 13)
    assert (first.sampler_steps, first.guidance) == (1, 1.0)


def test_requested_volumes_are_met(folder: Path, generator: Any) -> None:
    tokens = _tokens(folder, generator, hippocampus_anterior_volume=140.0, hippocampus_volume=300.0)
    for seed in range(3):
        made = generator.generate(tokens, like=_like(), seed=seed, **_ONCE)
        assert abs((made.label_map == 1).sum() - 140) <= 1
        assert abs((made.label_map > 0).sum() - 300) <= 2


def test_what_is_told_changes_the_volume_and_masked_tokens_do_not(folder: Path, generator: Any) -> None:
    told = _tokens(folder, generator)  # the prior image, and no volume that the label map would have to meet
    nothing = null_conditioning(told)
    noise = torch.where(nothing.mask.unsqueeze(-1), nothing.tokens, torch.randn_like(nothing.tokens))
    masked = dataclasses.replace(nothing, tokens=noise)
    a, b, c = (generator.generate(one, like=_like(), seed=3, **_ONCE).volume.array for one in (nothing, masked, told))
    assert np.array_equal(a, b), "a masked token was looked at"
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("guidance", [2.0, {"prior-image": 1.5}])
def test_a_guidance_other_than_one_is_refused_in_words(folder: Path, generator: Any, guidance: Any) -> None:
    with pytest.raises(RequestInvalid, match="has no guidance"):
        generator.generate(_tokens(folder, generator), like=_like(), seed=1, guidance=guidance, sampler_steps=1, threads=1)
    ones = {"prior-image": 1.0, "clinical-facts": 1.0}
    allowed = generator.generate(_tokens(folder, generator), like=_like(), seed=1, guidance=ones, sampler_steps=1, threads=1)
    assert allowed.guidance == 1.0


def test_what_no_family_takes_is_refused(folder: Path, generator: Any) -> None:
    tokens = _tokens(folder, generator)
    two = dataclasses.replace(tokens, tokens=tokens.tokens.repeat(2, 1, 1), mask=tokens.mask.repeat(2, 1))
    for refused, steps in ((two, 1), (tokens, 0), (tokens, 5000)):
        with pytest.raises(RequestInvalid):
            generator.generate(refused, like=_like(), seed=1, guidance=1.0, sampler_steps=steps)
    for unfit in (_like((10, 12, 30)), _like(modality="CT")):
        with pytest.raises(UnsupportedSeries):
            generator.generate(tokens, like=unfit, seed=1, **_ONCE)


def test_a_cancelled_job_draws_nothing_and_a_finished_one_says_so(folder: Path, generator: Any) -> None:
    tokens, told = _tokens(folder, generator), []
    with pytest.raises(JobError, match="cancelled"):
        generator.generate(tokens, like=_like(), seed=1, **_ONCE, cancelled=lambda: True, progress=lambda *at: told.append(at))
    assert told == []
    generator.generate(tokens, like=_like(), seed=1, **_ONCE, progress=lambda *at: told.append(at))
    assert told == [(1, 1)]


def test_nan_is_never_returned(folder: Path, generator: Any) -> None:
    tokens = _tokens(folder, generator)
    broken = dataclasses.replace(tokens, tokens=torch.full_like(tokens.tokens, float("nan")))
    with pytest.raises(NonFiniteOutput):
        generator.generate(broken, like=_like(), seed=1, **_ONCE)


def test_weights_of_one_family_are_not_taken_for_the_other(tmp_path: Path) -> None:
    from generators.cards import read_card, write_card

    folder = write_vector_bundle(tmp_path, "gan")
    write_card(dataclasses.replace(read_card(folder), family="vae"), folder)
    with pytest.raises(WeightsRejected):
        load_generator(folder)


def test_prior_images_are_told_by_the_autoencoder_of_the_bundle(generator: Any) -> None:
    z = generator.image_latent(_like())
    assert z is not None
    assert z.shape == (2, 4, 4, 4)
    kept = generator.through_autoencoder(_like())
    assert kept is not None
    assert kept.shape == (14, 12, 13)


def test_the_image_follows_the_final_label_map_after_training() -> None:
    stage, generator = trained_vae()
    encoder = stage._average.module["encoder"].eval()
    small, large = (
        generator.generate(
            encoder.encode(_NOBODY, (asked_fact(CONCEPTS[2], volume),), None, generator.card, sentences=FakeSentences()),
            like=_like((14, 14, 14)), seed=5, **_ONCE,
        )
        for volume in (250.0, 700.0)
    )  # fmt: skip
    for made in (small, large):
        inside, outside = made.volume.array[made.label_map > 0], made.volume.array[made.label_map == 0]
        assert inside.mean() > outside.mean() + 0.2
    only_large = (large.label_map > 0) & (small.label_map == 0)
    assert large.volume.array[only_large].mean() > small.volume.array[only_large].mean() + 0.15


def trained_vae() -> tuple[Any, Any]:
    stage = stage_of("vae")
    stage.rate = 3e-3
    for step in range(60):
        stage.step(300 + step, 3000)  # after the warm-up
    return stage, generator_of_stage(stage, "vae")


def test_another_label_map_changes_the_image_most_where_it_differs() -> None:
    decoder = VectorDecoder(SHAPE).eval()
    rng = torch.Generator().manual_seed(1)
    labels = torch.zeros(1, *SHAPE.grid, dtype=torch.uint8)
    other = labels.clone()
    other[:, 2:6, 2:6, 2:6] = 1
    with torch.no_grad():
        for weights in decoder.parameters():
            weights.copy_(0.1 * torch.randn(weights.shape, generator=rng))
        told = torch.randn(1, SHAPE.told, generator=rng)
        sketch = decoder.sketch(torch.randn(1, SHAPE.vector, generator=rng), told, torch.tensor([[14, 14, 14]]))
        grain = decoder.drawn_grain(1, rng)
        one, two = (decoder.image(sketch, label_hint(map_, 2, SHAPE.image_block), grain) for map_ in (labels, other))
        other_grain = decoder.image(sketch, label_hint(labels, 2, SHAPE.image_block), decoder.drawn_grain(1, rng))
    change = (one - two).abs()[0, 0]
    assert change[2:6, 2:6, 2:6].mean() > 3 * change[10:, 10:, 10:].mean()
    assert (one != other_grain).float().mean() > 0.99
