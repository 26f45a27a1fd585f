"""A model card in the one byte form that is digested: the file ``card.json`` of its bundle."""

from __future__ import annotations

import json

from domain.model_card import ModelCard, card_content
from provenance.canonical import sha256_digest


def encode_card(card: ModelCard) -> bytes:
    """Return the card as its bundle holds it; whoever loads the weights digests the same bytes."""
    return json.dumps(card_content(card), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def card_digest(card: ModelCard) -> str:
    """Return ``sha256:`` and the digest of `encode_card`."""
    return sha256_digest(encode_card(card))
