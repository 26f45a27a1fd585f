"""What a model is trained on: cases on a common grid, and what is known of each. The readers of data sets make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from multimodal.conditioning import MODALITIES, EncoderInput

_FACT_PRESENT = 0.7
_MODALITY_PRESENT = 0.85
_ANYTHING_PRESENT = 0.9
_MOST_OTHERS = 4
_LONGEST_YEARS = 30.0


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of N cases: K columns, each a number or a coded answer.

    Attributes
    ----------
    kinds, modalities : tuple of str
        Concept of each column, and one of `multimodal.conditioning.MODALITIES`.
    numbers : tensor, (N, K), float32
        In the unit of the concept; NaN where unknown, or where the column is coded.
    answers : tensor, (N, K), int64
        Index in `texts`; -1 where unknown, or where the column is a number.
    texts : tuple of str
        All coded answers.
    """

    kinds: tuple[str, ...]
    modalities: tuple[str, ...]
    numbers: Tensor
    answers: Tensor
    texts: tuple[str, ...] = ()

    def of(self, index: Sequence[int]) -> Facts:
        """Return the facts of some cases."""
        chosen = torch.as_tensor(index, dtype=torch.int64)
        return replace(self, numbers=self.numbers[chosen], answers=self.answers[chosen])


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Cases of one part of a split, on a common grid of voxels of one size.

    Attributes
    ----------
    labels : tensor, (N, D, H, W), uint8
    images : tensor, (N, 1, D, H, W), float32, 0 to 1, or None
    extents : tensor, (N, 3), int64
        Shape of each case before it was padded to the grid.
    partner : tensor, (N,), int64
        Case whose image is another one of the same person, or -1.
    measured : callable or None
        Numbers that follow from label maps, (N, D, H, W) to (N, K): they are counted again when a case was bent.
    """

    labels: Tensor
    images: Tensor | None
    extents: Tensor
    partner: Tensor
    facts: Facts
    measured: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label_count(self) -> int:
        """Number of labels beside background."""
        return int(self.labels.max())


@dataclass(frozen=True, eq=False)
class FactVectors:
    """Sentence embeddings for the columns of `Facts`.

    Attributes
    ----------
    concepts : tuple of tensor, K of (S, E)
        Of each concept its own text first, then other ways to say it: training draws one of them, so that a code which the
        model has not met is understood by a text that is near.
    answers : tensor, (A, E)
    others : tensor, (M, E)
        Of texts that say nothing about the target: a few are told at random, so that the model learns to pass over them.
    """

    concepts: tuple[Tensor, ...]
    answers: Tensor
    others: Tensor


@dataclass(frozen=True, eq=False)
class Known:
    """A batch of what is known, before some of it is hidden."""

    numbers: Tensor  # (B, K), standardised, NaN where unknown
    answers: Tensor  # (B, K), int64, -1 where unknown
    prior: Tensor  # (B, C, d, h, w)
    prior_there: Tensor  # (B,), bool


def tell_at_random(known: Known, modalities: Sequence[str], vectors: FactVectors, rng: torch.Generator) -> EncoderInput:
    """Return what an encoder is told in training: every subset occurs, so each fact and each modality works alone.

    In a tenth nothing at all is told, which trains the unconditional answer that guidance needs.
    """
    batch, count = known.numbers.shape
    index = torch.tensor([MODALITIES.index(name) for name in modalities])
    anything = torch.rand(batch, 1, generator=rng) < _ANYTHING_PRESENT
    told = (torch.rand(batch, len(MODALITIES), generator=rng) < _MODALITY_PRESENT) & anything  # (B, 4)
    numbers_there, answers_there = ~known.numbers.isnan(), known.answers >= 0
    present = (torch.rand(batch, count, generator=rng) < _FACT_PRESENT) & told[:, index] & (numbers_there | answers_there)
    spoken = torch.stack([_one_of(ways, batch, rng) for ways in vectors.concepts], dim=1)  # (B, K, E)
    answer = vectors.answers[known.answers.clamp_min(0)] if len(vectors.answers) else torch.zeros_like(spoken)
    given = EncoderInput(
        concept=spoken,
        number=known.numbers.nan_to_num(0.0),
        number_present=numbers_there,
        answer=answer,
        answer_present=answers_there,
        # The data sets state no times. An EHR does, so the model has to learn to pass over them.
        years_before=torch.rand(batch, count, generator=rng).square() * _LONGEST_YEARS,
        time_present=torch.rand(batch, count, generator=rng) < 0.5,
        modality=index.expand(batch, -1),
        present=present,
        prior=known.prior,
        prior_present=told[:, MODALITIES.index("prior-image")] & known.prior_there,
    )
    return _with_others(given, vectors.others, told, rng) if len(vectors.others) else given


def _one_of(ways: Tensor, batch: int, rng: torch.Generator) -> Tensor:
    return ways[torch.randint(len(ways), (batch,), generator=rng)]


def _with_others(given: EncoderInput, others: Tensor, told: Tensor, rng: torch.Generator) -> EncoderInput:
    """Add up to four facts that say nothing about the target, some of them with an answer or a time."""
    batch, size = len(given.present), (len(given.present), _MOST_OTHERS)
    clinical = MODALITIES.index("clinical-facts")
    nothing = torch.zeros(size, dtype=torch.bool)
    how_many = torch.randint(_MOST_OTHERS + 1, (batch, 1), generator=rng)
    added = {
        "concept": others[torch.randint(len(others), size, generator=rng)],
        "number": torch.zeros(size),
        "number_present": nothing,
        "answer": others[torch.randint(len(others), size, generator=rng)],
        "answer_present": torch.rand(size, generator=rng) < 0.5,
        "years_before": torch.rand(size, generator=rng).square() * _LONGEST_YEARS,
        "time_present": torch.rand(size, generator=rng) < 0.5,
        "modality": torch.full(size, clinical),
        "present": (torch.arange(_MOST_OTHERS) < how_many) & told[:, clinical : clinical + 1],
    }
    return replace(given, **{name: torch.cat([getattr(given, name), part], dim=1) for name, part in added.items()})
