"""Weights on disk: read strictly, and only if their digest is the one that the card states.

One safetensors file holds all networks of a model, the token encoder among them; its header holds their sizes. Matrices are
kept in half precision, which measured the same; vectors (biases, norms, statistics) in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from domain.errors import WeightsRejected
from domain.grid import Shape
from domain.model_card import ModelCard
from generators.cards import WEIGHTS_NAME, bundle_folder, read_card
from generators.convolution import use_onednn

log = structlog.get_logger()

ENCODER = "encoder"

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model as it was read from disk. A family builds its networks of it: see `built`.

    Attributes
    ----------
    grid : tuple of int
        Shape on which the networks work.
    sizes : mapping
        Sizes of each part by name; of the token encoder under ``encoder``, for the encoder to read: generators do not know its
        class.
    states : mapping
        Weights of each part by name, single precision.
    """

    card: ModelCard
    grid: Shape
    sizes: dict[str, dict[str, Any]]
    states: dict[str, dict[str, Tensor]]


def load_bundle(name_or_folder: str | Path) -> Bundle:
    """Return a model by the name of an installed bundle, or by its folder.

    Raises
    ------
    WeightsRejected
        If card or weights are missing, the card names no licence, the file's digest is not the card's, or it is no bundle.
    """
    folder = bundle_folder(name_or_folder)
    card = read_card(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise rejected(card, "no weights beside the card")
    if file_digest(path) != card.weights_digest:
        raise rejected(card, "weights whose digest is not the one in the card")
    states: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            header = json.loads(opened.metadata()["sizes"])
            slices, rows, columns = (int(n) for n in header["grid"])
            sizes = {str(name): dict(values) for name, values in header["parts"].items()}
            for name in opened.keys():  # noqa: SIM118 (no mapping: it has keys and nothing else)
                part, _, rest = name.partition(".")
                states.setdefault(part, {})[rest] = _single(opened.get_tensor(name))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise rejected(card, "weights that cannot be read as a bundle") from error
    if states.keys() != sizes.keys():
        raise rejected(card, "weights whose parts are not those of their header")
    log.info("weights loaded", model=card.name, version=card.version)
    return Bundle(card, (slices, rows, columns), sizes, states)


def built(bundle: Bundle, part: str, make: Callable[[dict[str, Any]], Network], device: str = "cpu") -> Network:
    """Return a part's network with its weights, ready to run.

    Parameters
    ----------
    make : callable
        From the part's sizes to a network of random weights.

    Raises
    ------
    WeightsRejected
        If the part is not there, or names or shapes of its tensors are not exactly those of the network.
    """
    try:
        network = make(_tuples(bundle.sizes[part]))
        network.load_state_dict(bundle.states[part], strict=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise rejected(bundle.card, "weights whose names or shapes are not those of the networks") from error
    use_onednn(network)
    return network.to(device).eval().requires_grad_(requires_grad=False)


def save_weights(folder: Path, *, grid: Shape, parts: Mapping[str, tuple[nn.Module, Mapping[str, Any]]]) -> str:
    """Write the networks of a bundle with their sizes, by part, and return the digest of the file.

    A reader finds the whole file or the one before.
    """
    tensors = {
        f"{part}.{name}": _stored(tensor)
        for part, (network, _) in parts.items()
        for name, tensor in network.state_dict().items()
    }
    header = {"grid": grid, "parts": {part: dict(sizes) for part, (_, sizes) in parts.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file(tensors, partial, metadata={"sizes": json.dumps(header, sort_keys=True)})
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


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _tuples(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}


def rejected(card: ModelCard, found: str) -> WeightsRejected:
    """Return the error for weights that are not what the card says."""
    return WeightsRejected(
        found=f"{found} ({card.name} {card.version})",
        allowed=f"{WEIGHTS_NAME} with digest {card.weights_digest} and the networks' own tensors",
        action="install the bundle again",
    )
