"""The measuring network on disk: weights and a card, read strictly, and only if the digest is the one that the card states."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from domain.errors import WeightsRejected
from quality.segmentation import Segmenter, SegmenterShape

CARD_NAME = "card.json"
WEIGHTS_NAME = "weights.safetensors"
PACKAGED = Path(__file__).parent / "networks" / "hippocampus-measuring"


@dataclass(frozen=True, slots=True)
class MeasuringCard:
    """What a person has to know of a measuring network.

    Attributes
    ----------
    trained_on : str
        Data and people; nobody whom it measures may be among them.
    labels : tuple of str
        What each label beside background is.
    measured : tuple of (str, float)
        Its own figures on people it was not trained on, by name.
    weights_digest : str
        ``sha256:`` and the hex digest of the weights file.
    """

    name: str
    version: str
    licence: str
    attribution: str
    trained_on: str
    labels: tuple[str, ...]
    measured: tuple[tuple[str, float], ...]
    weights_digest: str = ""


def load_measuring_network(folder: Path | None = None) -> Segmenter:
    """Return the packaged measuring network, or that of a folder, in evaluation mode.

    Raises
    ------
    WeightsRejected
        If card or weights are missing, the card names no licence, the digest is not the card's, or names and shapes of the
        tensors are not exactly those of the network.
    """
    folder = folder or PACKAGED
    card = read_measuring_card(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file() or _digest(path) != card.weights_digest:
        raise _rejected("weights of the measuring network that are missing, or whose digest is not the one in the card")
    try:
        with safe_open(path, framework="pt") as opened:
            sizes = json.loads(opened.metadata()["sizes"])
            state = {name: _single(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118 (no mapping)
        network = Segmenter(SegmenterShape(labels=sizes["labels"], channels=tuple(sizes["channels"])))
        network.load_state_dict(state, strict=True)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _rejected("weights whose names or shapes are not those of the measuring network") from error
    return network.eval().requires_grad_(requires_grad=False)


def save_measuring_network(network: Segmenter, card: MeasuringCard, folder: Path) -> MeasuringCard:
    """Write weights, then the card with their digest, and return that card.

    Matrices are kept in half precision, vectors (biases, norms) in full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor) for name, tensor in network.state_dict().items()}
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file(tensors, partial, metadata={"sizes": json.dumps(network.shape.content(), sort_keys=True)})
    partial.chmod(0o644)  # safetensors writes for the owner alone; a wheel would carry that to every installation
    partial.replace(folder / WEIGHTS_NAME)
    written = replace(card, weights_digest=_digest(folder / WEIGHTS_NAME))
    partial = folder / f"{CARD_NAME}.partial"
    partial.write_text(json.dumps(asdict(written), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    partial.replace(folder / CARD_NAME)
    return written


def read_measuring_card(folder: Path | None = None) -> MeasuringCard:
    """Return the card of a measuring network.

    Raises
    ------
    WeightsRejected
        If it is missing, holds more or less than `MeasuringCard`, or names no licence.
    """
    try:
        content = ((folder or PACKAGED) / CARD_NAME).read_bytes()
        card = TypeAdapter(MeasuringCard).validate_json(content)
        whole = json.loads(content).keys() == asdict(card).keys()
    except (OSError, ValidationError) as error:
        raise _rejected("a card of a measuring network that is missing or cannot be read") from error
    if not whole or not card.licence.strip():
        raise _rejected("a card of a measuring network with unknown or missing entries, or without a licence")
    return card


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return f"sha256:{hashlib.file_digest(opened, 'sha256').hexdigest()}"


def _stored(tensor: Tensor) -> Tensor:
    return tensor.half().contiguous() if tensor.is_floating_point() and tensor.dim() > 1 else tensor.contiguous()


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _rejected(found: str) -> WeightsRejected:
    action = "install the package again, or train it again: veraicon train measuring"
    return WeightsRejected(found=found, allowed=f"{CARD_NAME} and {WEIGHTS_NAME} as they were written together", action=action)
