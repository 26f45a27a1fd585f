"""What no family of ours takes, whatever a card says."""

from __future__ import annotations

from collections.abc import Mapping

from domain.errors import RequestInvalid, UnsupportedSeries
from domain.generation import Guidance
from domain.grid import Shape
from multimodal.conditioning import MODALITIES, ConditioningTokens

MAX_STEPS = 200
MAX_GUIDANCE = 20.0


def require_sampling(tokens: ConditioningTokens, guidance: Guidance, sampler_steps: int) -> None:
    """Refuse what no family of ours takes: more than one volume at a time, a guidance or number of steps out of range."""
    if len(tokens.tokens) != 1:
        raise RequestInvalid(
            found=f"conditioning tokens of {len(tokens.tokens)} volumes",
            allowed="one: the batch size changes the last bits of a volume",
            action="generate the volumes one after another",
        )
    weights = guidance if isinstance(guidance, Mapping) else {MODALITIES[0]: guidance}
    if not set(weights) <= set(MODALITIES):
        raise RequestInvalid(
            found="a guidance for something that is no modality", allowed=", ".join(MODALITIES), action="name some of these"
        )
    if not all(1 <= weight <= MAX_GUIDANCE for weight in weights.values()):
        raise RequestInvalid(found="a guidance out of range", allowed=f"1 to {MAX_GUIDANCE:g}", action="ask for a value in it")
    if not 1 <= sampler_steps <= MAX_STEPS:
        raise RequestInvalid(
            found=f"{sampler_steps} sampler steps", allowed=f"1 to {MAX_STEPS}", action="ask for fewer or more"
        )


def on_grid(shape: Shape, grid: Shape) -> Shape:
    """Return the asked shape if the grid holds it: a field of view that fits may still have more voxels, by a finer spacing."""
    if any(n > held for n, held in zip(shape, grid, strict=True)):
        raise UnsupportedSeries(
            found="a series of {} x {} x {} voxels in patient axes".format(*shape),
            allowed="at most {} x {} x {}, the grid of the model".format(*grid),
            action="send a series that fits, or configure another model",
        )
    return shape
