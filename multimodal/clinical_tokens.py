"""Clinical facts to tokens: one token a fact, of any code.

A number reaches the network only if it is as loud as the concept beside it and if near values look alike. So every part of a
token (concept, number, answer, time) has a LayerNorm of its own, numbers are standardised, and the sinusoids on them are slow.
A part that is not there adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multimodal.conditioning import MODALITIES, EncoderInput

# Periods of 12, 6 and 3 standard deviations: even the fastest rises or falls over a whole deviation.
_FREQUENCIES = (0.5236, 1.0472, 2.0944)


class ClinicalTokens(nn.Module):
    """F facts to F tokens.

    References
    ----------
    Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, NeurIPS 2020 (why the frequency matters).
    """

    answer_mean: Tensor
    answer_scale: Tensor

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        # Answers to one question have nearly the same vector ("left" and "right middle cerebral artery": a cosine of 0.95), so
        # each direction is standardised by the answers of the training data.
        self.register_buffer("answer_mean", torch.zeros(embedding))
        self.register_buffer("answer_scale", torch.ones(embedding))
        features = 1 + 2 * len(_FREQUENCIES)
        self.concept = _part(embedding, width)
        self.number = _part(features, width)
        self.answer = _part(embedding, width)
        self.time = _part(features, width)
        self.modality = nn.Embedding(len(MODALITIES), width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), nn.LayerNorm(width))

    def fit_answers(self, answers: Tensor) -> None:
        """Set mean and scale of the vectors of all answers in training, (A, E), where there are two or more."""
        if len(answers) > 1:
            deviation = answers.std(0)
            self.answer_mean.copy_(answers.mean(0))
            self.answer_scale.copy_(deviation.clamp_min(float(deviation.mean()) / 10))

    def forward(self, given: EncoderInput) -> Tensor:
        """Return tokens, (B, F, C)."""
        token = self.concept(given.concept) + self.modality(given.modality)  # (B, F, C)
        token = token + self.number(_features(given.number)) * given.number_present.unsqueeze(-1)
        answer = (given.answer - self.answer_mean) / self.answer_scale
        token = token + self.answer(answer) * given.answer_present.unsqueeze(-1)
        token = token + self.time(_features(torch.log1p(given.years_before))) * given.time_present.unsqueeze(-1)
        tokens: Tensor = self.mix(token)
        return tokens


def _part(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width))


def _features(value: Tensor) -> Tensor:
    """Return a number, (B, F), with its slow sinusoids, (B, F, 1 + 2 K)."""
    value = value.unsqueeze(-1)
    angles = value * value.new_tensor(_FREQUENCIES)
    return torch.cat([value, angles.sin(), angles.cos()], dim=-1)
