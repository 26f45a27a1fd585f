"""Latents of bent cases, made once: the denoisers then train on them without running the autoencoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from generators.augmentation import bent
from generators.autoencoder import Autoencoder, one_hot
from generators.training_set import Known, TrainingSet

_CHUNK = 8


@dataclass(frozen=True, eq=False)
class Draw:
    """A training batch: latents, label maps and what is known."""

    label_z: Tensor  # (B, C, D/r, H/r, W/r)
    image_z: Tensor  # (B, C, D/r, H/r, W/r); no channels where the model makes no image
    labels: Tensor  # (B, D, H, W)
    extents: Tensor  # (B, 3)
    known: Known


@dataclass(frozen=True, eq=False)
class LatentData:
    """N cases in V variants each; variant 0 is the case as it is.

    Attributes
    ----------
    label_z, image_z : tensor, (N, V, C, D/r, H/r, W/r), float16
        Standardised latents; the image's have no channels where there is no image.
    labels : tensor, (N, V, D, H, W), uint8
        Hints for the image; empty where the model makes none.
    numbers : tensor, (N, V, K), float32
        Not standardised; NaN where unknown.
    answers : tensor, (N, K), int64
    extents : tensor, (N, 3), int64
    partner : tensor, (N,), int64
    """

    label_z: Tensor
    image_z: Tensor
    labels: Tensor
    numbers: Tensor
    answers: Tensor
    extents: Tensor
    partner: Tensor

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each number, (K,); 0 and 1 where a column holds none."""
        values = self.numbers.flatten(0, 1)
        there = ~values.isnan()
        count = there.sum(0).clamp_min(1)
        mean = values.nan_to_num(0).sum(0) / count
        spread = ((values - mean).nan_to_num(0).square().sum(0) / count).sqrt()
        return mean, torch.where(spread > 0, spread, torch.ones_like(spread))

    def draw(self, count: int, scale: tuple[Tensor, Tensor], rng: torch.Generator) -> Draw:
        """Return a random batch. The prior image is bent on its own: its size says less than the numbers do."""
        cases, variants = self.labels.shape[:2]
        index = torch.randint(cases, (count,), generator=rng)
        variant, prior_variant = torch.randint(variants, (2, count), generator=rng)
        partner = self.partner[index]
        mean, deviation = scale
        known = Known(
            numbers=(self.numbers[index, variant] - mean) / deviation,
            answers=self.answers[index],
            prior=self.image_z[partner.clamp_min(0), prior_variant].float(),
            prior_there=partner >= 0,
        )
        return Draw(
            label_z=self.label_z[index, variant].float(),
            image_z=self.image_z[index, variant].float(),
            labels=self.labels[index, variant],
            extents=self.extents[index],
            known=known,
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


def standardise_latents(autoencoder: Autoencoder, voxels: Iterator[Tensor]) -> None:
    """Give the autoencoder the mean and scale of its latents over these voxels, (1, V, D, H, W) each, per channel.

    References
    ----------
    Rombach et al., CVPR 2022, supplement G: latents are scaled by their measured deviation.
    """
    with torch.no_grad():
        means = torch.cat([autoencoder.posterior(one)[0] for one in voxels])
    latents = means.movedim(1, 0).flatten(1)  # (C, everything else)
    autoencoder.standardise(latents.mean(1), latents.std(1))


def latents_of(labels: Autoencoder, image: Autoencoder | None, cases: TrainingSet, *, variants: int, seed: int) -> LatentData:
    """Return the latents of each case as it is and in `variants` - 1 bent forms."""
    rng = torch.Generator().manual_seed(seed)
    rows: dict[str, list[Tensor]] = {"label_z": [], "image_z": [], "labels": [], "numbers": []}
    for index in range(len(cases)):
        form_images, form_labels = forms_of(cases, index, variants, rng)
        label_z = in_chunks(labels, one_hot(form_labels, labels.shape.voxel_channels))
        image_z = in_chunks(image, form_images) if image is not None and form_images is not None else label_z[:, :0]
        numbers = cases.facts.numbers[index].expand(variants, -1)
        rows["label_z"].append(label_z)
        rows["image_z"].append(image_z)
        rows["labels"].append(form_labels if image is not None else form_labels[:, :0])
        rows["numbers"].append(cases.measured(form_labels) if cases.measured else numbers)
    made = {name: torch.stack(parts) for name, parts in rows.items()}
    return LatentData(**made, answers=cases.facts.answers, extents=cases.extents, partner=cases.partner)


def forms_of(cases: TrainingSet, index: int, variants: int, rng: torch.Generator) -> tuple[Tensor | None, Tensor]:
    """Return images (V, 1, D, H, W), or None, and labels (V, D, H, W) of a case: as it is, then bent."""
    labels, extent = cases.labels[index], cases.extents[index]
    image = cases.images[index] if cases.images is not None else torch.zeros(0, *labels.shape)
    forms = [(image, labels)] + [bent(image, labels, extent, rng) for _ in range(variants - 1)]
    form_images, form_labels = (torch.stack(part) for part in zip(*forms, strict=True))
    return (form_images if cases.images is not None else None), form_labels


def in_chunks(autoencoder: Autoencoder, voxels: Tensor) -> Tensor:
    """Return the latents, (N, C, D/r, H/r, W/r), float16, of voxels (N, V, D, H, W)."""
    with torch.no_grad():
        return torch.cat([autoencoder.encode(part) for part in torch.split(voxels, _CHUNK)]).half()
