from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domain.clinical import ClinicalContext
from domain.errors import JobError, NonFiniteOutput, RequestInvalid, UnsupportedSeries, WeightsRejected
from domain.volume import Volume
from generators.cards import CARD_NAME, WEIGHTS_NAME, read_card, write_card
from generators.latent_diffusion import LatentDiffusionGenerator
from generators.noise import path, sampler_times, velocity
from generators.registry import load_generator
from generators.sampler import Term, guidance_terms, sample
from generators.weights import ENCODER, load_bundle
from multimodal.conditioning import MODALITIES, ConditioningTokens, load_conditioning, null_conditioning, save_conditioning
from multimodal.encoder import MultimodalEncoder
from tests.builders_generators import write_tiny_bundle
from tests.unit.multimodal.fakes import FakeSentences
from veraicon.asking import asked_fact

_NOBODY = ClinicalContext("", None, None, datetime(2026, 1, 1, tzinfo=UTC), (), "")


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def generator(bundle_folder: Path) -> LatentDiffusionGenerator:
    return LatentDiffusionGenerator.from_bundle(load_bundle(bundle_folder))


@pytest.fixture(scope="module")
def encoder(bundle_folder: Path) -> MultimodalEncoder:
    bundle = load_bundle(bundle_folder)
    return MultimodalEncoder.from_state(bundle.states[ENCODER], bundle.sizes[ENCODER], bundle.card)


@pytest.fixture(scope="module")
def tokens(encoder: MultimodalEncoder, generator: LatentDiffusionGenerator) -> ConditioningTokens:
    return _told(encoder, generator, "hippocampus-volume", 300.0)


def _told(
    encoder: MultimodalEncoder, generator: LatentDiffusionGenerator, *asked: Any, prior: bool = True
) -> ConditioningTokens:
    facts = tuple(asked_fact(kind, value) for kind, value in zip(asked[::2], asked[1::2], strict=True))
    latent = generator.image_latent(_like()) if prior else None
    return encoder.encode(_NOBODY, facts, latent, generator.card, sentences=FakeSentences())


def _like(shape: tuple[int, int, int] = (10, 12, 9), modality: str = "MR") -> Volume:
    rng = np.random.default_rng(1)
    return Volume(rng.random(shape, np.float32), np.eye(4)[[2, 1, 0, 3]], "", modality)


def test_same_seed_gives_the_same_bits_and_another_seed_others(
    generator: LatentDiffusionGenerator, tokens: ConditioningTokens
) -> None:
    first, again, other = (
        generator.generate(tokens, like=_like(), seed=seed, guidance=2.0, sampler_steps=4) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.volume.array, again.volume.array)
    assert np.array_equal(first.label_map, again.label_map)  # type: ignore[arg-type]
    assert not np.array_equal(first.volume.array, other.volume.array)
    assert first.volume.shape == (10, 12, 9)
    assert first.label_map is not None
    assert first.label_map.shape == (10, 12, 9)


def test_told_values_change_the_volume_and_masked_ones_do_not(
    generator: LatentDiffusionGenerator, tokens: ConditioningTokens
) -> None:
    nothing = null_conditioning(tokens)
    other = dataclasses.replace(nothing, tokens=torch.randn_like(nothing.tokens))
    other.tokens[:, -len(MODALITIES) :] = nothing.tokens[:, -len(MODALITIES) :]  # the learned null tokens are looked at
    masked, also_masked, told = (
        generator.generate(one, like=_like(), seed=3, guidance=2.0, sampler_steps=2).volume.array
        for one in (nothing, other, tokens)
    )
    assert np.array_equal(masked, also_masked), "a masked token was looked at"
    assert not np.array_equal(masked, told)


