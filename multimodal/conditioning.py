"""What the encoder hands to a generator: the only part of this package that generators may import."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from domain.errors import GenerationError
from domain.generation import ConditioningRecord, Modality

MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""What a token can come from; guidance has a weight for each."""

NULL = "null:"
"""A token of this kind stands for its whole modality where nothing of that is known: it is learned."""


@dataclass(frozen=True, eq=False)
class ConditioningTokens:
    """Encoder output for cross-attention.

    Attributes
    ----------
    tokens : tensor, (B, T, C), float32
    mask : tensor, (B, T), bool
        True where a token is present; a generator may not look at the others.
    kinds : tuple of str
        What each of the T tokens speaks of (``prior-image``, ``hippocampus-anterior-volume``, ``null:report``).
    modalities : tuple of str
        One of `MODALITIES` for each of the T tokens.
    record : ConditioningRecord
        The same in words and numbers, for gates and provenance.
    """

    tokens: Tensor
    mask: Tensor
    kinds: tuple[str, ...]
    modalities: tuple[str, ...]
    record: ConditioningRecord


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """A batch of what may be known, as tensors: F facts, embedded by sentence embeddings of length E.

    Attributes
    ----------
    concept : tensor, (B, F, E), float32
        Embedding of what a fact speaks of.
    number, number_present : tensor, (B, F), float32 and bool
        Its number, standardised by the concept's mean and deviation in training.
    answer, answer_present : tensor, (B, F, E) and (B, F)
        Embedding of a coded value or a text.
    years_before, time_present : tensor, (B, F), float32 and bool
        Years before the imaging time, at least 0.
    modality : tensor, (B, F), int64
        Index in `MODALITIES`.
    present : tensor, (B, F), bool
        False where nothing is known, or nothing may be told.
    prior : tensor, (B, C, d, h, w), float32
        Latent of the prior image, zeros where there is none.
    prior_present : tensor, (B,), bool
    """

    concept: Tensor
    number: Tensor
    number_present: Tensor
    answer: Tensor
    answer_present: Tensor
    years_before: Tensor
    time_present: Tensor
    modality: Tensor
    present: Tensor
    prior: Tensor
    prior_present: Tensor


class TokenEncoder(nn.Module, ABC):
    """An encoder that a generator is trained together with, without knowing what it looks at.

    Attributes
    ----------
    width : int
        Length C of a token.
    """

    width: int

    @property
    @abstractmethod
    def sizes(self) -> dict[str, object]:
        """Sizes of the network as plain values, for the header of a weights file."""

    @abstractmethod
    def fit_scale(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and standard deviation of each concept in training, (K,)."""

    @abstractmethod
    def fit_answers(self, answers: Tensor) -> None:
        """Set what tells the answers of the training data from each other: their vectors, (A, E)."""

    @abstractmethod
    def forward(self, given: EncoderInput) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T, C) and mask (B, T).

        T is the number of facts, of regions of the prior image, and of modalities: each of these has a null token, which is
        present where the modality has no other.
        """


def without_modalities(mask: Tensor, kinds: Sequence[str], modalities: Sequence[str], dropped: Collection[str]) -> Tensor:
    """Return the mask, (B, T), that tells nothing of some modalities: their null tokens stand in for them."""
    is_null = torch.tensor([kind.startswith(NULL) for kind in kinds], device=mask.device)
    is_dropped = torch.tensor([modality in dropped for modality in modalities], device=mask.device)
    return torch.where(is_dropped, is_null.expand_as(mask), mask)


def null_conditioning(like: ConditioningTokens) -> ConditioningTokens:
    """Return the unconditional input: of every modality only its learned null token is present."""
    everything = tuple(dict.fromkeys(kind for kind in like.kinds if not kind.startswith(NULL)))
    mask = without_modalities(like.mask, like.kinds, like.modalities, MODALITIES)
    return replace(like, mask=mask, record=ConditioningRecord((), (), everything))


def save_conditioning(tokens: ConditioningTokens, path: Path) -> None:
    """Write tokens to one safetensors file; a reader finds the whole file or none."""
    metadata = {name: json.dumps(getattr(tokens, name)) for name in ("kinds", "modalities")}
    metadata |= {"record": json.dumps(asdict(tokens.record))}
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
                modalities=tuple(json.loads(metadata["modalities"])),
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
