"""What the autoencoder and the denoiser are trained on. Notation as in `generators.noise`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from generators.denoiser import Denoiser
from generators.noise import path, training_times, velocity

# Large enough that neighbouring latents decode alike: the denoiser is never exact.
_KL_WEIGHT = 1e-4
_LABEL_KL_WEIGHT = 1e-3  # of a label map more may be lost than of texture
_EDGE_WEIGHT = 0.5


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """Return L1 between images plus L1 between their gradients, which keeps edges that L1 alone would blur."""
    edges = [(image.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3, 4)]
    return (image - target).abs().mean() + _EDGE_WEIGHT * torch.stack(edges).mean()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy plus one minus the soft Dice of the labels (not of the background, which is most of the volume)."""
    chance = logits.softmax(1)[:, 1:]  # (B, L, D, H, W)
    one_hot = functional.one_hot(labels, logits.shape[1])[..., 1:].movedim(-1, 1).to(chance)
    shared = (chance * one_hot).sum((0, 2, 3, 4))
    dice = (2 * shared + 1) / (chance.sum((0, 2, 3, 4)) + one_hot.sum((0, 2, 3, 4)) + 1)
    return functional.cross_entropy(logits, labels) + (1 - dice.mean())


def kl_loss(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the divergence of the latent's posterior from a standard normal, per latent value."""
    variance = deviation.square()
    return 0.5 * (mean.square() + variance - 1 - variance.clamp_min(1e-20).log()).mean()


def image_autoencoder_loss(decoded: Tensor, voxels: Tensor, posterior: tuple[Tensor, Tensor]) -> Tensor:
    """Return reconstruction plus KL loss of images (B, 1, D, H, W)."""
    return reconstruction_loss(decoded, voxels) + _KL_WEIGHT * kl_loss(*posterior)


def label_autoencoder_loss(logits: Tensor, voxels: Tensor, posterior: tuple[Tensor, Tensor]) -> Tensor:
    """Return label plus KL loss; `voxels` is one-hot, (B, 1 + L, D, H, W)."""
    return label_loss(logits, voxels.argmax(1)) + _LABEL_KL_WEIGHT * kl_loss(*posterior)


def rectified_flow_loss(
    denoiser: Denoiser, z: Tensor, tokens: Tensor, mask: Tensor, hint: Tensor, rng: torch.Generator
) -> Tensor:
    """Return the mean squared error of the velocity at random times.

    References
    ----------
    Liu et al., Flow Straight and Fast, ICLR 2023, equation 1.
    """
    noise = torch.randn(z.shape, generator=rng)
    t = training_times(len(z), rng)
    predicted = denoiser(path(z, noise, t), t, tokens, mask, hint)
    loss: Tensor = (predicted - velocity(z, noise)).square().mean()
    return loss