@pytest.mark.parametrize(
    ("asked", "voxels"),
    [
        (("hippocampus-anterior-volume", 210.0, "hippocampus-posterior-volume", 170.0), (210, 170)),
        (("hippocampus-anterior-volume", 210.0, "hippocampus-volume", 400.0), (210, 190)),
        (("hippocampus-volume", 333.0), None),
    ],
)
def test_the_label_map_has_exactly_the_requested_volumes(
    encoder: MultimodalEncoder, generator: LatentDiffusionGenerator, asked: tuple[Any, ...], voxels: tuple[int, int] | None
) -> None:
    made = generator.generate(_told(encoder, generator, *asked), like=_like(), seed=7, guidance=1.0, sampler_steps=3)
    assert made.label_map is not None
    counts = tuple(int((made.label_map == label).sum()) for label in (1, 2))
    assert counts == voxels if voxels else sum(counts) == 333


def test_the_image_follows_the_label_map(encoder: MultimodalEncoder, generator: LatentDiffusionGenerator) -> None:
    small, large = (
        generator.generate(
            _told(encoder, generator, "hippocampus-volume", volume), like=_like(), seed=7, guidance=1.0, sampler_steps=3
        )
        for volume in (300.0, 600.0)
    )
    assert not np.array_equal(small.volume.array, large.volume.array)


def test_guidance_has_a_weight_for_each_modality_and_one_call_does_for_all() -> None:
    facts, prior = "clinical-facts", "prior-image"
    unknown = ("demographics", "report")
    assert guidance_terms((facts, prior), 1.0) == (Term(1.0, unknown),)
    assert guidance_terms((facts, prior), 2.0) == (Term(-1.0, MODALITIES), Term(2.0, unknown))
    assert guidance_terms((facts, prior), {facts: 3.0}) == (
        Term(-2.0, MODALITIES),
        Term(2.0, ("demographics", "report", prior)),
        Term(1.0, unknown),
    )
    assert guidance_terms((), 4.0) == (Term(1.0, MODALITIES),)


def test_weights_for_modalities_change_the_volume(generator: LatentDiffusionGenerator, tokens: ConditioningTokens) -> None:
    plain, same, other = (
        generator.generate(tokens, like=_like(), seed=3, guidance=guidance, sampler_steps=2).volume.array
        for guidance in (2.0, {"clinical-facts": 2.0, "prior-image": 2.0}, {"prior-image": 2.0})
    )
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, other)


def test_a_model_without_images_makes_label_maps(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path, with_image=False)
    bundle = load_bundle(folder)
    encoder = MultimodalEncoder.from_state(bundle.states[ENCODER], bundle.sizes[ENCODER], bundle.card)
    generator = LatentDiffusionGenerator.from_bundle(bundle)
    assert generator.image_latent(_like()) is None
    tokens = _told(encoder, generator, "hippocampus-volume", 300.0)
    made = generator.generate(tokens, like=_like(), seed=1, guidance=1.0, sampler_steps=2)
    assert made.label_map is not None
    assert np.array_equal(made.volume.array, made.label_map)
    assert "prior-image" not in tokens.record.used + tokens.record.missing


def test_sampler_follows_a_straight_path_exactly_from_noise_to_latent() -> None:
    rng = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 1, 2, 3, 4, 5, generator=rng)
    times = sampler_times(7)
    assert (times[0], times[-1]) == (1, 0)
    assert torch.all(times[1:] < times[:-1])
    end = sample(lambda _x, _t: velocity(z, noise), path(z, noise, torch.ones(1)), times)
    torch.testing.assert_close(end, z, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("multistep", "gain"), [(False, 2.0), (True, 4.0)])
def test_twice_the_steps_leave_half_the_error_and_a_quarter_with_the_step_before(multistep: bool, gain: float) -> None:
    start, exact = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), math.exp(-2.0)

    def error(steps: int) -> float:  # dx/dt = 4 t x, from t = 1 down to 0
        return abs(sample(lambda x, t: 4 * t * x, start, sampler_times(steps).double(), multistep=multistep).item() - exact)

    assert error(64) / error(128) == pytest.approx(gain, rel=0.15)


