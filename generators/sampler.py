"""Follows the velocity from noise to a latent. Pure functions: no state is kept between volumes or requests."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from domain.errors import JobError
from generators.denoiser import Denoiser

Velocity = Callable[[Tensor, Tensor], Tensor]

NAME = "rectified-flow-euler"


def guided_velocity(denoiser: Denoiser, tokens: Tensor, mask: Tensor, field: Tensor, guidance: float) -> Velocity:
    """Return the velocity under classifier-free guidance: v0 + guidance (v - v0), v0 with every token masked.

    Both are computed in one call with twice the batch, which costs a third less than two calls on a CPU. At a guidance of 1 the
    unconditional half has no weight and is left out.

    References
    ----------
    Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, equation 6.
    """
    if guidance == 1:
        return lambda x, t: denoiser(x, t.expand(len(x)), tokens, mask, field)
    tokens, field = torch.cat([tokens, tokens]), torch.cat([field, field])
    mask = torch.cat([mask, torch.zeros_like(mask)])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_tokens: Tensor
        without: Tensor
        with_tokens, without = denoiser(torch.cat([x, x]), t.expand(2 * len(x)), tokens, mask, field).chunk(2)
        return without + guidance * (with_tokens - without)

    return guided


def sample(
    velocity: Velocity,
    noise: Tensor,
    times: Tensor,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> Tensor:
    """Return the latent at the end of Euler steps along `velocity`.

    Parameters
    ----------
    velocity : callable
        (x, t) to dx/dt.
    noise : tensor, (B, C, D, H, W)
        Standard normal: x at the first time.
    times : tensor, (N + 1,), float32
        From 1 down to 0.
    cancelled : callable
        Asked before each step: a step in progress cannot be interrupted.
    progress : callable
        Told (steps done, steps) after each step.

    Raises
    ------
    JobError
        If `cancelled` says so.
    """
    x = noise
    for done, (t, t_next) in enumerate(pairwise(times), start=1):
        if cancelled():
            raise JobError(found="a cancelled job", allowed="a job that is still wanted", action="ask again to generate it")
        x = x + (t_next - t) * velocity(x, t)
        progress(done, len(times) - 1)
    return x
