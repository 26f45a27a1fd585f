"""Model cards on disk, and where bundles are. No torch here: a server that only shows cards stays small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError

from domain.errors import WeightsRejected
from domain.model_card import ModelCard, card_content

CARD_NAME = "card.json"
WEIGHTS_NAME = "weights.safetensors"

_STEPS = "8"
_BUNDLES = Path(__file__).parent / "bundles"


def bundled_models() -> tuple[str, ...]:
    """Return the names of the models that are installed with this package."""
    return tuple(sorted(path.parent.name for path in _BUNDLES.glob(f"*/{CARD_NAME}")))


def bundle_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a model: one that is installed with this package, by name, or any other by its path.

    Raises
    ------
    WeightsRejected
        If there is no such model.
    """
    if str(name_or_folder) in bundled_models():
        return _BUNDLES / str(name_or_folder)
    folder = Path(name_or_folder)
    if (folder / CARD_NAME).is_file():
        return folder
    raise WeightsRejected(
        found="a model name that is neither installed nor a folder with a card",
        allowed=", ".join(bundled_models()) or "the path of a folder with card.json and weights.safetensors",
        action="name one of these, or the folder of a bundle",
    )


def read_card(folder: Path) -> ModelCard:
    """Return the card of a bundle.

    Raises
    ------
    WeightsRejected
        If there is no card, if it holds more or less than `domain.model_card.ModelCard`, or names no licence.
    """
    adapter = TypeAdapter(ModelCard)
    try:
        content = (folder / CARD_NAME).read_bytes()
        card = adapter.validate_json(content)
        # Validation passes over unknown names; a card that says more than we read must not look as if it were obeyed.
        whole = json.loads(content) == json.loads(encode_card(card))
    except (OSError, ValidationError) as error:
        raise _rejected("a model card that is missing or cannot be read") from error
    if not whole:
        raise _rejected("a model card with unknown or missing entries")
    if not card.licence.strip():
        raise _rejected("a model card without a licence")
    return card


def encode_card(card: ModelCard) -> bytes:
    """Return the one form in which a card is written, digested and attached to a publication."""
    return json.dumps(card_content(card), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def card_digest(card: ModelCard) -> str:
    """Return ``sha256:`` and the digest of `encode_card`."""
    return f"sha256:{hashlib.sha256(encode_card(card)).hexdigest()}"


def write_card(card: ModelCard, folder: Path) -> None:
    """Write a card; a reader finds the whole card or the one before."""
    partial = folder / f"{CARD_NAME}.partial"
    partial.write_bytes(encode_card(card))
    partial.replace(folder / CARD_NAME)


def training_default(card: ModelCard, name: str) -> str | None:
    """Return an entry of the card's training table (``default guidance``, ``default sampler steps``), or None."""
    return cast("dict[str, str]", dict(card.training)).get(name)


def advised_steps(card: ModelCard) -> int:
    """Return the sampler steps that a card advises, or that cards advised before they said so."""
    return int(training_default(card, "default sampler steps") or _STEPS)


def _rejected(found: str) -> WeightsRejected:
    return WeightsRejected(
        found=found,
        allowed="a card.json with exactly the entries of a model card, its licence among them",
        action="install the bundle again, or export it again with this version",
    )
