"""Generates a label map, and the image that goes with it: noise, denoising under guidance, decoding; first labels, then image.

The label map comes first, so that a requested volume can be met exactly and the image follows a map that is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from domain.generation import GeneratedVolume, Guidance
from domain.grid import Shape, cut, placed
from domain.model_card import ModelCard, require_series_fits
from domain.volume import Volume, to_patient_axes
from generators.autoencoder import Autoencoder, AutoencoderShape
from generators.denoiser import Denoiser, DenoiserShape, label_hint, latent_field
from generators.label_levels import labels_at_levels, wanted_voxels
from generators.noise import sampler_times
from generators.prior_image import encoded, reconstructed
from generators.results import as_volume, environment, finite, identity, memory_watched, threads_set
from generators.sampler import MULTISTEP, Term, guidance_terms, guided_velocity, sample
from generators.sampling_limits import on_grid, require_sampling
from generators.size_prior import SIZE_PRIOR, SizePrior, SizePriorShape, size_hint
from generators.weights import Bundle, built
from multimodal.conditioning import MODALITIES, NULL, ConditioningTokens

log = structlog.get_logger()


@dataclass(frozen=True, eq=False)
class LatentStage:
    """An autoencoder and the denoiser of its latents."""

    autoencoder: Autoencoder
    denoiser: Denoiser


class LatentDiffusionGenerator:
    """Latent diffusion of label maps, and of images given a label map.

    References
    ----------
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
    """

    def __init__(
        self,
        card: ModelCard,
        labels: LatentStage,
        image: LatentStage | None,
        sizes: SizePrior | None = None,
        *,
        grid: Shape,
        device: str = "cpu",
    ) -> None:
        self.card, self._sizes = card, sizes
        self._labels, self._image = labels, image
        self._grid, self._device = grid, device

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> LatentDiffusionGenerator:
        """Return the generator of a bundle, on `device`.

        Raises
        ------
        WeightsRejected
            If the weights are not those of the networks.
        """
        image = _stage(bundle, "image", device) if "image_denoiser" in bundle.sizes else None
        sizes = None
        if SIZE_PRIOR in bundle.sizes:
            sizes = built(bundle, SIZE_PRIOR, lambda shape: SizePrior(SizePriorShape(**shape)), device)
        return cls(bundle.card, _stage(bundle, "label", device), image, sizes, grid=bundle.grid, device=device)

    def image_latent(self, prior: Volume) -> Tensor | None:
        """Return the standardised latent of a received image, (C, d, h, w), on the CPU; None if the model takes no prior image.

        Raises
        ------
        UnsupportedSeries
            If the image is not one that the model was trained to take.
        """
        return encoded(self._image.autoencoder, prior, self.card, self._grid) if self._image else None

    def through_autoencoder(self, volume: Volume) -> Volume | None:
        """Return an image of intensities 0 to 1 after encoding and decoding; None if the model makes no image."""
        return reconstructed(self._image.autoencoder, volume, self.card, self._grid) if self._image else None

    def generate(
        self,
        tokens: ConditioningTokens,
        *,
        like: Volume,
        seed: int,
        guidance: Guidance,
        sampler_steps: int,
        threads: int = 2,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> GeneratedVolume:
        """Return one volume; the same arguments on the same build, CPU kind and thread count give the same bits.

        Parameters
        ----------
        tokens : ConditioningTokens
            A batch of one.
        like : Volume
            The answer has the number of voxels of this volume in patient axes; nothing else of it is used.
        seed : int
            Of the one random stream of this volume.
        guidance : float or mapping of str to float
            Weight of classifier-free guidance, 1 or more; a mapping has one for each modality
            (`multimodal.conditioning.MODALITIES`), 1 where it names none.

        Raises
        ------
        RequestInvalid
            If guidance, steps or the batch are not ones that the sampler takes.
        UnsupportedSeries
            If `like` does not fit the model, or has more voxels than its grid.
        NonFiniteOutput
            If the networks return NaN or infinity, or the same value everywhere.
        DeviceExhausted
            If the device has too little memory.
        JobError
            If `cancelled` says so between two steps.
        """
        require_sampling(tokens, guidance, sampler_steps)
        shape = on_grid(require_series_fits(to_patient_axes(like), self.card).shape, self._grid)
        told = tuple(name for name in MODALITIES if _is_told(tokens, name))
        run = _Run(tokens, guidance_terms(told, guidance), sampler_steps, torch.Generator().manual_seed(seed), cancelled)
        with threads_set(threads), memory_watched(self._device), torch.inference_mode():
            # 1. the size of each label: as requested, or drawn by a model that draws it
            wanted = wanted_voxels(tokens.record.targets, self.card.reference.labels, self.card.limits.voxel_mm**3)
            sizes = self._drawn_sizes(wanted, run)
            # 2. noise to the logits of the label map
            logits = self._decoded(self._labels, run, shape, self._size_hint(sizes, shape), progress)
            # 3. the level of each label at which it has that size
            labels = labels_at_levels(_cut(logits.double().cpu(), shape), sizes | wanted).to(torch.uint8).numpy()
            # 4. noise to the image that goes with the label map
            image = labels.astype(np.float32)
            if self._image is not None:
                whole = torch.from_numpy(placed(labels, self._grid, outside=0))[None]
                hint = label_hint(whole, len(self.card.reference.labels), self._image.autoencoder.shape.reduction)
                decoded = self._decoded(self._image, run, shape, hint, progress)
                image = _cut(decoded, shape)[0].clamp(0, 1).float().cpu().numpy()
        log.info("volume generated", model=self.card.name, steps=sampler_steps)
        return GeneratedVolume(
            volume=as_volume(finite(image, self.card), self.card.limits.voxel_mm, self.card.limits.modality),
            label_map=np.ascontiguousarray(labels),
            model=identity(self.card),
            seed=seed,
            sampler=MULTISTEP,
            sampler_steps=sampler_steps,
            guidance=guidance,
            conditioning=tokens.record,
            environment=environment(self._device, threads),
        )

    def _drawn_sizes(self, wanted: Mapping[tuple[int, ...], int], run: _Run) -> dict[tuple[int, ...], int]:
        """Return the voxels of each label on its own, as wanted or drawn; nothing of a model that draws no sizes."""
        if self._sizes is None:
            return {}
        tokens = run.tokens_on(self._device)
        drawn = self._sizes.draw(tokens.tokens, tokens.mask, run.rng)
        return {(label,): wanted.get((label,), voxels) for label, voxels in enumerate(drawn, start=1)}

    def _size_hint(self, sizes: Mapping[tuple[int, ...], int], shape: Shape) -> Tensor | None:
        if not sizes:
            return None
        field = latent_field(torch.tensor([shape]), self._grid, self._labels.autoencoder.shape.reduction)
        return size_hint(torch.tensor([list(sizes.values())], dtype=torch.float32), field)

    def _decoded(
        self, stage: LatentStage, run: _Run, shape: Shape, hint: Tensor | None, progress: Callable[[int, int], None]
    ) -> Tensor:
        """Return what a stage makes of noise on the whole grid, (V, D, H, W); `hint` comes beside the field of the volume."""
        of = stage.autoencoder.shape
        field = latent_field(torch.tensor([shape]), self._grid, of.reduction)
        hint = field if hint is None else torch.cat([field, hint], dim=1)
        # Drawn on the CPU, from this volume's own random stream, so that the device does not change it.
        noise = torch.randn(1, of.latent_channels, *(n // of.reduction for n in self._grid), generator=run.rng)
        velocity = guided_velocity(stage.denoiser, run.tokens_on(self._device), hint.to(self._device), run.terms)
        times = sampler_times(run.steps)
        z = sample(velocity, noise.to(self._device), times, multistep=True, cancelled=run.cancelled, progress=progress)
        return stage.autoencoder.decode(z)[0]


@dataclass(frozen=True, eq=False)
class _Run:
    """What both stages of one volume share."""

    tokens: ConditioningTokens
    terms: tuple[Term, ...]
    steps: int
    rng: torch.Generator
    cancelled: Callable[[], bool]

    def tokens_on(self, device: str) -> ConditioningTokens:
        return replace(self.tokens, tokens=self.tokens.tokens.to(device), mask=self.tokens.mask.to(device))


def _stage(bundle: Bundle, name: str, device: str) -> LatentStage:
    def autoencoder(sizes: dict[str, Any]) -> Autoencoder:
        return Autoencoder(AutoencoderShape(**sizes))

    def denoiser(sizes: dict[str, Any]) -> Denoiser:
        return Denoiser(DenoiserShape(**sizes))

    return LatentStage(
        built(bundle, f"{name}_autoencoder", autoencoder, device), built(bundle, f"{name}_denoiser", denoiser, device)
    )


def _is_told(tokens: ConditioningTokens, modality: str) -> bool:
    present = tokens.mask[0].tolist()
    parts = zip(tokens.kinds, tokens.modalities, present, strict=True)
    return any(there and whose == modality and not kind.startswith(NULL) for kind, whose, there in parts)


def _cut(voxels: Tensor, shape: Shape) -> Tensor:
    """Return the centred part of (V, D, H, W), the rule of `domain.grid.cut`."""
    return torch.from_numpy(np.stack([cut(one.cpu().numpy(), shape) for one in voxels]))
