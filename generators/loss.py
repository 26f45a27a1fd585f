"""What the autoencoder and the denoiser are trained on. Notation as in `generators.noise`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from generators.denoiser import Denoiser
from generators.noise import path, training_times, velocity

_LABEL_WEIGHT = 0.5
_KL_WEIGHT = 1e-4  # large enough that neighbouring latents decode alike: the denoiser is never exact
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


def autoencoder_loss(image: Tensor, logits: Tensor, target: Tensor, labels: Tensor, posterior: tuple[Tensor, Tensor]) -> Tensor:
    """Return the weighted sum of image, label and KL loss."""
    return reconstruction_loss(image, target) + _LABEL_WEIGHT * label_loss(logits, labels) + _KL_WEIGHT * kl_loss(*posterior)


def rectified_flow_loss(
    denoiser: Denoiser, z: Tensor, tokens: Tensor, mask: Tensor, field: Tensor, rng: torch.Generator
) -> Tensor:
    """Return the mean squared error of the velocity at random times.

    References
    ----------
    Liu et al., Flow Straight and Fast, ICLR 2023, equation 1.
    """
    noise = torch.randn(z.shape, generator=rng)
    t = training_times(len(z), rng)
    predicted = denoiser(path(z, noise, t), t, tokens, mask, field)
    loss: Tensor = (predicted - velocity(z, noise)).square().mean()
    return loss
