"""Predicts the velocity of a noisy latent from the latent, its time, the conditioning tokens and hints on the latent's grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.utils import pixelunshuffle
from torch import Tensor, nn
from torch.nn import functional

from domain.grid import Shape

_TIME_SCALE = 1000.0  # MONAI's sinusoidal time embedding was made for steps 0 to 1000


@dataclass(frozen=True, slots=True)
class DenoiserShape:
    """Size of the network.

    Attributes
    ----------
    latent_channels : int
        As in the autoencoder.
    hint_channels : int
        What is known at each latent position: the share of it that lies in the asked volume and, of an image, its label map.
    channels : tuple of int
        Width of each level; all but the first attend to themselves and to the tokens.
    token_width : int
        Width of a conditioning token.
    pooled_tokens : int
        Tokens after pooling: a fixed small number, because MONAI's cross-attention takes no mask.
    """

    latent_channels: int = 8
    hint_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128)
    head_channels: int = 32
    norm_groups: int = 16
    token_width: int = 128
    pooled_tokens: int = 12


class TokenPool(nn.Module):
    """Attention with a key mask from a few learned queries to any number of tokens.

    The encoder leaves a null token where a modality is missing, so there is always one to attend to.
    """

    def __init__(self, width: int, pooled: int, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, pooled, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return (B, P, C) from tokens (B, T, C) and their mask (B, T), True where present."""
        queries = self.queries.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(queries, tokens, tokens, key_padding_mask=~mask, need_weights=False)  # (B, P, C)
        return cast("Tensor", self.norm(pooled + self.mix(pooled)))


class Denoiser(nn.Module):
    """UNet over latents, told the time, the pooled tokens and the hints."""

    def __init__(self, shape: DenoiserShape) -> None:
        super().__init__()
        self.shape = shape
        levels = len(shape.channels)
        self.pool = TokenPool(shape.token_width, shape.pooled_tokens)
        self.network = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=shape.latent_channels + shape.hint_channels,
            out_channels=shape.latent_channels,
            num_res_blocks=(1,) * levels,
            channels=shape.channels,
            attention_levels=(False,) + (True,) * (levels - 1),
            num_head_channels=(0,) + (shape.head_channels,) * (levels - 1),
            norm_num_groups=shape.norm_groups,
            with_conditioning=True,
            cross_attention_dim=shape.token_width,
            num_class_embeds=1,
        )
        # MONAI adds a class embedding to the time embedding of every block. We put the mean token there instead of a class:
        # a number such as a volume then reaches each block directly, and requests are obeyed more closely.
        self.network.class_embedding = nn.Linear(shape.token_width, 4 * shape.channels[0])

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, mask: Tensor, hint: Tensor) -> Tensor:
        """Return the velocity at x.

        Parameters
        ----------
        x : tensor, (B, C, D, H, W)
        t : tensor, (B,), 0 to 1
        tokens, mask : tensor, (B, T, C) and (B, T)
        hint : tensor, (B, H, D, H, W), 0 to 1
            See `latent_field` and `label_hint`.
        """
        pooled = self.pool(tokens, mask)  # (B, P, C)
        x = torch.cat([x, hint], dim=1)
        return cast("Tensor", self.network(x, t * _TIME_SCALE, context=pooled, class_labels=pooled.mean(1)))


def latent_field(extents: Tensor, grid: Shape, reduction: int) -> Tensor:
    """Return the share of each latent position inside a crop, (N, 1, D/r, H/r, W/r), for crops of `extents`, (N, 3)."""
    inside = [_inside(extents[:, axis], n) for axis, n in enumerate(grid)]
    box = torch.einsum("nd,nh,nw->ndhw", *inside).unsqueeze(1)
    return functional.avg_pool3d(box, reduction)


def label_hint(labels: Tensor, label_count: int, reduction: int) -> Tensor:
    """Return label maps, (B, D, H, W), at each latent position: every voxel of every label, (B, L r^3, D/r, H/r, W/r)."""
    present = functional.one_hot(labels.long(), label_count + 1)[..., 1:].movedim(-1, 1).float()
    hint: Tensor = pixelunshuffle(present, 3, reduction)
    return hint


def _inside(lengths: Tensor, n: int) -> Tensor:
    """Return (N, n): 1 where an index lies in the centred crop (the rule of `domain.grid.placed`)."""
    start = ((n - lengths) // 2).unsqueeze(1)
    index = torch.arange(n)
    return ((index >= start) & (index < start + lengths.unsqueeze(1))).float()
