from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import Tensor, nn

from domain.errors import JobError, RequestInvalid
from domain.generation import ConditioningRecord
from generators.cards import read_card
from generators.foundation.layout import read_layout
from generators.foundation.networks import Networks, load_networks
from generators.foundation.sampling import (
    ANCESTRAL,
    IMPLICIT,
    Predict,
    ddpm_sample,
    ddpm_sampler,
    decode,
    flow_times,
    flow_velocity,
    predictor,
)
from generators.foundation.told import Conditions
from generators.sampler import sample
from tests.builders_foundation import write_tiny_maisi

_NOTHING = ConditioningRecord((), (), ())
_TOLD = Conditions(torch.tensor([[100.0, 100.0, 250.0]]), torch.tensor([9]), None, None, None, _NOTHING)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these lose by a second thread, most of all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = write_tiny_maisi(tmp_path_factory.mktemp("maisi"), "rflow-mr")
    card = read_card(folder)
    return load_networks(folder, read_layout(folder, card), card, "cpu")


def _published(networks: Networks, noise: Tensor, scheduler: RFlowScheduler) -> Tensor:
    """Follow MONAI's scheduler with the network as the publisher calls both: no sign, no shift, no code of ours."""
    x, times = noise, scheduler.timesteps
    for t, t_next in pairwise([*times, torch.tensor(0.0)]):
        predicted = networks.denoiser(
            x=x, timesteps=torch.Tensor((t,)), spacing_tensor=_TOLD.spacing, class_labels=_TOLD.contrast
        )
        x, _ = scheduler.step(predicted, t, x, t_next)
    return x


def _scheduler(steps: int, positions: int) -> RFlowScheduler:
    scheduler = RFlowScheduler(
        num_train_timesteps=1000, use_discrete_timesteps=False, use_timestep_transform=True, sample_method="uniform", scale=1.4
    )
    scheduler.set_timesteps(steps, input_img_size_numel=torch.tensor(positions))
    return scheduler


@torch.no_grad()
def test_our_flow_is_the_schedulers_where_its_rounding_changes_nothing(networks: Networks) -> None:
    # Of 64 x 64 x 64 positions three steps start at 1000, 800 and 500: exact in half precision and as integers.
    scheduler = _scheduler(3, 64**3)
    times = flow_times(3, (64, 64, 64))
    assert scheduler.timesteps.tolist() == [1000, 800, 500]
    torch.testing.assert_close(times, torch.tensor([1, 0.8, 0.5, 0]), rtol=0, atol=1e-6)
    noise = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    ours = sample(flow_velocity(predictor(networks, _TOLD, 1)), noise, times)
    theirs = _published(networks, noise, scheduler)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    assert (ours - noise).abs().mean() > 0.05, "the network does nothing, so the paths could not differ"


@torch.no_grad()
def test_our_flow_stays_within_the_schedulers_rounding_at_published_steps(networks: Networks) -> None:
    shape = (64, 64, 32)
    scheduler, times = _scheduler(30, 64 * 64 * 32), flow_times(30, shape)
    torch.testing.assert_close(1000 * times[:-1], scheduler.timesteps.float(), rtol=1e-3, atol=0)
    noise = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    ours = sample(flow_velocity(predictor(networks, _TOLD, 1)), noise, times)
    theirs = _published(networks, noise, scheduler)
    travelled = (theirs - noise).abs().mean()
    assert (ours - theirs).abs().mean() < 0.03 * travelled  # their steps add up to a little more than 1
    assert times.diff().sum() == -1


@torch.no_grad()
def test_guidance_weighs_the_contrast_against_none(networks: Networks) -> None:
    x = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    told = predictor(networks, _TOLD, 1)(x, 700.0)
    none = predictor(networks, Conditions(_TOLD.spacing, torch.tensor([0]), None, None, None, _NOTHING), 1)(x, 700.0)
    guided = predictor(networks, _TOLD, 4)(x, 700.0)
    torch.testing.assert_close(guided, none + 4 * (told - none), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(told, none)
    assert _TOLD.contrast is not None
    assert _TOLD.contrast.tolist() == [9], "what was told has been changed"


def _knowing(z: Tensor) -> Predict:
    """Return a denoiser that knows where it has to lead to, by the definition of the noise in x (Ho et al., equation 4)."""
    scheduler = DDPMScheduler(1000, schedule="scaled_linear_beta", beta_start=0.0015, beta_end=0.0195)
    kept: Tensor = scheduler.alphas_cumprod

    def predict(x: Tensor, time: float) -> Tensor:
        share = kept[int(time)]
        return (x - share.sqrt() * z) / (1 - share).sqrt()

    return predict


@pytest.mark.parametrize(("steps", "name"), [(1000, ANCESTRAL), (50, IMPLICIT), (8, IMPLICIT)])
def test_noise_prediction_leads_to_the_clean_latent(steps: int, name: str) -> None:
    assert ddpm_sampler(steps) == name
    rng = torch.Generator().manual_seed(5)
    z, noise = torch.randn(2, 1, 2, 3, 3, 3, generator=rng)
    done: list[int] = []
    end = ddpm_sample(_knowing(z), noise, steps, rng, progress=lambda step, _all: done.append(step))
    torch.testing.assert_close(end, z, rtol=0, atol=1e-3)
    assert done == list(range(1, steps + 1))


def test_ancestral_steps_draw_from_the_volumes_own_stream() -> None:
    z, noise = torch.randn(2, 1, 2, 3, 3, 3, generator=torch.Generator().manual_seed(6))
    wrong = _knowing(z)

    def drawn(seed: int) -> Tensor:
        return ddpm_sample(lambda x, t: 0.9 * wrong(x, t), noise, 1000, torch.Generator().manual_seed(seed))

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("steps", [0, 30, 999, 2000])
def test_steps_of_unequal_length_are_refused_with_those_that_are_taken(steps: int) -> None:
    with pytest.raises(RequestInvalid, match="50, 100, 200"):
        ddpm_sampler(steps)


class _Enlarging(nn.Module):
    """An autoencoder whose decoder repeats each position 4 times along each axis: tiles cannot change its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[int, ...]] = []

    def decode(self, z: Tensor) -> Tensor:
        self.parts.append(tuple(z.shape[2:]))
        return z[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)


def _enlarging() -> tuple[Networks, _Enlarging]:
    autoencoder = _Enlarging()
    return Networks(autoencoder, nn.Identity(), None, 0.5, torch.device("cpu")), autoencoder


def test_latent_is_decoded_in_tiles_of_bounded_size_to_the_same_image() -> None:
    z = torch.randn(1, 2, 20, 12, 8, generator=torch.Generator().manual_seed(8))
    networks, autoencoder = _enlarging()
    whole, tiled = decode(networks, z, 20), decode(networks, z, 10)
    assert autoencoder.parts[0] == (20, 12, 8)
    assert len(autoencoder.parts) > 3
    assert all(max(part) <= 10 for part in autoencoder.parts[1:])
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[0, 0, ::4, ::4, ::4], z[0, 0] / 0.5)


def test_decoding_stops_between_two_tiles() -> None:
    networks, autoencoder = _enlarging()
    with pytest.raises(JobError, match="cancelled"):
        decode(networks, torch.zeros(1, 2, 20, 20, 20), 10, lambda: len(autoencoder.parts) == 2)
    assert len(autoencoder.parts) == 2
