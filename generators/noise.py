"""The path between a latent z (t = 0) and noise (t = 1), and where on it to look.

Notation of the five files: z is a clean standardised latent, noise is standard normal, t runs from 0 (clean) to 1 (noise),
x = (1 - t) z + t noise, and velocity = dx/dt = noise - z.

References
----------
Liu et al., Flow Straight and Fast, ICLR 2023 (rectified flow, equation 1).
Esser et al., Scaling Rectified Flow Transformers, ICML 2024, section 5.3.2 (shift of the time steps).
"""

from __future__ import annotations

import torch
from torch import Tensor

TIME_SHIFT = 4.0


def shifted(t: Tensor, shift: float = TIME_SHIFT) -> Tensor:
    """Return times moved toward noise: what a latent shows is decided early, so that is where the steps are needed."""
    return shift * t / (1 + (shift - 1) * t)


def path(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x at time t, (B,), on the straight line from z to noise."""
    t = t.view(-1, *(1,) * (z.dim() - 1))
    return (1 - t) * z + t * noise


def velocity(z: Tensor, noise: Tensor) -> Tensor:
    """Return dx/dt of the straight line, which the denoiser learns."""
    return noise - z


def training_times(count: int, rng: torch.Generator) -> Tensor:
    """Return uniform times shifted toward noise, (count,), one in each of `count` equal strata so that batches agree better."""
    strata = torch.arange(count, dtype=torch.float32)
    return shifted((strata + torch.rand(count, generator=rng)) / count)


def sampler_times(steps: int) -> Tensor:
    """Return the N + 1 times of a sampler with N steps, float32, from exactly 1 down to exactly 0."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float32))
