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
_OUTSIDE_WEIGHT = 0.1
_NEAR_LABELS_WEIGHT = 3.0


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """Return L1 between images plus L1 between their gradients, which keeps edges that L1 alone would blur."""
    edges = [(image.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in (2, 3, 4)]
    return (image - target).abs().mean() + _EDGE_WEIGHT * torch.stack(edges).mean()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy plus one minus the soft Dice of the labels (not of the background, which is most of the volume)."""
    logits = logits.float()
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
    return label_loss(logits, voxels.max(1).indices) + _LABEL_KL_WEIGHT * kl_loss(*posterior)


def rectified_flow_loss(
    denoiser: Denoiser,
    z: Tensor,
    tokens: Tensor,
    mask: Tensor,
    hint: Tensor,
    rng: torch.Generator,
    *,
    weight: float | Tensor = 1.0,
) -> Tensor:
    """Return the mean squared error of the velocity at random times, each latent position counted by its weight.

    References
    ----------
    Liu et al., Flow Straight and Fast, ICLR 2023, equation 1.
    """
    noise = torch.randn(z.shape, generator=rng)
    t = training_times(len(z), rng)
    predicted = denoiser(path(z, noise, t), t, tokens, mask, hint)
    loss: Tensor = (weight * (predicted - velocity(z, noise)).square()).mean()
    return loss


def importance(field: Tensor, hint: Tensor) -> Tensor:
    """Return how much each position of an image's latent counts, (B, 1, d, h, w), 1 on average.

    An image has to show where its labels end, and they fill a twentieth of it: positions in and beside them count more, those
    outside the asked volume, which nobody sees, less.

    Parameters
    ----------
    field, hint : tensor, (B, 1, d, h, w) and (B, L r^3, d, h, w)
        See `generators.denoiser.latent_field` and `label_hint`.
    """
    near = functional.max_pool3d(hint.amax(1, keepdim=True), 3, stride=1, padding=1)
    weight = (_OUTSIDE_WEIGHT + (1 - _OUTSIDE_WEIGHT) * field) * (1 + _NEAR_LABELS_WEIGHT * near)
    return weight / weight.mean()
