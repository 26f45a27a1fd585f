"""MAISI's networks, built by MONAI's classes at sizes of ours, with published weights in them.

A checkpoint is hashed before it is unpickled, unpickled as tensors only, and has to hold exactly the tensors of its network.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

from domain.errors import WeightsRejected
from domain.model_card import ModelCard
from generators.foundation.layout import AutoencoderSize, Checkpoint, DenoiserSize, Layout

log = structlog.get_logger()

LABEL_BITS = 8
"""A label of the mask is told to the ControlNet as the bits of its number."""

TRAINED_STEPS = 1000


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of one model on their device.

    Attributes
    ----------
    latent_scale : float
        The denoiser sees latents multiplied by this.
    """

    autoencoder: nn.Module
    denoiser: nn.Module
    control: nn.Module | None
    latent_scale: float
    device: torch.device


def load_networks(folder: Path, layout: Layout, card: ModelCard, device: str) -> Networks:
    """Return the networks with the weights of the folder's checkpoints.

    Raises
    ------
    WeightsRejected
        If a file is missing or has another digest, holds anything but tensors and plain values, or tensors of other names or
        shapes than the network.
    """
    on = torch.device(device)
    size, flash = layout.denoiser, on.type == "cuda"
    states = _read(folder, layout.autoencoder_file, card)
    autoencoder = _filled(
        lambda: autoencoder_of(layout.autoencoder, half_norms=flash), states.get("unet_state_dict", states), card, "autoencoder"
    )
    checkpoint = _read(folder, layout.denoiser_file, card)
    channels = layout.autoencoder.latent_channels
    denoiser = _filled(
        lambda: denoiser_of(size, channels, flash=flash),
        checkpoint.get("unet_state_dict"),
        card,
        "denoiser",
        spare=_spare_names(lambda wide: denoiser_of(wide, channels), size),
    )
    control = None
    if layout.control_file is not None:
        control = _filled(
            lambda: control_of(size, channels, flash=flash),
            _read(folder, layout.control_file, card).get("controlnet_state_dict"),
            card,
            "ControlNet",
            spare=_spare_names(lambda wide: control_of(wide, channels), size),
        )
    scale = _latent_scale(checkpoint, card)
    log.info("weights loaded", model=card.name, version=card.version)
    parts = [part if part is None else part.to(on).eval().requires_grad_(False) for part in (autoencoder, denoiser, control)]
    return Networks(parts[0], parts[1], parts[2], scale, on)  # type: ignore[arg-type]


def autoencoder_of(size: AutoencoderSize, *, half_norms: bool = False) -> nn.Module:
    """Return the autoencoder; whole convolutions (we tile instead), norms in half precision where asked."""
    network: nn.Module = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=size.latent_channels,
        num_channels=size.channels,
        num_res_blocks=size.residual_blocks,
        norm_num_groups=size.norm_groups,
        attention_levels=(False,) * len(size.channels),
        num_splits=1,
        norm_float16=half_norms,
        save_mem=False,
    )
    return network


def denoiser_of(size: DenoiserSize, latent_channels: int, *, flash: bool = False) -> nn.Module:
    """Return the denoiser."""
    network: nn.Module = DiffusionModelUNetMaisi(
        **_shared(size, latent_channels, flash=flash),
        out_channels=latent_channels,
        include_top_region_index_input=size.body_regions,
        include_bottom_region_index_input=size.body_regions,
        include_spacing_input=True,
    )
    return network


def control_of(size: DenoiserSize, latent_channels: int, *, flash: bool = False) -> nn.Module:
    """Return the ControlNet."""
    network: nn.Module = ControlNetMaisi(
        **_shared(size, latent_channels, flash=flash),
        conditioning_embedding_in_channels=LABEL_BITS,
        conditioning_embedding_num_channels=size.control_channels,
        use_checkpointing=False,
    )
    return network


def _shared(size: DenoiserSize, latent_channels: int, *, flash: bool) -> dict[str, Any]:
    return {
        "spatial_dims": 3,
        "in_channels": latent_channels,
        "num_channels": size.channels,
        "attention_levels": size.attention,
        "num_head_channels": size.head_channels,
        "num_res_blocks": size.residual_blocks,
        "norm_num_groups": size.norm_groups,
        "num_class_embeds": size.classes,
        "resblock_updown": size.residual_resampling,
        "include_fc": size.attention_output,
        "use_flash_attention": flash,  # MONAI refuses it without a GPU; the weights are the same
    }


def _spare_names(build: Callable[[DenoiserSize], nn.Module], size: DenoiserSize) -> frozenset[str]:
    """Return names that a checkpoint may hold beyond the network's.

    The networks of ``ddpm-ct`` were trained by code that made an output layer for attention and never called it. Its published
    checkpoints still hold these layers; using them would change the images, so they are left out, by name.
    """
    if size.attention_output:
        return frozenset()
    with torch.device("meta"):
        return frozenset(build(replace(size, attention_output=True)).state_dict()) - frozenset(build(size).state_dict())


def _read(folder: Path, file: Checkpoint, card: ModelCard) -> Mapping[str, Any]:
    """Return a checkpoint: hashed and unpickled through one handle, so that no other file can take its place in between."""
    try:
        with (folder / file.name).open("rb") as opened:
            if f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}" != file.digest:
                raise _rejected(card, f"{file.name}, whose digest is not the one in networks.json")
            opened.seek(0)
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise _rejected(card, f"no {file.name} beside the card") from error
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _rejected(card, f"{file.name}, which cannot be read as tensors and plain values alone") from error
    if not isinstance(content, Mapping):
        raise _rejected(card, f"{file.name}, which holds no tensors by name")
    return content


def _filled(
    build: Callable[[], nn.Module], state: Any, card: ModelCard, part: str, *, spare: Collection[str] = ()
) -> nn.Module:
    """Return the network with exactly these tensors in it; it is built without memory of its own first."""
    with torch.device("meta"):
        network = build()
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise _rejected(card, f"a checkpoint without the tensors of the {part}")
    kept = {name: tensor for name, tensor in state.items() if name not in spare}
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    missing, unknown = wanted.keys() - kept.keys(), kept.keys() - wanted.keys()
    misshapen = {name for name in wanted.keys() & kept.keys() if kept[name].shape != wanted[name]}
    if missing or unknown or misshapen:
        first = min(missing | unknown | misshapen)
        counts = f"{len(missing)} missing, {len(unknown)} unknown, {len(misshapen)} of another shape"
        raise _rejected(card, f"tensors that are not those of the {part}: {counts}, such as {first[:80]!r}")
    plain = {name: tensor.as_subclass(Tensor).float() for name, tensor in kept.items()}
    network.load_state_dict(plain, strict=True, assign=True)
    return network


def _latent_scale(checkpoint: Mapping[str, Any], card: ModelCard) -> float:
    try:
        scale = float(checkpoint["scale_factor"])
        steps = int(checkpoint.get("num_train_timesteps", TRAINED_STEPS))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _rejected(card, "a denoiser checkpoint without a scale_factor") from error
    if not 0 < scale < float("inf") or steps != TRAINED_STEPS:
        raise _rejected(card, f"a scale_factor of {scale:g} and {steps} trained steps")
    return scale


def _rejected(card: ModelCard, found: str) -> WeightsRejected:
    return WeightsRejected(
        found=f"{found} ({card.name} {card.version})",
        allowed="the published checkpoints of the variant that networks.json names, each with its digest",
        action="download the file again, compare its digest with the publisher's, and adopt it again (docs/foundation.md)",
    )
