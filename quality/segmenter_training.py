"""Trains segmenters: the measuring network, and the small ones that tell what synthetic volumes are worth as training data.

One loop for both. What an example is, and how its shape is changed, comes from outside as a `Draw`; brightness, contrast, noise
and blur are changed here, since they make a network that looks at shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from domain.grid import Shape
from quality.segmentation import Segmenter, SegmenterShape, segmentation_loss

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor]]
"""From a random stream to an example: image (1, D, H, W), 0 to 1, labels (D, H, W), and the crop's extent (3,) on the grid."""

PATCHES = ((32, 48, 32), (40, 56, 40))
"""Windows that are learned from. Normalisation sees a whole window, so one is as large as those that are measured later."""

_WARM_UP_STEPS = 100
_LAST_RATE = 0.02
_LONGEST_DECAY = 0.999
_GRADIENT_CLIP = 1.0
_ROOM = 2  # voxels that a window may reach beyond the crop


class MeasuringStage:
    """Training of one segmenter, as a stage of a training run; what is kept is the average of its weights over steps.

    Parameters
    ----------
    draw : callable
        Gives examples to train on, see `Draw`.
    held_out : sequence of (tensor, tensor)
        Images (1, D, H, W) and labels (D, H, W) of people who are never drawn.
    seed : int
        Of the first weights and, with the step's number, of every draw: a resumed run draws what an unbroken one would.
    """

    name = "measuring"

    def __init__(
        self,
        draw: Draw,
        held_out: Sequence[tuple[Tensor, Tensor]],
        *,
        seed: int,
        batch: int = 2,
        rate: float = 2e-3,
        shape: SegmenterShape | None = None,
        patches: Sequence[Shape] = PATCHES,
    ) -> None:
        self._draw, self._held_out, self._seed, self._batch = draw, held_out, seed, batch
        self._rate, self._patches = rate, patches
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._network = Segmenter(shape or SegmenterShape())
        self._average = AveragedModel(self._network, avg_fn=_warmed_average)
        self._optimiser = AdamW(self._network.parameters(), lr=rate, weight_decay=1e-3)

    @property
    def averaged(self) -> Segmenter:
        """The averaged network, ready to measure."""
        return cast("Segmenter", self._average.module).eval().requires_grad_(requires_grad=False)

    def step(self, step: int, steps: int) -> dict[str, float]:
        """Do one step and return its loss."""
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        patch = self._patches[int(torch.randint(len(self._patches), (), generator=rng))]
        examples = [self._example(patch, rng) for _ in range(self._batch)]
        images, labels = (torch.stack(part) for part in zip(*examples, strict=True))
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * _schedule(step, steps)
        loss = segmentation_loss(self._network.train()(images), labels.long())
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        nn.utils.clip_grad_norm_(self._network.parameters(), _GRADIENT_CLIP)
        self._optimiser.step()
        self._average.update_parameters(self._network)
        return {"loss": loss.item()}

    def held_out_loss(self) -> float:
        """Return the mean loss of the averaged network over held-out people."""
        network = cast("Segmenter", self._average.module).eval()
        with torch.inference_mode():
            losses = [segmentation_loss(network(image[None]), labels[None].long()).item() for image, labels in self._held_out]
        return sum(losses) / len(losses)

    def state(self) -> dict[str, Any]:
        """Return network, average and optimiser."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load network, average and optimiser."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"network": self._network, "average": self._average, "optimiser": self._optimiser}

    def _example(self, patch: Shape, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        image, labels, extent = self._draw(rng)
        image, labels = window(image, labels, extent, patch, rng)
        return altered(image, rng), labels


def train_segmenter(
    draw: Draw,
    *,
    steps: int,
    seed: int,
    shape: SegmenterShape | None = None,
    patches: Sequence[Shape] = PATCHES,
    progress: Callable[[int, int], None] = lambda done, steps: None,
) -> Segmenter:
    """Return a segmenter after a fixed number of steps, so that arms of one comparison have the same budget."""
    stage = MeasuringStage(draw, (), seed=seed, shape=shape, patches=patches)
    for step in range(steps):
        stage.step(step, steps)
        progress(step + 1, steps)
    return stage.averaged


def window(image: Tensor, labels: Tensor, extent: Tensor, patch: Shape, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a patch at a random place that lies within the crop, or about it, give or take two voxels."""
    for axis, (n, length) in enumerate(zip(patch, extent.tolist(), strict=True)):
        size = labels.shape[axis]
        start = (size - length) // 2
        low, high = sorted((start - _ROOM, start + length - n + _ROOM))
        low, high = max(low, 0), min(max(high, low), size - n)
        place = int(torch.randint(low, max(high, low) + 1, (), generator=rng))
        image, labels = image.narrow(axis + 1, place, n), labels.narrow(axis, place, n)
    return image, labels


def altered(image: Tensor, rng: torch.Generator) -> Tensor:
    """Return an image, (1, D, H, W), with another gamma, contrast and brightness, and sometimes noise or blur."""
    gamma, contrast, brightness, kind, strength = torch.rand(5, generator=rng).tolist()
    x: Tensor = image.clamp(0, 1) ** math.exp(0.8 * (gamma - 0.5))
    x = (x - 0.5) * (0.8 + 0.4 * contrast) + 0.5 + 0.2 * (brightness - 0.5)
    if kind < 0.5:
        return torch.add(x, torch.randn(x.shape, generator=rng), alpha=0.06 * strength)
    if kind < 0.7:
        blurred: Tensor = functional.avg_pool3d(x[None], 3, stride=1, padding=1, count_include_pad=False)[0]
        return torch.lerp(x, blurred, strength)
    return x


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: a short warm-up, then a cosine down to a small remainder."""
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, max(1, steps / 10)))
    return warm * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _warmed_average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Return the moving average after one more step; it looks back over a tenth of the steps at first, a thousand at most.

    References
    ----------
    Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, CVPR 2024, section 3.
    """
    decay = min(_LONGEST_DECAY, (1 + int(count)) / (10 + int(count)))
    return averaged.lerp(current, 1 - decay)
