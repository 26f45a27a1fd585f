"""Generates CT and MR volumes with the published MAISI networks, behind the Protocol of our own generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.errors import RequestInvalid
from domain.generation import GeneratedVolume, Guidance
from domain.model_card import ModelCard, require_series_fits
from domain.volume import Volume, to_patient_axes
from generators.cards import bundle_folder, read_card
from generators.foundation.execution import environment, require_device
from generators.foundation.layout import Layout, read_layout
from generators.foundation.networks import TRAINED_STEPS, Networks, load_networks
from generators.foundation.sampling import (
    ddpm_sample,
    ddpm_sampler,
    decode,
    flow_times,
    flow_velocity,
    predictor,
)
from generators.foundation.told import Told, conditions, from_ras, require_untold
from generators.foundation.variants import DDPM, Variant, require_grid, variant_of
from generators.results import finite, identity, memory_watched, threads_set
from generators.sampler import EULER, sample
from multimodal.conditioning import ConditioningTokens

log = structlog.get_logger()

MAX_GUIDANCE = 20.0
TILE = 48
"""Latent positions along each axis that are decoded at once; the publisher's choice for small GPUs."""


class MaisiGenerator:
    """MAISI's denoiser, autoencoder and, where there is one, ControlNet.

    References
    ----------
    Guo et al., MAISI, WACV 2025. Zhao et al., MAISI-v2, AAAI 2026. Zhang et al., Adding Conditional Control to Text-to-Image
    Diffusion Models, ICCV 2023.
    """

    def __init__(self, card: ModelCard, networks: Networks, layout: Layout, variant: Variant, *, tile: int = TILE) -> None:
        self.card = card
        self._networks, self._layout, self.variant, self._tile = networks, layout, variant, tile

    def image_latent(self, prior: Volume) -> Tensor | None:
        """Return None: these networks take no prior image."""
        return None

    def through_autoencoder(self, volume: Volume) -> Volume | None:
        """Return None: encoding is not offered, only drawing."""
        return None

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
        told: Told | None = None,
    ) -> GeneratedVolume:
        """Return one volume of the number of voxels and the spacing of `like`.

        Parameters
        ----------
        tokens : ConditioningTokens
            They may say nothing (`generators.foundation.told.untold`).
        like : Volume
            Its number of voxels and spacing in patient axes are told; nothing else of it is used.
        guidance : float
            Weight of the contrast, 1 (none) or more.
        told : Told or None
            What else the networks are told; as ``networks.json`` has it where None.

        Raises
        ------
        RequestInvalid
            If anything is told that the networks cannot be told, or guidance or steps are not ones they take.
        UnsupportedSeries
            If number of voxels, spacing or modality of `like` are not ones they take.
        NonFiniteOutput
            If the answer is NaN, infinite or the same everywhere.
        DeviceExhausted
            If the device has too little memory.
        JobError
            If `cancelled` says so between two steps or tiles.
        """
        # 1. what is asked, in the networks' terms
        require_untold(tokens, self.variant)
        weight = self._require_guidance(guidance)
        sampler = self._require_steps(sampler_steps)
        told = told or Told()
        fitting = require_grid(require_series_fits(to_patient_axes(like), self.card), self.variant)
        given = conditions(told, fitting, self._layout, self.variant)
        with threads_set(threads), memory_watched(str(self._networks.device)), torch.inference_mode():
            # 2. noise from this volume's own random stream, drawn on the CPU so that the device does not change it
            rng = torch.Generator().manual_seed(seed)
            noise = torch.randn(self._latent_shape(fitting), generator=rng)
            # 3. from noise to a latent
            predict = predictor(self._networks, given, weight)
            if self.variant.sampling == DDPM:
                z = ddpm_sample(predict, noise, sampler_steps, rng, cancelled=cancelled, progress=progress)
            else:
                times = flow_times(sampler_steps, noise.shape[2:])
                z = sample(flow_velocity(predict), noise, times, cancelled=cancelled, progress=progress)
            # 4. from the latent to the image
            image = decode(self._networks, z, self._tile, cancelled)
        array = self._intensities(from_ras(image[0, 0].numpy()), told.label_map)
        log.info("volume generated", model=self.card.name, steps=sampler_steps)
        return GeneratedVolume(
            volume=centred(array, fitting.spacing_mm, self.variant),
            label_map=told.label_map,
            model=identity(self.card),
            seed=seed,
            sampler=sampler,
            sampler_steps=sampler_steps,
            guidance=weight,
            conditioning=given.record,
            environment=environment(self._networks.device, threads),
        )

    def _latent_shape(self, like: Volume) -> tuple[int, ...]:
        reduction = self._layout.autoencoder.reduction
        return (1, self._layout.autoencoder.latent_channels, *(n // reduction for n in reversed(like.shape)))

    def _require_guidance(self, guidance: Guidance) -> float:
        highest = 1.0 if self._layout.denoiser.classes is None else MAX_GUIDANCE
        if not isinstance(guidance, Mapping) and 1 <= guidance <= highest:
            return float(guidance)
        kind = "a guidance for each modality" if isinstance(guidance, Mapping) else f"a guidance of {guidance:g}"
        span = f"one weight from 1 to {highest:g}" if highest > 1 else "1: no contrast can be told, so none can be weighed"
        raise RequestInvalid(found=kind, allowed=f"{span} ({self.variant.name})", action="ask for a guidance in it")

    def _require_steps(self, steps: int) -> str:
        """Return the sampler of this number of steps."""
        if self.variant.sampling == DDPM:
            return ddpm_sampler(steps)
        if 1 <= steps <= TRAINED_STEPS:
            return EULER
        allowed = f"1 to {TRAINED_STEPS}; {self.variant.steps} as published"
        raise RequestInvalid(found=f"{steps} sampler steps", allowed=allowed, action="ask for fewer or more")

    def _intensities(self, image: NDArray[np.float32], label_map: NDArray[np.uint8] | None) -> NDArray[np.float32]:
        """Return intensities in the variant's unit: 0 to 1 of the autoencoder stretched to its window, and clipped to it."""
        window = self.variant.intensity
        scaled = finite(image, self.card) * (window.high - window.low) + window.low
        array: NDArray[np.float32] = np.clip(scaled, window.low, self.variant.bright).astype(np.float32)
        if label_map is not None:
            array[label_map == 0] = window.low  # outside the body there is air
        return finite(array, self.card)  # again: a volume that lies wholly outside the window is constant


def load_maisi(name_or_folder: str | Path, device: str = "cpu") -> MaisiGenerator:
    """Return the generator of a folder with published MAISI checkpoints.

    Raises
    ------
    WeightsRejected
        If card, ``networks.json`` or checkpoints cannot be trusted (see `generators.foundation.layout` and `.networks`).
    ConfigurationError
        If this machine has no such device.
    """
    folder = bundle_folder(name_or_folder)
    card = read_card(folder)
    layout = read_layout(folder, card)
    require_device(device)
    return MaisiGenerator(card, load_networks(folder, layout, card, device), layout, variant_of(layout.variant))


def centred(array: NDArray[np.float32], spacing_mm: tuple[float, float, float], variant: Variant) -> Volume:
    """Return an axial volume whose centre is the origin: it has no place in any patient."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_mm)[::-1]  # slice to z, row to y, column to x
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(reversed(array.shape), reversed(spacing_mm), strict=True)]
    return Volume(array, affine, "", variant.modality, variant.intensity.unit)
