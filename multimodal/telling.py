"""One patient's facts in words, and as the tensors of an encoder's batch of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multimodal.conditioning import MODALITIES, EncoderInput
from multimodal.sentences import Sentences


@dataclass(frozen=True, slots=True)
class Told:
    """One fact; without a number and an answer the concept alone is told.

    Attributes
    ----------
    kind, modality : str
        What its token speaks of, and one of `multimodal.conditioning.MODALITIES`.
    concept, answer : str
        Texts to embed; an empty answer is none.
    number : float or None
        Standardised.
    years_before : float or None
        Time before imaging; None where it has none.
    present : bool
        False where nothing is known: the token is there, and masked.
    """

    kind: str
    modality: str
    concept: str
    number: float | None = None
    answer: str = ""
    years_before: float | None = None
    present: bool = True


def as_batch(told: Sequence[Told], sentences: Sentences, prior: Tensor, *, has_prior: bool) -> EncoderInput:
    """Return facts and a prior image, (1, C, d, h, w), as a batch of one."""
    concept = sentences.embed([one.concept for one in told])  # (F, E)
    answered = torch.tensor([bool(one.answer) for one in told], dtype=torch.bool)
    answer = torch.zeros_like(concept)
    if answered.any():
        answer[answered] = sentences.embed([one.answer for one in told if one.answer])
    batch = {
        "concept": concept,
        "number": torch.tensor([one.number or 0.0 for one in told], dtype=torch.float32),
        "number_present": torch.tensor([one.number is not None for one in told], dtype=torch.bool),
        "answer": answer,
        "answer_present": answered,
        "years_before": torch.tensor([one.years_before or 0.0 for one in told], dtype=torch.float32),
        "time_present": torch.tensor([one.years_before is not None for one in told], dtype=torch.bool),
        "modality": torch.tensor([MODALITIES.index(one.modality) for one in told], dtype=torch.int64),
        "present": torch.tensor([one.present for one in told], dtype=torch.bool),
    }
    batch = {name: values.unsqueeze(0) for name, values in batch.items()}
    return EncoderInput(**batch, prior=prior, prior_present=torch.tensor([has_prior]))
