"""The latent of a prior image to tokens: one for each region of a coarse grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_REGION = 4  # latent positions along each edge that share a token
_CHANNELS = 64


class ImageTokens(nn.Module):
    """A standardised latent, (B, C, d, h, w), to tokens, (B, ceil(d/4) * ceil(h/4) * ceil(w/4), width).

    Parameters
    ----------
    latent : tuple of int
        (C, d, h, w) of the generator's image autoencoder.
    """

    def __init__(self, latent: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        channels, *grid = latent
        self.count = math.prod(-(-n // _REGION) for n in grid)
        self.network = nn.Sequential(
            nn.Conv3d(channels, _CHANNELS, 3, stride=2, padding=1),
            nn.GroupNorm(8, _CHANNELS),
            nn.SiLU(),
            nn.Conv3d(_CHANNELS, width, 3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(width)
        self.region = nn.Parameter(torch.randn(self.count, width))
        self.region_norm = nn.LayerNorm(width)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the tokens of latents."""
        x = self.network(latent)  # (B, width, d/4, h/4, w/4)
        tokens: Tensor = self.norm(x.flatten(2).transpose(1, 2)) + self.region_norm(self.region)  # (B, T, width)
        return tokens
