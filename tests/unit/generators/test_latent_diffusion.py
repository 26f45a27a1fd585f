from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

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
from generators.sampler import sample
from generators.weights import load_bundle
from multimodal.conditioning import ConditioningTokens, load_conditioning, null_conditioning, save_conditioning
from multimodal.encoder import MultimodalEncoder
from tests.builders_generators import write_tiny_bundle
from veraicon.asking import asked_fact

_NOBODY = ClinicalContext("", None, None, datetime(2026, 1, 1, tzinfo=UTC), (), "")


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def generator(bundle_folder: Path) -> LatentDiffusionGenerator:
    return LatentDiffusionGenerator.from_bundle(load_bundle(bundle_folder))


@pytest.fixture(scope="module")
def tokens(bundle_folder: Path) -> ConditioningTokens:
    bundle = load_bundle(bundle_folder)
    encoder = MultimodalEncoder.from_state(bundle.encoder_state, bundle.card)
    return encoder.encode(_NOBODY, (asked_fact("hippocampus-volume", 3000.0),), _like(), bundle.card)


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
    masked, also_masked, told = (
        generator.generate(one, like=_like(), seed=3, guidance=2.0, sampler_steps=2).volume.array
        for one in (nothing, other, tokens)
    )
    assert np.array_equal(masked, also_masked), "a masked token was looked at"
    assert not np.array_equal(masked, told)


def test_sampler_follows_a_straight_path_exactly_from_noise_to_latent() -> None:
    rng = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 1, 2, 3, 4, 5, generator=rng)
    times = sampler_times(7)
    assert (times[0], times[-1]) == (1, 0)
    assert torch.all(times[1:] < times[:-1])
    end = sample(lambda _x, _t: velocity(z, noise), path(z, noise, torch.ones(1)), times)
    torch.testing.assert_close(end, z, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize(("guidance", "steps"), [(0.5, 4), (99.0, 4), (2.0, 0), (2.0, 5000)])
def test_impossible_sampling_is_refused(
    generator: LatentDiffusionGenerator, tokens: ConditioningTokens, guidance: float, steps: int
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
    assert (again.kinds, again.record) == (tokens.kinds, tokens.record)


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
        write_card(dataclasses.replace(known, family="gan"), folder)
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
    name = next(name for name, tensor in tensors.items() if name.startswith("denoiser.") and tensor.dim() > 1)
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, folder / WEIGHTS_NAME, metadata=metadata)
    write_card(dataclasses.replace(read_card(folder), weights_digest=file_digest(folder / WEIGHTS_NAME)), folder)
