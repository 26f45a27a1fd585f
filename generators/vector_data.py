"""Batches for the families VAE and GAN: whole cases in forms that were bent once, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domain.errors import ConfigurationError
from generators.autoencoder import Autoencoder
from generators.latent_data import forms_of, in_chunks
from generators.training_set import Facts, Known, TrainingSet


@dataclass(frozen=True, eq=False)
class VectorDraw:
    """A training batch."""

    images: Tensor  # (B, 1, D, H, W)
    labels: Tensor  # (B, D, H, W), uint8
    extents: Tensor  # (B, 3)
    known: Known


@dataclass(frozen=True, eq=False)
class VectorData:
    """Cases of one part of a split in V forms each; the first is the case as it is, the others are bent.

    Attributes
    ----------
    cases : TrainingSet
    images : tensor, (N, V, 1, D, H, W), float16
    labels : tensor, (N, V, D, H, W), uint8
    prior_z : tensor, (N, V, C, d, h, w), float16
        Latents of the images, for those of whom they are the prior image.
    """

    cases: TrainingSet
    images: Tensor
    labels: Tensor
    prior_z: Tensor

    @classmethod
    def of(cls, cases: TrainingSet, autoencoder: Autoencoder, *, variants: int, seed: int) -> VectorData:
        """Return the cases in `variants` forms, and the latents of these.

        Raises
        ------
        ConfigurationError
            If the cases have no images.
        """
        rng = torch.Generator().manual_seed(seed)
        made = [_case(cases, index, autoencoder, variants, rng) for index in range(len(cases))]
        images, labels, latents = (torch.stack(part) for part in zip(*made, strict=True))
        return cls(cases, images, labels, latents)

    def draw(self, count: int, scale: tuple[Tensor, Tensor], rng: torch.Generator) -> VectorDraw:
        """Return a random batch. The prior image is bent on its own: its size says less than the numbers do."""
        cases, (n, variants) = self.cases, self.labels.shape[:2]
        index = torch.randint(n, (count,), generator=rng)
        variant, prior_variant = torch.randint(variants, (2, count), generator=rng)
        labels = self.labels[index, variant]
        numbers = cases.measured(labels) if cases.measured else cases.facts.numbers[index]
        mean, deviation = scale
        partner = cases.partner[index]
        known = Known(
            numbers=(numbers - mean) / deviation,
            answers=cases.facts.answers[index],
            prior=self.prior_z[partner.clamp_min(0), prior_variant].float(),
            prior_there=partner >= 0,
        )
        return VectorDraw(self.images[index, variant].float(), labels, cases.extents[index], known)


def _case(
    cases: TrainingSet, index: int, autoencoder: Autoencoder, variants: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, labels and latents of one case in all of its forms."""
    images, labels = forms_of(cases, index, variants, rng)
    if images is None:
        raise ConfigurationError(
            found="a data set without images", allowed="images", action="train a model of the family latent-diffusion"
        )
    return images.half(), labels, in_chunks(autoencoder, images)


def number_scale(facts: Facts) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each number, (K,); 0 and 1 where a column holds none.

    The token encoder is exported with the scale that its training used.
    """
    there = ~facts.numbers.isnan()
    count = there.sum(0).clamp_min(1)
    mean = facts.numbers.nan_to_num(0).sum(0) / count
    spread = ((facts.numbers - mean).nan_to_num(0).square().sum(0) / count).sqrt()
    return mean, torch.where(spread > 0, spread, torch.ones_like(spread))
