"""Joint autoencoder of an image and its labels: what is generated carries its own label map.

Eight neighbouring voxels become channels first (space-to-depth), so the costly convolutions run on an eighth of the voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.nets import AutoencoderKL
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn

_BLOCK = 2  # edge of a space-to-depth block, voxels


@dataclass(frozen=True, slots=True)
class AutoencoderShape:
    """Size of the network.

    Attributes
    ----------
    labels : int
        Number of labels beside background.
    latent_channels : int
        Six for one image channel and two labels: with four, label borders and texture compete.
    channels : tuple of int
        Width of each level; one level halves the grid, so the latent grid is `reduction` times coarser than the voxels.
    """

    labels: int = 2
    latent_channels: int = 6
    channels: tuple[int, ...] = (32, 64)
    norm_groups: int = 16

    @property
    def reduction(self) -> int:
        """Voxels per latent position along each axis."""
        return _BLOCK << (len(self.channels) - 1)


class Autoencoder(nn.Module):
    """Image and labels to a latent and back.

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
        block = _BLOCK**3
        self.network = AutoencoderKL(
            spatial_dims=3,
            in_channels=block * (1 + shape.labels),
            out_channels=block * (2 + shape.labels),  # the image, a logit for the background and for each label
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

    def posterior(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latent.

        Parameters
        ----------
        image : tensor, (B, 1, D, H, W), float32, 0 to 1
        labels : tensor, (B, D, H, W), int64
        """
        one_hot = nn.functional.one_hot(labels, self.shape.labels + 1)[..., 1:]  # (B, D, H, W, L)
        x = torch.cat([image, one_hot.movedim(-1, 1).to(image)], dim=1)  # (B, 1 + L, D, H, W)
        mean, deviation = self.network.encode(pixelunshuffle(x, 3, _BLOCK))
        return mean, deviation

    def reconstruct(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return image (B, 1, D, H, W) and label logits (B, 1 + L, D, H, W) of a latent as `posterior` gives it."""
        decoded = pixelshuffle(self.network.decode(latent), 3, _BLOCK)
        return decoded[:, :1], decoded[:, 1:]

    def encode(self, image: Tensor, labels: Tensor) -> Tensor:
        """Return the standardised latent z, (B, C, D/r, H/r, W/r): the mean, not a sample, so it is the same each time."""
        mean, _ = self.posterior(image, labels)
        return (mean - self.latent_mean) / self.latent_scale

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return image, clipped to 0 to 1, and label logits of a standardised latent."""
        image, logits = self.reconstruct(z * self.latent_scale + self.latent_mean)
        return image.clamp(0, 1), logits

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Set what `encode` subtracts and divides by: per channel, (C,)."""
        self.latent_mean.copy_(mean.view_as(self.latent_mean))
        self.latent_scale.copy_(scale.view_as(self.latent_scale))
