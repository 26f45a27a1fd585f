"""Batches for the families VAE and GAN: whole cases, bent anew each time, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domain.errors import ConfigurationError
from generators.augmentation import bent
from generators.autoencoder import Autoencoder
from generators.training_set import Facts, Known, TrainingSet

_AS_IT_IS = 0.25  # bending interpolates, which takes texture away: a share of the cases keeps it


@dataclass(frozen=True, eq=False)
class VectorDraw:
    """A training batch."""

    images: Tensor  # (B, 1, D, H, W)
    labels: Tensor  # (B, D, H, W), uint8
    extents: Tensor  # (B, 3)
    known: Known


@dataclass(frozen=True, eq=False)
class VectorData:
    """Cases of one part of a split.

    Attributes
    ----------
    cases : TrainingSet
    images : tensor, (N, 1, D, H, W)
        Those of the cases.
    prior_z : tensor, (N, V, C, d, h, w), float16
        Latents of each image in V variants, for those of whom it is the prior image.
    """

    cases: TrainingSet
    images: Tensor
    prior_z: Tensor

    @classmethod
    def of(cls, cases: TrainingSet, autoencoder: Autoencoder, *, variants: int, seed: int) -> VectorData:
        """Return the cases with the latents of their images: as they are, and in `variants` - 1 bent forms.

        Raises
        ------
        ConfigurationError
            If the cases have no images.
        """
        if cases.images is None:
            raise ConfigurationError(
                found="a data set without images", allowed="images", action="train a model of the family latent-diffusion"
            )
        rng, latents = torch.Generator().manual_seed(seed), []
        for image, labels, extent in zip(cases.images, cases.labels, cases.extents, strict=True):
            forms = [image] + [bent(image, labels, extent, rng)[0] for _ in range(variants - 1)]
            with torch.no_grad():
                latents.append(torch.cat([autoencoder.encode(form[None]) for form in forms]).half())
        return cls(cases, cases.images, torch.stack(latents))

    def draw(self, count: int, scale: tuple[Tensor, Tensor], rng: torch.Generator) -> VectorDraw:
        """Return a random batch. The prior image is bent on its own: its size says less than the numbers do."""
        cases = self.cases
        index = torch.randint(len(cases), (count,), generator=rng)
        variant = torch.randint(self.prior_z.shape[1], (count,), generator=rng)
        images, labels = (torch.stack(part) for part in zip(*(self._form(int(i), rng) for i in index), strict=True))
        numbers = cases.measured(labels) if cases.measured else cases.facts.numbers[index]
        mean, deviation = scale
        partner = cases.partner[index]
        known = Known(
            numbers=(numbers - mean) / deviation,
            answers=cases.facts.answers[index],
            prior=self.prior_z[partner.clamp_min(0), variant].float(),
            prior_there=partner >= 0,
        )
        return VectorDraw(images, labels, cases.extents[index], known)

    def _form(self, index: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        case = self.images[index], self.cases.labels[index]
        kept = torch.rand((), generator=rng) < _AS_IT_IS
        return case if kept else bent(*case, self.cases.extents[index], rng)


def number_scale(facts: Facts) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each number, (K,); 0 and 1 where a column holds none.

    The token encoder is exported with the scale that its training used.
    """
    there = ~facts.numbers.isnan()
    count = there.sum(0).clamp_min(1)
    mean = facts.numbers.nan_to_num(0).sum(0) / count
    spread = ((facts.numbers - mean).nan_to_num(0).square().sum(0) / count).sqrt()
    return mean, torch.where(spread > 0, spread, torch.ones_like(spread))
