"""A received image as the image autoencoder sees it: what every family of ours is told of a prior image."""

from __future__ import annotations

import torch
from torch import Tensor

from domain.grid import Shape, cut, normalised, placed
from domain.model_card import ModelCard, require_series_fits
from domain.volume import Volume, to_patient_axes
from generators.autoencoder import Autoencoder
from generators.results import as_volume


def encoded(autoencoder: Autoencoder, image: Volume, card: ModelCard, grid: Shape) -> Tensor:
    """Return the standardised latent of an image, (C, d, h, w), on the CPU.

    Raises
    ------
    UnsupportedSeries
        If the image is not one that the model was trained to take.
    """
    fitting = require_series_fits(to_patient_axes(image), card)
    voxels = torch.from_numpy(placed(normalised(fitting.array), grid))[None, None]
    device = autoencoder.latent_mean.device
    with torch.inference_mode():
        return autoencoder.encode(voxels.to(device))[0].cpu()


def reconstructed(autoencoder: Autoencoder, image: Volume, card: ModelCard, grid: Shape) -> Volume:
    """Return an image, on its own grid and 0 to 1, after encoding and decoding: what the autoencoder keeps of it."""
    shape = to_patient_axes(image).shape
    z = encoded(autoencoder, image, card, grid)[None]
    with torch.inference_mode():
        voxels = autoencoder.decode(z.to(autoencoder.latent_mean.device)).clamp(0, 1)[0, 0].cpu().numpy()
    return as_volume(cut(voxels, shape), card.limits.voxel_mm, card.limits.modality)
