"""Weights on disk: read strictly, and only if their digest is the one that the card states.

One safetensors file holds the autoencoder, the denoiser and the token encoder; its header holds their sizes. Matrices are kept
in half precision, which measured the same, and vectors (biases, norms, statistics) in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from domain.errors import WeightsRejected
from domain.grid import Shape
from domain.model_card import ModelCard
from generators.autoencoder import Autoencoder, AutoencoderShape
from generators.cards import WEIGHTS_NAME, bundle_folder, read_card
from generators.denoiser import Denoiser, DenoiserShape

log = structlog.get_logger()

_PARTS = ("autoencoder", "denoiser", "encoder")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model as it was read from disk.

    Attributes
    ----------
    grid : tuple of int
        Shape on which the networks work, 1 mm voxels.
    encoder_state : mapping of str to tensor
        Weights of the token encoder, for the encoder to load: generators do not know its class.
    """

    card: ModelCard
    grid: Shape
    autoencoder: Autoencoder
    denoiser: Denoiser
    encoder_state: dict[str, Tensor]


def load_bundle(name_or_folder: str | Path, device: str = "cpu") -> Bundle:
    """Return a model by the name of an installed bundle, or by its folder.

    Raises
    ------
    WeightsRejected
        If card or weights are missing, the card names no licence, the file's digest is not the card's, or names or shapes of
        the tensors are not exactly those of the networks.
    """
    folder = bundle_folder(name_or_folder)
    card = read_card(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise _rejected(card, "no weights beside the card")
    if file_digest(path) != card.weights_digest:
        raise _rejected(card, "weights whose digest is not the one in the card")
    states, sizes = _read(path, card)
    try:
        autoencoder = Autoencoder(AutoencoderShape(**_tuples(sizes["autoencoder"])))
        denoiser = Denoiser(DenoiserShape(**_tuples(sizes["denoiser"])))
        autoencoder.load_state_dict(states["autoencoder"], strict=True)
        denoiser.load_state_dict(states["denoiser"], strict=True)
        slices, rows, columns = sizes["grid"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _rejected(card, "weights whose names or shapes are not those of the networks") from error
    log.info("weights loaded", model=card.name, version=card.version)
    return Bundle(
        card=card,
        grid=(slices, rows, columns),
        autoencoder=autoencoder.to(device).eval().requires_grad_(requires_grad=False),
        denoiser=denoiser.to(device).eval().requires_grad_(requires_grad=False),
        encoder_state=states["encoder"],
    )


def save_weights(folder: Path, *, grid: Shape, autoencoder: Autoencoder, denoiser: Denoiser, encoder: nn.Module) -> str:
    """Write the weights of a bundle and return their digest; a reader finds the whole file or the one before."""
    parts: dict[str, nn.Module] = {"autoencoder": autoencoder, "denoiser": denoiser, "encoder": encoder}
    tensors = {
        f"{part}.{name}": _stored(tensor) for part, network in parts.items() for name, tensor in network.state_dict().items()
    }
    sizes = {"grid": grid, "autoencoder": asdict(autoencoder.shape), "denoiser": asdict(denoiser.shape)}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file(tensors, partial, metadata={"sizes": json.dumps(sizes, sort_keys=True)})
    partial.chmod(0o644)  # safetensors writes for the owner alone; a wheel would carry that to every installation
    partial.replace(folder / WEIGHTS_NAME)
    return file_digest(folder / WEIGHTS_NAME)


def file_digest(path: Path) -> str:
    """Return ``sha256:`` and the hex digest of a file."""
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _stored(tensor: Tensor) -> Tensor:
    """Return a tensor as it is kept on disk."""
    if tensor.is_floating_point() and tensor.dim() > 1:
        return tensor.half().contiguous()
    return tensor.contiguous()


def _read(path: Path, card: ModelCard) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the tensors of each part, in single precision, and the sizes in the header."""
    states: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    try:
        with safe_open(path, framework="pt") as opened:
            sizes = json.loads(opened.metadata()["sizes"])
            for name in opened.keys():  # noqa: SIM118 (no mapping: it has keys and nothing else)
                part, _, rest = name.partition(".")
                states[part][rest] = _single(opened.get_tensor(name))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _rejected(card, "weights that cannot be read as a bundle") from error
    return states, sizes


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _tuples(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}


def _rejected(card: ModelCard, found: str) -> WeightsRejected:
    return WeightsRejected(
        found=f"{found} ({card.name} {card.version})",
        allowed=f"{WEIGHTS_NAME} with digest {card.weights_digest} and the networks' own tensors",
        action="install the bundle again",
    )
