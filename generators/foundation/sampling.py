"""From noise to a latent, by what MAISI's denoiser predicts. Pure functions; the latent stays on the CPU in single precision.

The publisher's rectified flow predicts z - noise at times from 1000 (noise) to 0; ours is noise - z from 1 to 0 (see
`generators.noise`), so the prediction changes its sign and the time its unit. Their time shift is ours with another constant.

References
----------
Ho et al., Denoising Diffusion Probabilistic Models, 2020, algorithm 2. Song et al., Denoising Diffusion Implicit Models, 2021,
equation 12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from monai.inferers import sliding_window_inference
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from domain.errors import JobError, RequestInvalid
from generators.foundation.execution import decoding, denoising
from generators.foundation.networks import TRAINED_STEPS, Networks
from generators.foundation.told import Conditions
from generators.foundation.variants import NO_CONTRAST
from generators.noise import shifted

Predict = Callable[[Tensor, float], Tensor]
"""(x, time from 1000 to 0) to what the denoiser predicts there, (1, C, X, Y, Z) float32 on the CPU."""

ANCESTRAL, IMPLICIT = "ddpm-ancestral", "ddim"

_BASE_POSITIONS = 32**3  # latent positions at which the time shift is none
_BETAS = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
_OVERLAP = 0.4


def predictor(networks: Networks, told: Conditions, guidance: float) -> Predict:
    """Return the prediction under classifier-free guidance on the contrast: p0 + guidance (p - p0), p0 with no contrast told.

    Both are computed in one call. Spacing, regions and label map are told to both.

    References
    ----------
    Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6.
    """
    batch = 1 if guidance == 1 or told.contrast is None else 2

    def to_device(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(networks.device).repeat(batch, *(1,) * (tensor.dim() - 1))

    labels = to_device(told.contrast)
    if labels is not None and batch == 2:
        labels[1] = NO_CONTRAST
    kept = {
        "spacing_tensor": to_device(told.spacing),
        "top_region_index_tensor": to_device(told.top),
        "bottom_region_index_tensor": to_device(told.bottom),
        "class_labels": labels,
    }
    mask = to_device(None if told.mask is None else told.mask.float())

    def predict(x: Tensor, time: float) -> Tensor:
        given = {"x": to_device(x), "timesteps": torch.full((batch,), time, device=networks.device)}
        residuals = {}
        with denoising(networks.device):
            if mask is not None and networks.control is not None:
                down, middle = networks.control(**given, controlnet_cond=mask, class_labels=labels)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            predicted: Tensor = networks.denoiser(**given, **kept, **residuals).float().cpu()
        return predicted if batch == 1 else predicted[1:] + guidance * (predicted[:1] - predicted[1:])

    return predict


def flow_velocity(predict: Predict) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the velocity for `generators.sampler.sample`."""
    return lambda x, t: -predict(x, float(t) * TRAINED_STEPS)


def flow_times(steps: int, latent_shape: Sequence[int]) -> Tensor:
    """Return the N + 1 times from 1 to 0, moved toward noise the more the larger the latent is."""
    shift = (math.prod(latent_shape) / _BASE_POSITIONS) ** (1 / len(latent_shape))
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float32), shift)


def ddpm_sampler(steps: int) -> str:
    """Return which sampler takes this number of steps.

    Raises
    ------
    RequestInvalid
        If none does: steps of unequal length would end beside the clean latent.
    """
    if steps == TRAINED_STEPS:
        return ANCESTRAL
    if steps >= 1 and TRAINED_STEPS % steps == 0:
        return IMPLICIT
    raise RequestInvalid(
        found=f"{steps} sampler steps",
        allowed=f"{TRAINED_STEPS}, as published, or fewer that divide it (50, 100, 200)",
        action="ask for one of these",
    )


def ddpm_sample(
    predict: Predict,
    noise: Tensor,
    steps: int,
    rng: torch.Generator,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> Tensor:
    """Return the latent that a noise-predicting denoiser leads to; `rng`, of the CPU, draws what ancestral steps add."""
    kind = DDPMScheduler if ddpm_sampler(steps) == ANCESTRAL else DDIMScheduler
    scheduler = kind(num_train_timesteps=TRAINED_STEPS, **_BETAS)  # made anew each time: a scheduler keeps state
    scheduler.set_timesteps(steps)
    x = noise
    # Not the scheduler's own times: those of DDIM are rounded and do not meet the length of its steps.
    for done, time in enumerate(range(TRAINED_STEPS - 1, -1, -(TRAINED_STEPS // steps)), start=1):
        require_wanted(cancelled)
        x, _ = scheduler.step(predict(x, float(time)), time, x, generator=rng)
        progress(done, steps)
    return x


def decode(networks: Networks, latent: Tensor, tile: int, cancelled: Callable[[], bool] = lambda: False) -> Tensor:
    """Return the image, (1, 1, X, Y, Z) float32 on the CPU, of a latent as the denoiser sees it.

    Decoding is what takes the most memory, so a latent of more than `tile` positions along an axis is decoded in overlapping
    tiles, which are blended by Gaussian weights.
    """

    def decoded(part: Tensor) -> Tensor:
        require_wanted(cancelled)
        with decoding(networks.device):
            image: Tensor = networks.autoencoder.decode(part.to(networks.device)).float().cpu()  # type: ignore[operator]
        return image

    z = latent / networks.latent_scale
    if all(n <= tile for n in z.shape[2:]):
        return decoded(z)
    window = [min(tile, n) for n in z.shape[2:]]
    image: Tensor = sliding_window_inference(z, window, 1, decoded, overlap=_OVERLAP, mode="gaussian")
    return image


def require_wanted(cancelled: Callable[[], bool]) -> None:
    """Stop a job that nobody waits for any more.

    Raises
    ------
    JobError
        If `cancelled` says so.
    """
    if cancelled():
        raise JobError(found="a cancelled job", allowed="a job that is still wanted", action="ask again to generate it")
