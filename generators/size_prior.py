"""How large a label is, drawn from what is told: where sizes range over orders of magnitude, they come before the shape.

A denoiser of shapes shrinks what it is unsure of, and a lesion that may be of any size comes out too small. So the size comes
first, from a distribution of its own; the denoiser is told it, and the label's level makes it exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from generators.denoiser import TokenPool

SIZE_PRIOR = "size_prior"
"""Name of the part of a bundle."""

_CENTRE, _SPREAD = 6.0, 2.5  # of the logarithm of voxels: about 30 to 5000 within one spread
_LOG_DEVIATION = (-3.0, 1.0)
_HIDDEN = 64


@dataclass(frozen=True, slots=True)
class SizePriorShape:
    """Size of the network.

    Attributes
    ----------
    label_count : int
        Labels beside background.
    components : int
        Normal distributions whose mixture a label's logarithmic size follows.
    """

    label_count: int = 1
    components: int = 4
    token_width: int = 128
    pooled_tokens: int = 4


class SizePrior(nn.Module):
    """Tokens to a distribution of the logarithm of each label's number of voxels.

    References
    ----------
    Bishop, Mixture Density Networks, Aston University NCRG/94/004, 1994.
    """

    def __init__(self, shape: SizePriorShape) -> None:
        super().__init__()
        self.shape = shape
        self.pool = TokenPool(shape.token_width, shape.pooled_tokens)
        self.network = nn.Sequential(
            nn.Linear(shape.pooled_tokens * shape.token_width, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, 3 * shape.label_count * shape.components),
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> MixtureSameFamily:
        """Return the distribution of the standardised logarithm, batch shape (B, L), for tokens (B, T, C) and mask (B, T)."""
        said = self.network(self.pool(tokens, mask).flatten(1)).float()
        weight, mean, log_deviation = said.unflatten(1, (3, self.shape.label_count, self.shape.components)).unbind(1)
        components = Normal(mean, log_deviation.clamp(*_LOG_DEVIATION).exp())
        return MixtureSameFamily(Categorical(logits=weight), components)

    def loss(self, tokens: Tensor, mask: Tensor, voxels: Tensor) -> Tensor:
        """Return the negative logarithmic likelihood of sizes, (B, L), of one voxel at least."""
        likelihood: Tensor = self(tokens, mask).log_prob(standardised(voxels))
        return -likelihood.mean()

    def draw(self, tokens: Tensor, mask: Tensor, rng: torch.Generator) -> list[int]:
        """Return the voxels of each label, for a batch of one; the random numbers are drawn on the CPU, from this stream."""
        mixture = self(tokens, mask)
        component = torch.multinomial(mixture.mixture_distribution.probs[0].cpu(), 1, generator=rng)  # (L, 1)
        normal = mixture.component_distribution
        mean, deviation = (part[0].cpu().gather(1, component)[:, 0] for part in (normal.mean, normal.stddev))
        drawn = mean + deviation * torch.randn(len(mean), generator=rng)
        return [max(1, round(math.exp(_CENTRE + _SPREAD * value))) for value in drawn.tolist()]


def standardised(voxels: Tensor) -> Tensor:
    """Return the logarithm of numbers of voxels on the scale that the network speaks, about -2 to 2."""
    return (voxels.clamp_min(1).log() - _CENTRE) / _SPREAD


def size_hint(voxels: Tensor, field: Tensor) -> Tensor:
    """Return what a denoiser is told of sizes, (B, L, d, h, w): the same everywhere inside `field`, (B, 1, d, h, w)."""
    hint: Tensor = standardised(voxels)[:, :, None, None, None] * field
    return hint
