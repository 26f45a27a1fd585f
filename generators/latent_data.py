"""Latents of bent crops, made once: the denoiser then trains on them without running the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from generators.augmentation import bent, volumes_mm3
from generators.autoencoder import Autoencoder
from generators.denoiser import latent_field
from generators.hippocampus_data import GRID, GridBatch

_VALUE_PRESENT = 0.6
_PRIOR_PRESENT = 0.85
_ANYTHING_PRESENT = 0.9


@dataclass(frozen=True, eq=False)
class Draw:
    """A training batch: latents and what the encoder may know about each."""

    z: Tensor  # (B, C, D/r, H/r, W/r)
    field: Tensor  # (B, 1, D/r, H/r, W/r)
    values: Tensor  # (B, K)
    present: Tensor  # (B, K), bool
    prior: Tensor  # (B, 1, D, H, W)
    prior_present: Tensor  # (B,), bool


@dataclass(frozen=True, eq=False)
class LatentData:
    """N crops in V variants each; variant 0 is the crop as it is.

    Attributes
    ----------
    z : tensor, (N, V, C, D/r, H/r, W/r), float16
        Standardised latents.
    images : tensor, (N, V, 1, D, H, W), uint8
        Images, 0 to 255: they serve as prior image of the other hippocampus.
    values : tensor, (N, V, 3), float32, mm3
    field : tensor, (N, 1, D/r, H/r, W/r), float32
    partner : tensor, (N,), int64
        Index of the other hippocampus of the same person, or -1.
    """

    z: Tensor
    images: Tensor
    values: Tensor
    field: Tensor
    partner: Tensor

    @property
    def channels(self) -> int:
        """Latent channels."""
        return self.z.shape[2]

    def values_mean(self) -> Tensor:
        """Return the mean of each number, (K,)."""
        return self.values.mean((0, 1))

    def values_deviation(self) -> Tensor:
        """Return the standard deviation of each number, (K,)."""
        return self.values.flatten(0, 1).std(0)

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """Return a random batch in which each number, and the prior image, is known or not at random.

        Every subset of the numbers occurs, so each of them works alone; in a tenth nothing at all is known, which trains the
        unconditional answer that guidance needs. The prior image is bent on its own: its size says less than the numbers do.
        """
        crops, variants = self.z.shape[:2]
        index = torch.randint(crops, (count,), generator=rng)
        variant, prior_variant = torch.randint(variants, (2, count), generator=rng)
        anything = torch.rand(count, generator=rng) < _ANYTHING_PRESENT
        values = self.values[index, variant]
        present = (torch.rand(values.shape, generator=rng) < _VALUE_PRESENT) & anything.unsqueeze(1)
        partner = self.partner[index]
        prior_present = (torch.rand(count, generator=rng) < _PRIOR_PRESENT) & anything & (partner >= 0)
        return Draw(
            z=self.z[index, variant].float(),
            field=self.field[index],
            values=values,
            present=present,
            prior=self.images[partner.clamp_min(0), prior_variant].float() / 255,
            prior_present=prior_present,
        )

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file; a reader finds the whole file or none."""
        partial = path.with_name(path.name + ".partial")
        save_file({part.name: getattr(self, part.name).contiguous() for part in fields(self)}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> LatentData:
        """Return what `save` wrote."""
        return cls(**load_file(path))


def standardise_latents(autoencoder: Autoencoder, crops: GridBatch) -> None:
    """Give the autoencoder the mean and scale of its latents over these crops (as they are), per channel.

    References
    ----------
    Rombach et al., CVPR 2022, supplement G: latents are scaled by their measured deviation.
    """
    with torch.no_grad():
        means = [autoencoder.posterior(crops.images[i : i + 1], crops.labels[i : i + 1].long())[0] for i in range(len(crops))]
    latents = torch.cat(means).movedim(1, 0).flatten(1)  # (C, everything else)
    autoencoder.standardise(latents.mean(1), latents.std(1))


def latents_of(autoencoder: Autoencoder, crops: GridBatch, *, variants: int, seed: int) -> LatentData:
    """Return the latents of each crop as it is and in `variants` - 1 bent forms."""
    rng = torch.Generator().manual_seed(seed)
    z, images, values = [], [], []
    for image, labels, extent in zip(crops.images, crops.labels, crops.extents, strict=True):
        forms = [(image, labels)] + [bent(image, labels, extent, rng) for _ in range(variants - 1)]
        form_images, form_labels = (torch.stack(part) for part in zip(*forms, strict=True))
        with torch.no_grad():
            latents = [
                autoencoder.encode(one[None], its_labels[None].long())
                for one, its_labels in zip(form_images, form_labels, strict=True)
            ]
        z.append(torch.cat(latents).half())
        images.append((form_images * 255).round().to(torch.uint8))
        values.append(volumes_mm3(form_labels))
    field = latent_field(crops.extents, GRID, autoencoder.shape.reduction)
    return LatentData(torch.stack(z), torch.stack(images), torch.stack(values), field, crops.partner)
