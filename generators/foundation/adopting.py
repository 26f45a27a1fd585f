"""Makes a model of published checkpoints that somebody has downloaded: writes ``networks.json`` and the card beside them.

No torch here: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from domain.errors import WeightsRejected
from domain.model_card import ModelCard, OutputReference, ValueRange
from generators.cards import write_card
from generators.foundation.layout import NETWORKS_NAME, Checkpoint, Layout, encode_layout, published_denoiser
from generators.foundation.variants import Variant, limits_of, may_be_told, sizes_of, variant_of

CARD_VERSION = "published"


def adopt(
    folder: Path,
    variant_name: str,
    *,
    autoencoder: Checkpoint,
    denoiser: Checkpoint,
    control: Checkpoint | None = None,
    licence: str,
    contrast: str,
    regions: tuple[str, ...] = (),
) -> ModelCard:
    """Write ``networks.json`` and ``card.json`` for checkpoints in `folder`, at the published sizes.

    Parameters
    ----------
    autoencoder, denoiser, control : Checkpoint
        File names, with the digests that the publisher states; the files have to have them already.
    licence : str
        Under which you use the weights; read it first.
    contrast, regions : str, tuple of str
        What is made where a request does not say.

    Raises
    ------
    WeightsRejected
        If a file is missing or has another digest, no licence is named, or the variant is unknown.
    """
    variant = variant_of(variant_name)
    _require_files(folder, {"autoencoder": autoencoder, "denoiser": denoiser, "ControlNet": control})
    if not licence.strip():
        raise _rejected("no licence", f"the publisher's; of {variant.name}: {variant.licence}", "read it and name it")
    layout = Layout(variant.name, contrast, regions, autoencoder, denoiser, control, denoiser=published_denoiser(variant))
    return write_folder(folder, layout, card_of(variant, licence))


def write_folder(folder: Path, layout: Layout, card: ModelCard) -> ModelCard:
    """Write ``networks.json``, and the card with its digest; a reader finds each whole, or the one before."""
    content = encode_layout(layout)
    partial = folder / f"{NETWORKS_NAME}.partial"
    partial.write_bytes(content)
    partial.replace(folder / NETWORKS_NAME)
    card = replace(card, weights_digest=f"sha256:{hashlib.sha256(content).hexdigest()}")
    write_card(card, folder)
    return card


def card_of(variant: Variant, licence: str) -> ModelCard:
    """Return the card of a variant: what its publisher says of it. Nothing of it was measured by us, and it says so."""
    window = ValueRange(variant.intensity.low, variant.bright, variant.intensity.unit)
    span = ValueRange(0, variant.bright - variant.intensity.low, variant.intensity.unit)
    return ModelCard(
        name=f"maisi-{variant.name}",
        version=CARD_VERSION,
        family="maisi",
        summary=f"{variant.modality} volumes drawn by NVIDIA's published MAISI networks ({variant.name}).",
        intended_use="Research: synthetic volumes for building and testing imaging software.",
        out_of_scope="Diagnosis, treatment, or any statement about a person. The networks know nothing of age, sex or disease.",
        licence=licence,
        attribution="NVIDIA; Guo et al., MAISI, WACV 2025; Zhao et al., MAISI-v2, AAAI 2026.",
        data_sources=(f"as the publisher lists them: {variant.repository}",),
        weights_digest="",
        limits=limits_of(variant),
        concepts=(),
        reference=OutputReference(window, window, span, span, ValueRange(-1, 1, "1"), 0.0, ()),
        measured=(),
        training=(
            ("default guidance", variant.guidance),
            ("default sampler steps", variant.steps),
            ("may be told", may_be_told(variant)),
            ("slices, rows and columns", sizes_of(variant)),
            ("accepted mean, spread and sharpness", "all that the intensity window allows: no real volumes were measured"),
        ),
        known_failures=("Not evaluated here: no figure of these weights was measured by us.",),
    )


def _require_files(folder: Path, files: Mapping[str, Checkpoint | None]) -> None:
    for part, file in files.items():
        if file is None:
            continue
        path = folder / file.name
        if not path.is_file():
            raise _rejected(f"no file {file.name} for the {part}", "a file in the folder", "download it first")
        with path.open("rb") as opened:
            found = f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"
        if found != file.digest:
            raise _rejected(f"{file.name} with another digest than the one given", file.digest, "download it again")


def _rejected(found: str, allowed: str, action: str) -> WeightsRejected:
    return WeightsRejected(found=found, allowed=allowed, action=action)
