"""Clinical numbers to tokens: one token a concept.

A number reaches the network only if it is as loud as the code beside it and if near values look alike. So code and value each
have their own LayerNorm, values are standardised, and the sinusoids on them are slow.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Periods of 12, 6 and 3 standard deviations: even the fastest rises or falls over a whole deviation.
_FREQUENCIES = (0.5236, 1.0472, 2.0944)


class ClinicalTokens(nn.Module):
    """K numbers to K tokens.

    A unit has no part of its own in a token, since every number was converted to its concept's unit; nor has a time, since the
    training data hold none.

    References
    ----------
    Tancik et al., Fourier Features Let Networks Learn High Frequency Functions, NeurIPS 2020 (why the frequency matters).
    """

    value_mean: Tensor
    value_deviation: Tensor

    def __init__(self, concepts: int, width: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(concepts, width))
        self.code_norm = nn.LayerNorm(width)
        self.value = nn.Linear(1 + 2 * len(_FREQUENCIES), width)
        self.value_norm = nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width), nn.LayerNorm(width))
        self.register_buffer("value_mean", torch.zeros(concepts))
        self.register_buffer("value_deviation", torch.ones(concepts))

    def forward(self, values: Tensor) -> Tensor:
        """Return tokens, (B, K, C), of values in their concepts' units, (B, K)."""
        z = ((values - self.value_mean) / self.value_deviation).unsqueeze(-1)  # (B, K, 1)
        angles = z * z.new_tensor(_FREQUENCIES)  # (B, K, F)
        features = torch.cat([z, angles.sin(), angles.cos()], dim=-1)  # (B, K, 1 + 2F)
        value = self.value_norm(self.value(features))  # (B, K, C)
        tokens: Tensor = self.mix(self.code_norm(self.code) + value)
        return tokens
