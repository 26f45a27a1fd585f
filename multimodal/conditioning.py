"""What the encoder hands to a generator: the only part of this package that generators may import."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from domain.errors import GenerationError
from domain.generation import ConditioningRecord


@dataclass(frozen=True, eq=False)
class ConditioningTokens:
    """Encoder output for cross-attention.

    Attributes
    ----------
    tokens : tensor, (B, T, C), float32
    mask : tensor, (B, T), bool
        True where a token is present; a generator may not look at the others.
    kinds : tuple of str
        What each of the T tokens speaks of (``prior-image``, ``hippocampus-anterior-volume``).
    record : ConditioningRecord
        The same in words and numbers, for gates and provenance.
    """

    tokens: Tensor
    mask: Tensor
    kinds: tuple[str, ...]
    record: ConditioningRecord


class TokenEncoder(nn.Module, ABC):
    """An encoder that a generator is trained together with, without knowing what it looks at.

    Attributes
    ----------
    width : int
        Length C of a token.
    concepts : tuple of str
        Kinds of the K numbers, in order.
    """

    width: int
    concepts: tuple[str, ...]

    @abstractmethod
    def fit_values(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation of each number in training, (K,)."""

    @abstractmethod
    def forward(self, values: Tensor, present: Tensor, prior: Tensor, prior_present: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, C) and mask (B, T).

        Parameters
        ----------
        values, present : tensor, (B, K), float32 and bool
            Numbers in the unit of their concept, and which of them are known.
        prior, prior_present : tensor, (B, 1, D, H, W), float32, 0 to 1, and (B,), bool
        """


def null_conditioning(like: ConditioningTokens) -> ConditioningTokens:
    """Return the unconditional input: every token masked, so that only the generator's learned null token is left."""
    everything = tuple(dict.fromkeys(like.kinds))
    return replace(like, mask=torch.zeros_like(like.mask), record=ConditioningRecord((), (), everything))


def save_conditioning(tokens: ConditioningTokens, path: Path) -> None:
    """Write tokens to one safetensors file; a reader finds the whole file or none."""
    metadata = {"kinds": json.dumps(tokens.kinds), "record": json.dumps(asdict(tokens.record))}
    partial = path.with_name(path.name + ".partial")
    save_file({"tokens": tokens.tokens.contiguous(), "mask": tokens.mask.contiguous()}, partial, metadata=metadata)
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def load_conditioning(path: Path) -> ConditioningTokens:
    """Return the tokens of a file that `save_conditioning` wrote.

    Raises
    ------
    GenerationError
        If the file is missing or not whole.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
            record = json.loads(metadata["record"])
            return ConditioningTokens(
                tokens=opened.get_tensor("tokens"),
                mask=opened.get_tensor("mask"),
                kinds=tuple(json.loads(metadata["kinds"])),
                record=ConditioningRecord(
                    targets=tuple((kind, value, unit) for kind, value, unit in record["targets"]),
                    used=tuple(record["used"]),
                    missing=tuple(record["missing"]),
                ),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise GenerationError(
            found="conditioning tokens that cannot be read back",
            allowed="the file that the encode step wrote",
            action="run the encode step again",
        ) from error