def test_cancelling_stops_between_two_steps(generator: LatentDiffusionGenerator, tokens: ConditioningTokens) -> None:
    done = []
    with pytest.raises(JobError, match="cancelled"):
        generator.generate(
            tokens, like=_like(), seed=1, guidance=1.0, sampler_steps=9,
            cancelled=lambda: len(done) == 3, progress=lambda step, _steps: done.append(step),
        )  # fmt: skip
    assert done == [1, 2, 3]


def test_nan_is_never_returned(generator: LatentDiffusionGenerator, tokens: ConditioningTokens) -> None:
    broken = dataclasses.replace(tokens, tokens=torch.full_like(tokens.tokens, float("nan")))
    with pytest.raises(NonFiniteOutput):
        generator.generate(broken, like=_like(), seed=1, guidance=1.0, sampler_steps=2)


@pytest.mark.parametrize(
    ("guidance", "steps"), [(0.5, 4), (99.0, 4), (2.0, 0), (2.0, 5000), ({"report": 0.5}, 4), ({"mood": 2.0}, 4)]
)
def test_impossible_sampling_is_refused(
    generator: LatentDiffusionGenerator, tokens: ConditioningTokens, guidance: Any, steps: int
) -> None:
    with pytest.raises(RequestInvalid):
        generator.generate(tokens, like=_like(), seed=1, guidance=guidance, sampler_steps=steps)


def test_series_that_does_not_fit_is_refused(generator: LatentDiffusionGenerator, tokens: ConditioningTokens) -> None:
    for unfit in (_like((10, 12, 30)), _like(modality="CT")):
        with pytest.raises(UnsupportedSeries):
            generator.generate(tokens, like=unfit, seed=1, guidance=1.0, sampler_steps=2)


def test_tokens_come_back_from_their_file(tokens: ConditioningTokens, tmp_path: Path) -> None:
    save_conditioning(tokens, tmp_path / "tokens.safetensors")
    again = load_conditioning(tmp_path / "tokens.safetensors")
    assert torch.equal(again.tokens, tokens.tokens)
    assert torch.equal(again.mask, tokens.mask)
    assert (again.kinds, again.modalities, again.record) == (tokens.kinds, tokens.modalities, tokens.record)


@pytest.mark.parametrize("harm", ["digest", "missing", "licence", "family", "shape", "unknown card entry"])
def test_weights_that_cannot_be_trusted_are_refused(tmp_path: Path, harm: str) -> None:
    folder = write_tiny_bundle(tmp_path)
    known = read_card(folder)
    if harm == "digest":
        data = (folder / WEIGHTS_NAME).read_bytes()
        (folder / WEIGHTS_NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "missing":
        (folder / WEIGHTS_NAME).unlink()
    elif harm == "licence":
        write_card(dataclasses.replace(known, licence=" "), folder)
    elif harm == "family":
        write_card(dataclasses.replace(known, family="unheard-of"), folder)
    elif harm == "shape":
        _rewrite_with_a_wrong_shape(folder)
    else:
        text = (folder / CARD_NAME).read_text()
        (folder / CARD_NAME).write_text(text.replace("{", '{"obeys": "everything",', 1))
    with pytest.raises(WeightsRejected):
        load_generator(folder)


def _rewrite_with_a_wrong_shape(folder: Path) -> None:
    """A file with the right digest and wrong tensors: strict loading has to see it."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from generators.weights import file_digest

    tensors = load_file(folder / WEIGHTS_NAME)
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as opened:
        metadata = opened.metadata()
    name = next(name for name, tensor in tensors.items() if name.startswith("label_denoiser.") and tensor.dim() > 1)
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, folder / WEIGHTS_NAME, metadata=metadata)
    write_card(dataclasses.replace(read_card(folder), weights_digest=file_digest(folder / WEIGHTS_NAME)), folder)
