"""An image to tokens: one for each region of a coarse grid.

It has its own small network instead of the generator's autoencoder: that one encodes an image together with its labels, which a
received image does not have, and an encoder may not depend on a generator.
"""

from __future__ import annotations

import math

import torch
from monai.networks.utils import pixelunshuffle
from torch import Tensor, nn

from domain.grid import Shape

_BLOCK = 4  # voxels along each edge that become channels
_REGION = 16  # voxels along each edge that share a token
_CHANNELS = (48, 96)


class ImageTokens(nn.Module):
    """An image on its grid, (B, 1, D, H, W), to tokens, (B, D/16 * H/16 * W/16, C)."""

    def __init__(self, grid: Shape, width: int) -> None:
        super().__init__()
        self.count = math.prod(n // _REGION for n in grid)
        first, second = _CHANNELS
        self.network = nn.Sequential(
            nn.Conv3d(_BLOCK**3, first, 1),
            nn.GroupNorm(8, first),
            nn.SiLU(),
            nn.Conv3d(first, second, 3, stride=2, padding=1),
            nn.GroupNorm(8, second),
            nn.SiLU(),
            nn.Conv3d(second, width, 3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(width)
        self.code = nn.Parameter(torch.randn(self.count, width))  # which region
        self.code_norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens of images of intensities 0 to 1."""
        x = self.network(pixelunshuffle(image - 0.5, 3, _BLOCK))  # (B, C, D/16, H/16, W/16)
        tokens: Tensor = self.norm(x.flatten(2).transpose(1, 2)) + self.code_norm(self.code)  # (B, T, C)
        return tokens
