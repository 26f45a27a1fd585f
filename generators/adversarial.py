"""Family GAN: the vector of a volume is standard normal, and a discriminator teaches what label map and image must look like.

A volume costs one pass, as with the VAE, and its texture is judged instead of averaged. What was asked is taught twice: the
discriminator knows what was told, and the volumes of the label map are regressed on those that were told.

References
----------
Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014.
Miyato and Koyama, cGANs with Projection Discriminator, ICLR 2018, equation 3.
Lim and Ye, Geometric GAN, 2017, equations 12 and 13 (hinge losses; the generator's does not saturate).
Mescheder, Geiger and Nowozin, Which Training Methods for GANs do actually Converge?, ICML 2018, equation 9 (R1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional

from domain.grid import Shape
from generators.denoiser import latent_field
from generators.vector_decoder import VectorShape
from generators.vector_generator import VectorGenerator, vector_networks
from generators.weights import Bundle

_LAYERS = 3


class AdversarialGenerator(VectorGenerator):
    """Conditional GAN: the vector is standard normal, whatever is told."""

    sampler = "standard-normal"

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> AdversarialGenerator:
        """Return the generator of a bundle with the parts ``decoder`` and ``image_autoencoder``, on `device`.

        Raises
        ------
        WeightsRejected
            If the weights are not those of the networks.
        """
        return cls(bundle.card, *vector_networks(bundle, device), device=device)

    def _vector(self, told: Tensor, normal: Tensor) -> Tensor:
        return normal


class Discriminator(nn.Module):
    """Judges patches of an image with its label map, and whether both suit what was told.

    It has no normalisation: that would hide the brightness of an image from it, and the penalty on its gradient keeps it tame.
    """

    def __init__(self, shape: VectorShape) -> None:
        super().__init__()
        self.grid: Shape = shape.grid
        self.patches = PatchDiscriminator(
            spatial_dims=3,
            num_layers_d=_LAYERS,
            channels=shape.image_channels,
            in_channels=shape.label_count + 2,
            norm=None,
            bias=True,
            last_conv_kernel_size=3,
        )
        self.suits = nn.Linear(shape.told, shape.image_channels << _LAYERS)
        with torch.no_grad():
            for (
                layer
            ) in self.patches.modules():  # MONAI's first weights are so small that, unnormalised, hardly anything passes
                if isinstance(layer, nn.Conv3d):
                    nn.init.kaiming_normal_(layer.weight, a=0.2)
            self.suits.weight.mul_(0.1)

    def forward(self, seen: Tensor, extents: Tensor, told: Tensor) -> Tensor:
        """Return a score for each patch, (B, 1, d, h, w); above 0 it looks real.

        Parameters
        ----------
        seen : tensor, (B, 1 + L, D, H, W)
            Image, then 1 where each label is.
        extents : tensor, (B, 3)
        told : tensor, (B, P C)
        """
        box = latent_field(extents, self.grid, 1)  # where a crop ends is known, so that edges need not give it away
        *_, features, scores = self.patches(torch.cat([seen, box], dim=1))
        suiting = (self.suits(told) * features.mean((2, 3, 4))).mean(1)
        judged: Tensor = scores + suiting[:, None, None, None, None]
        return judged


def hard_labels(logits: Tensor) -> Tensor:
    """Return 1 where each label has the largest logit, (B, L, D, H, W), with the gradient of the probabilities.

    The discriminator must see maps as hard as real ones, or it would tell them apart by that alone.

    References
    ----------
    Bengio, Leonard and Courville, Estimating or Propagating Gradients Through Stochastic Neurons, 2013 (straight through).
    """
    chance = logits.float().softmax(1)
    hard = functional.one_hot(logits.max(1).indices, logits.shape[1]).movedim(-1, 1).to(chance)
    return (hard + chance - chance.detach())[:, 1:]


def volume_loss(present: Tensor, labels: Tensor, groups: Sequence[Sequence[int]], told: Tensor) -> Tensor:
    """Return how far volumes are from those that were told, as logarithms of their ratio (beyond 0.1 the loss grows linearly).

    The smaller a volume, the steeper its logarithm: a label that is nearly gone is called back, and a huge one does not drown
    everything else.

    Parameters
    ----------
    present : tensor, (B, L, D, H, W)
        From `hard_labels`.
    labels : tensor, (B, D, H, W)
        The real label maps whose volumes were told.
    groups : K groups of labels
        Whose volume each fact is; empty where a fact is no volume.
    told : tensor, (B, K), bool
    """
    made = present.sum((2, 3, 4))  # (B, L)
    wanted = torch.stack([(labels == label).sum((1, 2, 3)) for label in range(1, present.shape[1] + 1)], dim=1).to(made)
    losses = [made.new_zeros(())]
    for fact, group in enumerate(groups):
        columns = [label - 1 for label in group]
        error = torch.log((made[:, columns].sum(1) + 1) / (wanted[:, columns].sum(1) + 1))
        counted = told[:, fact] if columns else torch.zeros_like(told[:, fact])
        losses.append((functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1, reduction="none") * counted).mean())
    return torch.stack(losses).sum()


def discriminator_loss(on_real: Tensor, on_generated: Tensor) -> Tensor:
    """Return the hinge loss of the discriminator."""
    return functional.relu(1 - on_real).mean() + functional.relu(1 + on_generated).mean()


def gradient_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """Return R1: the squared gradient of the scores at real volumes, per volume.

    Scores of P patches are summed and divided by the root of P: patches that look at different voxels are then penalised as
    one score would be, where their mean would let each grow P times as steep.
    """
    scores = on_real.flatten(1)
    (gradient,) = torch.autograd.grad(scores.sum() / scores.shape[1] ** 0.5, real, create_graph=True)
    return gradient.square().sum((1, 2, 3, 4)).mean()


def sliced_distance(real: Tensor, generated: Tensor, rng: torch.Generator) -> float:
    """Return how far apart two sets of volumes, (B, C, D, H, W), are as distributions of patches, on three scales.

    Patches are projected on random directions; along each, the distance of the sorted projections is exact. This is what VAE
    and GAN are measured by on held-out people: losses against a discriminator say nothing about how good a volume is.

    References
    ----------
    Rabin et al., Wasserstein Barycenter and Its Application to Texture Mixing, SSVM 2011 (sliced Wasserstein distance).
    Karras et al., Progressive Growing of GANs, ICLR 2018, section 5 (of patches, on several scales).
    """
    directions = torch.randn(64, real.shape[1], 4, 4, 4, generator=rng)
    directions = directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    distances = []
    for scale in (1, 2, 4):
        ours, theirs = (_projections(volumes, directions, scale) for volumes in (real, generated))
        distances.append((ours - theirs).abs().mean())
    return float(torch.stack(distances).mean())


def _projections(volumes: Tensor, directions: Tensor, scale: int) -> Tensor:
    """Return the sorted projections of all patches on each direction, (64, N)."""
    along = functional.conv3d(functional.avg_pool3d(volumes, scale), directions, stride=2)
    return along.movedim(1, 0).flatten(1).sort(dim=1).values
