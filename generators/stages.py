"""What every stage of training is, and the steps that all take alike.

A stage owns its networks and optimisers, does one step when told its number, and measures itself on people it never trains on.
All randomness comes from the seed and the step's number, so a resumed run draws what an unbroken one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_GRADIENT_CLIP = 1.0
_WARM_UP_STEPS = 150
_LAST_RATE = 0.03
_LONGEST_DECAY = 0.999


class Stage(Protocol):
    """What the training loop knows of a stage."""

    name: str

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step and return its losses."""

    def held_out_loss(self) -> float:
        """Return the loss on validation people; the same each time for the same weights."""

    def state(self) -> dict[str, Any]:
        """Return everything that resuming needs."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""


@runtime_checkable
class LastStage(Stage, Protocol):
    """The stage whose averaged networks are the model; it can go on from those of a finished one."""

    def begin_from(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the weights of a finished model, by part, instead of random ones."""


def step_rng(seed: int, step: int) -> torch.Generator:
    """Return the random stream of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a short warm-up, then a cosine down to a small remainder."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def warmed_average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Return the moving average after one more step; it looks back over a tenth of the steps at first, a thousand at most.

    With a constant decay of 0.999 the random weights of the start would still be a twentieth of the average after 3000 steps.

    References
    ----------
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, CVPR 2024, section 3 (averages whose
    length grows with training).
    """
    decay = min(_LONGEST_DECAY, (1 + int(count)) / (10 + int(count)))
    return averaged.lerp(current, 1 - decay)


def descend(loss: Tensor, optimiser: Optimizer, networks: nn.Module, rate: float) -> None:
    """Do one step of an optimiser at a learning rate, with clipped gradients."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    nn.utils.clip_grad_norm_(networks.parameters(), _GRADIENT_CLIP)
    optimiser.step()
