"""One vector for a whole volume: a decoder from it, and from what is told, to a label map and the image that goes with it.

The families VAE and GAN share this network; they differ in where the vector comes from and in how the network is taught.
Everything is decided on coarse grids; a last space-to-depth step in reverse gives the voxels, so one volume costs one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn
from torch.nn import functional

from domain.grid import Shape
from generators.denoiser import TokenPool, latent_field

_MODULATION = 128


@dataclass(frozen=True, slots=True)
class VectorShape:
    """Size of the network.

    Attributes
    ----------
    grid : tuple of int
        Shape of the volume, voxels; divisible by `reduction`.
    label_count : int
        Labels beside background.
    vector : int
        Length of the vector.
    channels : tuple of int
        Width of each level, the coarsest first; each level but the first doubles the grid.
    image_channels : int
        Width of the image's own level.
    grain : int
        Random values at each position of the image's own level: texture, of which the vector has no room to tell.
    block, image_block : int
        Edge of the block of voxels that a position of the last level holds: of label logits, and of the image, which shows
        finer detail.
    token_width, pooled_tokens : int
        As in `generators.denoiser.DenoiserShape`.
    """

    grid: Shape
    label_count: int = 2
    vector: int = 64
    channels: tuple[int, ...] = (96, 64, 48)
    image_channels: int = 32
    grain: int = 8
    block: int = 4
    image_block: int = 2
    norm_groups: int = 8
    token_width: int = 128
    pooled_tokens: int = 4

    @property
    def reduction(self) -> int:
        """Voxels per position of the coarsest level along each axis."""
        return self.block << (len(self.channels) - 1)

    @property
    def told(self) -> int:
        """Length of what `VectorDecoder.told` returns."""
        return self.pooled_tokens * self.token_width


@dataclass(frozen=True, eq=False)
class Sketch:
    """What label map and image of one volume have in common, before either is drawn.

    Attributes
    ----------
    modulation : tensor, (B, 128)
    positions : tensor, (B, C, D/block, H/block, W/block)
    extents : tensor, (B, 3)
        Shape of each asked volume on the grid.
    """

    modulation: Tensor
    positions: Tensor
    extents: Tensor


class VectorDecoder(nn.Module):
    """A vector and tokens to label logits; these, made a label map, to the image.

    References
    ----------
    Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018, equation 2.
    Shi et al., Real-Time Single Image and Video Super-Resolution, CVPR 2016, equation 4 (sub-pixel convolution).
    Karras, Laine and Aila, A Style-Based Generator Architecture for GANs, CVPR 2019, section 3.2 (noise at each position).
    """

    def __init__(self, shape: VectorShape) -> None:
        super().__init__()
        self.shape = shape
        first, last = shape.channels[0], shape.channels[-1]
        self._coarsest = tuple(n // shape.reduction for n in shape.grid)
        positions = self._coarsest[0] * self._coarsest[1] * self._coarsest[2]
        self.pool = TokenPool(shape.token_width, shape.pooled_tokens)
        self.modulation = nn.Sequential(
            nn.Linear(shape.vector + shape.told, _MODULATION), nn.SiLU(), nn.Linear(_MODULATION, _MODULATION), nn.SiLU()
        )
        self.start = nn.Linear(_MODULATION, first * positions)
        widths = (first, *shape.channels)
        self.levels = nn.ModuleList(
            ModulatedBlock(inputs, outputs, shape.norm_groups) for inputs, outputs in zip(widths, shape.channels, strict=False)
        )
        self.labels = nn.Conv3d(last, (1 + shape.label_count) * shape.block**3, 3, padding=1)
        hint = shape.label_count * shape.image_block**3
        self.narrow = nn.Conv3d(last, shape.image_channels, 1)
        self.with_labels = nn.Conv3d(shape.image_channels + hint, shape.image_channels, 1)
        self.grained = nn.Conv3d(shape.grain, shape.image_channels, 1, bias=False)
        nn.init.zeros_(self.grained.weight)  # no texture until a discriminator asks for it
        self.image_level = ModulatedBlock(shape.image_channels, shape.image_channels, shape.norm_groups)
        self.voxels = nn.Conv3d(shape.image_channels, shape.image_block**3, 3, padding=1)

    def told(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return what is told, (B, P C), of tokens (B, T, C) with their mask (B, T)."""
        pooled: Tensor = self.pool(tokens, mask)  # (B, P, C)
        return pooled.flatten(1)

    def sketch(self, vector: Tensor, told: Tensor, extents: Tensor) -> Sketch:
        """Return what both heads draw from.

        Parameters
        ----------
        vector : tensor, (B, H)
        told : tensor, (B, P C)
        extents : tensor, (B, 3), int64
            Shape of each asked volume: it lies in the middle of the grid.
        """
        modulation = self.modulation(torch.cat([vector, told], dim=1))  # (B, M)
        x = self.start(modulation).unflatten(1, (-1, *self._coarsest))  # (B, C, d, h, w)
        reduction = self.shape.reduction
        for level, block in enumerate(self.levels):
            x = doubled(x) if level else x
            x = block(x, modulation, self._field(extents, reduction >> level, x))
        return Sketch(modulation, x, extents)

    def label_logits(self, sketch: Sketch) -> Tensor:
        """Return the logits of background and labels, (B, 1 + L, D, H, W)."""
        logits: Tensor = pixelshuffle(self.labels(functional.silu(sketch.positions)), 3, self.shape.block)
        return logits

    def drawn_grain(self, count: int, rng: torch.Generator) -> Tensor:
        """Return standard normal values for `image`, (B, G, D/r, H/r, W/r), on the CPU."""
        shape = self.shape
        return torch.randn(count, shape.grain, *(n // shape.image_block for n in shape.grid), generator=rng)

    def image(self, sketch: Sketch, hint: Tensor, grain: Tensor) -> Tensor:
        """Return the image, (B, 1, D, H, W), of about 0 to 1, that goes with a final label map.

        Parameters
        ----------
        hint : tensor, (B, L r^3, D/r, H/r, W/r), r the image's block
            The label map; see `generators.denoiser.label_hint`.
        grain : tensor, (B, G, D/r, H/r, W/r)
            See `drawn_grain`.
        """
        x = self.narrow(sketch.positions)
        x = functional.interpolate(x, size=hint.shape[2:], mode="trilinear")
        x = self.with_labels(torch.cat([x, hint], dim=1)) + self.grained(grain)  # (B, C, D/r, H/r, W/r)
        x = self.image_level(x, sketch.modulation, self._field(sketch.extents, self.shape.image_block, x))
        voxels: Tensor = pixelshuffle(self.voxels(functional.silu(x)), 3, self.shape.image_block)
        return voxels

    def _field(self, extents: Tensor, reduction: int, like: Tensor) -> Tensor:
        return latent_field(extents.cpu(), self.shape.grid, reduction).to(like)


class ModulatedBlock(nn.Module):
    """Two convolutions beside a shortcut; the second sees channels that are scaled and shifted by the modulation."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(groups, inputs), nn.GroupNorm(groups, outputs)
        self.conv_in = nn.Conv3d(inputs + 1, outputs, 3, padding=1)
        self.conv_out = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.film = nn.Linear(_MODULATION, 2 * outputs)
        self.shortcut = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor, field: Tensor) -> Tensor:
        """Return (B, outputs, D, H, W) of x, (B, inputs, D, H, W), modulation (B, M) and field (B, 1, D, H, W)."""
        y = self.conv_in(torch.cat([functional.silu(self.norm_in(x)), field], dim=1))
        scale, shift = self.film(modulation)[:, :, None, None, None].chunk(2, dim=1)
        y = self.conv_out(functional.silu(self.norm_out(y) * (1 + scale) + shift))
        added: Tensor = self.shortcut(x) + y
        return added


def doubled(x: Tensor) -> Tensor:
    """Return x on a grid twice as fine, smooth: repeated positions would show as blocks."""
    finer: Tensor = functional.interpolate(x, scale_factor=2, mode="trilinear")
    return finer
