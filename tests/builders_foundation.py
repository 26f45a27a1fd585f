"""Tiny MAISI networks of random weights, saved as the publisher saves the real ones, and series that they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from domain.volume import Volume
from generators.foundation.adopting import card_of, write_folder
from generators.foundation.layout import AutoencoderSize, Checkpoint, DenoiserSize, Layout
from generators.foundation.variants import VARIANTS, Variant

AUTOENCODER, DENOISER, CONTROL = "autoencoder_v1.pt", "diff_unet_3d.pt", "controlnet_3d.pt"
LATENT_SCALE = 0.97


def tiny_layout(variant: Variant, **changes: Any) -> Layout:
    """Return the layout of a variant with networks that run in milliseconds."""
    is_ddpm = variant.takes_regions
    denoiser = DenoiserSize(
        channels=(8, 8),
        attention=(False, True),
        head_channels=(0, 8),
        residual_blocks=1,
        norm_groups=4,
        classes=None if is_ddpm else 34,
        body_regions=is_ddpm,
        attention_output=not is_ddpm,
        residual_resampling=not is_ddpm,
        control_channels=(4, 4, 8),
    )
    entries: dict[str, Any] = {
        "variant": variant.name,
        "contrast": variant.contrasts[0][0],
        "regions": (),
        "autoencoder_file": Checkpoint(AUTOENCODER, "sha256:0"),
        "denoiser_file": Checkpoint(DENOISER, "sha256:0"),
        "control_file": Checkpoint(CONTROL, "sha256:0") if variant.takes_mask else None,
        "autoencoder": AutoencoderSize(2, (4, 4, 4), (1, 1, 1), 2),
        "denoiser": denoiser,
    }
    return Layout(**{**entries, **changes})


def write_tiny_maisi(folder: Path, name: str = "rflow-mr", **changes: Any) -> Path:
    """Write checkpoints, ``networks.json`` and card of a tiny model, and return the folder."""
    variant = VARIANTS[name]
    layout = tiny_layout(variant, **changes)
    contents = checkpoints(layout)
    for file, content in contents.items():
        save(folder, file, content)
    return seal(folder, layout, variant)


def seal(folder: Path, layout: Layout, variant: Variant) -> Path:
    """Write ``networks.json`` and the card with the digests of the files as they are now."""
    from generators.weights import file_digest

    def sealed(file: Checkpoint | None) -> Checkpoint | None:
        return None if file is None else replace(file, digest=file_digest(folder / file.name))

    layout = replace(
        layout,
        autoencoder_file=sealed(layout.autoencoder_file),
        denoiser_file=sealed(layout.denoiser_file),
        control_file=sealed(layout.control_file),
    )
    write_folder(folder, layout, card_of(variant, "CC0-1.0 (random weights)"))
    return folder


def checkpoints(layout: Layout) -> dict[str, Any]:
    """Return the content of each file as the publisher's training scripts leave it.

    The latent scale is MONAI's kind of tensor, as it comes from their data loader; ``ddpm-ct`` has attention layers to spare.
    """
    import torch
    from monai.data import MetaTensor

    from generators.foundation.networks import autoencoder_of, control_of, denoiser_of

    with torch.random.fork_rng():
        torch.manual_seed(7)
        whole = replace(layout.denoiser, attention_output=True)
        channels = layout.autoencoder.latent_channels
        networks = [autoencoder_of(layout.autoencoder), denoiser_of(whole, channels), control_of(whole, channels)]
        for network in networks:
            for weights in network.parameters():  # MONAI starts last layers at zero: then nothing would reach the output
                torch.nn.init.normal_(weights, std=0.15)
        torch.nn.init.constant_(networks[0].decoder.blocks[-1].conv.conv.bias, 0.5)  # type: ignore[union-attr, arg-type]
    autoencoder, denoiser, control = (network.state_dict() for network in networks)
    scale = MetaTensor(torch.tensor(LATENT_SCALE))
    return {
        AUTOENCODER: autoencoder,
        DENOISER: {"epoch": 9, "loss": 0.5, "num_train_timesteps": 1000, "scale_factor": scale, "unet_state_dict": denoiser},
        CONTROL: {"epoch": 9, "loss": torch.tensor(0.5), "controlnet_state_dict": control},
    }


def save(folder: Path, name: str, content: Any) -> None:
    """Save a checkpoint."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)


def series(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], modality: str = "MR") -> Volume:
    """Return a volume in patient axes, (slice, row, column)."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_mm)[::-1]
    return Volume(np.zeros(shape, np.float32), affine, "", modality)
