"""Autoencoders of images and of label maps: one network, two trainings.

A block of neighbouring voxels becomes channels first (space-to-depth), so the costly convolutions run on far fewer positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.nets import AutoencoderKL
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """Size of the network.

    Attributes
    ----------
    voxel_channels : int
        1 for an image, 1 + L for a label map.
    block : int
        Edge of the space-to-depth block, voxels.
    latent_channels : int
        Numbers at each latent position.
    channels : tuple of int
        Width of each level; each level but the first halves the grid.
    """

    voxel_channels: int = 1
    block: int = 2
    latent_channels: int = 8
    channels: tuple[int, ...] = (32, 64)
    norm_groups: int = 16

    @property
    def reduction(self) -> int:
        """Voxels per latent position along each axis."""
        return self.block << (len(self.channels) - 1)


class Autoencoder(nn.Module):
    """Voxels to a latent and back.

    References
    ----------
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, section 3.1 (KL regularised).
    Shi et al., Real-Time Single Image and Video Super-Resolution, CVPR 2016 (space-to-depth).
    """

    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, shape: AutoencoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.network = AutoencoderKL(
            spatial_dims=3,
            in_channels=shape.block**3 * shape.voxel_channels,
            out_channels=shape.block**3 * shape.voxel_channels,
            num_res_blocks=(1,) * len(shape.channels),
            channels=shape.channels,
            attention_levels=(False,) * len(shape.channels),
            latent_channels=shape.latent_channels,
            norm_num_groups=shape.norm_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        # The denoiser sees latents of zero mean and unit scale per channel; measured after training of the autoencoder.
        self.register_buffer("latent_mean", torch.zeros(1, shape.latent_channels, 1, 1, 1))
        self.register_buffer("latent_scale", torch.ones(1, shape.latent_channels, 1, 1, 1))

    def posterior(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latent of voxels (B, V, D, H, W)."""
        mean, deviation = self.network.encode(pixelunshuffle(voxels, 3, self.shape.block))
        return mean, deviation

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Return voxels, (B, V, D, H, W), of a latent as `posterior` gives it."""
        voxels: Tensor = pixelshuffle(self.network.decode(latent), 3, self.shape.block)
        return voxels

    def encode(self, voxels: Tensor) -> Tensor:
        """Return the standardised latent z, (B, C, D/r, H/r, W/r): the mean, not a sample, so it is the same each time."""
        mean, _ = self.posterior(voxels)
        return (mean - self.latent_mean) / self.latent_scale

    def decode(self, z: Tensor) -> Tensor:
        """Return the voxels of a standardised latent."""
        return self.reconstruct(z * self.latent_scale + self.latent_mean)

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Set what `encode` subtracts and divides by: per channel, (C,)."""
        self.latent_mean.copy_(mean.view_as(self.latent_mean))
        self.latent_scale.copy_(scale.view_as(self.latent_scale))


def one_hot(labels: Tensor, voxel_channels: int) -> Tensor:
    """Return label maps (B, D, H, W) as voxels (B, 1 + L, D, H, W), float32."""
    return functional.one_hot(labels.long(), voxel_channels).movedim(-1, 1).float()
