"""What lies in the folder of a foundation model beside its card: ``networks.json`` and the published checkpoints.

The card states the digest of ``networks.json``, and that states the digest of each checkpoint. Sizes are entries of ours and
only ever read; a bundle configuration that names code to run is refused. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from domain.errors import WeightsRejected
from domain.model_card import ModelCard
from generators.foundation.variants import BODY_REGIONS, DDPM, Variant, variant_of

NETWORKS_NAME = "networks.json"


@dataclass(frozen=True, slots=True)
class AutoencoderSize:
    """Size of the autoencoder; each level but the first halves the grid."""

    latent_channels: int = 4
    channels: tuple[int, ...] = (64, 128, 256)
    residual_blocks: tuple[int, ...] = (2, 2, 2)
    norm_groups: int = 32

    @property
    def reduction(self) -> int:
        """Voxels per latent position along each axis."""
        return 1 << (len(self.channels) - 1)


@dataclass(frozen=True, slots=True)
class DenoiserSize:
    """Size of the denoiser and of its ControlNet, which has the denoiser's first half.

    Attributes
    ----------
    classes : int or None
        Number of classes that the contrast is one of; None where the network has no such input.
    body_regions : bool
        Whether it is told the topmost and the lowest region of the body.
    attention_output : bool
        Whether attention ends in a linear layer.
    residual_resampling : bool
        Whether residual blocks halve and double the grid.
    control_channels : tuple of int
        Width of each level of the ControlNet's own encoder of the label map; each but the first halves the grid.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    attention: tuple[bool, ...] = (False, False, True, True)
    head_channels: tuple[int, ...] = (0, 0, 32, 32)
    residual_blocks: int = 2
    norm_groups: int = 32
    classes: int | None = 128
    body_regions: bool = False
    attention_output: bool = True
    residual_resampling: bool = True
    control_channels: tuple[int, ...] = (8, 32, 64)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published file: its name in the folder, and ``sha256:`` and its digest."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Content of ``networks.json``.

    Attributes
    ----------
    variant : str
        A key of `generators.foundation.variants.VARIANTS`.
    contrast : str
        What is made where a request does not say.
    regions : tuple of str
        Body regions where a request does not say; of ``ddpm-ct`` alone.
    autoencoder_file, denoiser_file, control_file : Checkpoint
        The last may be None: then no label map can be told.
    """

    variant: str
    contrast: str
    regions: tuple[str, ...]
    autoencoder_file: Checkpoint
    denoiser_file: Checkpoint
    control_file: Checkpoint | None = None
    autoencoder: AutoencoderSize = field(default_factory=AutoencoderSize)
    denoiser: DenoiserSize = field(default_factory=DenoiserSize)


_ADAPTER = TypeAdapter(Layout)


def published_denoiser(variant: Variant) -> DenoiserSize:
    """Return the size that the publisher's configuration states for a variant."""
    if variant.sampling == DDPM:
        return DenoiserSize(classes=None, body_regions=True, attention_output=False, residual_resampling=False)
    return DenoiserSize()


def encode_layout(layout: Layout) -> bytes:
    """Return the bytes of ``networks.json``."""
    return json.dumps(_ADAPTER.dump_python(layout, mode="json"), indent=2).encode() + b"\n"


def read_layout(folder: Path, card: ModelCard) -> Layout:
    """Return what ``networks.json`` says, if it is the one that the card states the digest of.

    Raises
    ------
    WeightsRejected
        If it is missing, has another digest, holds more or less than `Layout`, or anything that code could be run from.
    """
    try:
        content = (folder / NETWORKS_NAME).read_bytes()
    except OSError as error:
        raise _rejected(card, f"no {NETWORKS_NAME} beside the card") from error
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != card.weights_digest:
        raise _rejected(card, f"a {NETWORKS_NAME} whose digest is not the one in the card")
    try:
        entries = json.loads(content)
        _require_data_only(entries, card)
        layout = _ADAPTER.validate_python(entries, strict=False)
    except (ValidationError, ValueError, RecursionError) as error:
        raise _rejected(card, f"a {NETWORKS_NAME} that cannot be read") from error
    if json.loads(encode_layout(layout)) != entries:
        raise _rejected(card, f"a {NETWORKS_NAME} with unknown or missing entries")
    return _consistent(layout, card)


def _consistent(layout: Layout, card: ModelCard) -> Layout:
    variant = variant_of(layout.variant)
    for file in (layout.autoencoder_file, layout.denoiser_file, layout.control_file):
        if file is not None and (Path(file.name).name != file.name or not file.digest.startswith("sha256:")):
            raise _rejected(card, "a checkpoint that is not named by a plain file name and its sha256 digest")
    if layout.contrast not in dict(variant.contrasts) or not set(layout.regions) <= set(BODY_REGIONS):
        raise _rejected(card, f"a contrast or body region that {variant.name} does not know")
    if layout.control_file is not None and not variant.takes_mask:
        raise _rejected(card, f"a ControlNet, which {variant.name} was not published with")
    if layout.denoiser.body_regions != variant.takes_regions or (layout.denoiser.classes is None) != (variant.sampling == DDPM):
        raise _rejected(card, f"sizes that are not those of {variant.name}")
    return layout


def _require_data_only(entries: Any, card: ModelCard) -> None:
    """Refuse what a bundle's parser would execute: ``_target_`` and its like, ``$expression``, ``@reference``, ``%macro``."""
    for text, is_key in _texts(entries):
        if text.startswith(("$", "@", "%")) or (is_key and text.startswith("_")):
            raise WeightsRejected(
                found=f"{text[:40]!r} in {NETWORKS_NAME} of {card.name}: bundle configuration that names code to run",
                allowed="plain sizes, file names and digests",
                action=f"write {NETWORKS_NAME} as docs/foundation.md says; the publisher's configuration is not needed",
            )


def _texts(entries: Any) -> Iterator[tuple[str, bool]]:
    """Yield every text, and whether it is the name of an entry."""
    if isinstance(entries, str):
        yield entries, False
    elif isinstance(entries, dict):
        for name, value in entries.items():
            yield name, True
            yield from _texts(value)
    elif isinstance(entries, list):
        for value in entries:
            yield from _texts(value)


def _rejected(card: ModelCard, found: str) -> WeightsRejected:
    return WeightsRejected(
        found=f"{found} ({card.name} {card.version})",
        allowed=f"{NETWORKS_NAME} with digest {card.weights_digest} and exactly its entries",
        action="adopt the checkpoints again (docs/foundation.md)",
    )
