"""Draws the volumes that are measured: for real people by what is true of them, and for the same people with nothing told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.clinical import ClinicalFact
from domain.findings import Outcome
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard
from domain.volume import Volume
from generators.hippocampus_data import CONCEPTS, Crop
from quality.gates import check
from veraicon.asking import asked_fact
from veraicon.evaluation.models import EvaluatedModel
from veraicon.evaluation.people import fits, other_side, volume_of

_TOLD = CONCEPTS[:2]  # the two parts and not the total, as an EHR that measures parts would have it
_UNGUIDED = 1.0


@dataclass(frozen=True, eq=False)
class Drawn:
    """One generated volume.

    Attributes
    ----------
    crop : Crop
        Whose volumes were asked for, whose other side was the prior image, and whose extent it has.
    requested : tuple of float
        Volumes of `generators.hippocampus_data.CONCEPTS`, mm3; what is true of the crop where nothing was told.
    seconds : float
        From what was asked to the volume.
    passed : bool
        Whether the checks would let it leave; a job draws again where they do not.
    """

    crop: Crop
    requested: tuple[float, float, float]
    generated: GeneratedVolume
    seconds: float
    seed: int
    passed: bool


@dataclass(frozen=True, eq=False)
class Arm:
    """All volumes that were drawn in one way."""

    drawn: tuple[Drawn, ...]

    def __len__(self) -> int:
        return len(self.drawn)

    @property
    def people(self) -> NDArray[np.int64]:
        """Person of each, (N,)."""
        return np.array([one.crop.subject for one in self.drawn])

    @property
    def requested(self) -> NDArray[np.float64]:
        """Requested volumes, (N, 3), mm3."""
        return np.array([one.requested for one in self.drawn])

    @property
    def images(self) -> list[NDArray[np.float32]]:
        """Generated images, each (slice, row, column)."""
        return [one.generated.volume.array for one in self.drawn]


def draw_arm(
    model: EvaluatedModel, crops: Sequence[Crop], *, count: int, seed: int, told: bool = True, tell: Callable[[int, int], None]
) -> Arm:
    """Draw volumes for people, one after another and again with other seeds, until there are enough.

    Parameters
    ----------
    crops : sequence of Crop
        Those that the model takes, see `usable`.
    told : bool
        False asks for no value, without guidance: the model's own spread of sizes for the same people.

    Notes
    -----
    A value outside the trained range would be refused, so the end of the range is asked for instead: see `clipped`.
    """
    drawn = []
    for index in range(count):
        crop, number = crops[index % len(crops)], seed + 1000 * (index // len(crops))
        requested = clipped(crop, model.card) if told else crop.values
        drawn.append(_draw(model, crop, crops, requested, seed=number + crop.number, told=told))
        tell(index + 1, count)
    return Arm(tuple(drawn))


def usable(crops: Sequence[Crop], card: ModelCard) -> tuple[Crop, ...]:
    """Return the crops whose spacing and field of view a model was trained to take."""
    return tuple(crop for crop in crops if fits(crop, card))


def clipped(crop: Crop, card: ModelCard) -> tuple[float, float, float]:
    """Return what is asked for a crop, mm3: its own volumes, each within the range that the model was trained on."""
    ranges = {concept.kind: concept.trained for concept in card.concepts if concept.trained is not None}
    parts = [
        min(max(value, ranges[kind].low), ranges[kind].high) if kind in ranges else value
        for kind, value in zip(_TOLD, crop.values, strict=False)
    ]
    return parts[0], parts[1], sum(parts)


def replayed(model: EvaluatedModel, arm: Arm, crops: Sequence[Crop], *, count: int) -> NDArray[np.bool_]:
    """Draw the first volumes of an arm once more and return for each whether every bit is the same, (count,)."""
    same = []
    for one in arm.drawn[:count]:
        again = _draw(model, one.crop, crops, one.requested, seed=one.seed, told=True).generated
        first = one.generated
        same.append(bits_of(again) == bits_of(first))
    return np.array(same)


def bits_of(generated: GeneratedVolume) -> tuple[bytes, bytes | None]:
    """Return image and label map, for a comparison in which -0 is not 0."""
    labels = generated.label_map
    return generated.volume.array.tobytes(), None if labels is None else labels.tobytes()


def _draw(
    model: EvaluatedModel,
    crop: Crop,
    crops: Sequence[Crop],
    requested: tuple[float, float, float],
    *,
    seed: int,
    told: bool,
) -> Drawn:
    other, like = other_side(crop, crops), volume_of(crop)
    prior = volume_of(other) if other else None
    asked: tuple[ClinicalFact, ...] = ()
    if told:
        asked = tuple(asked_fact(kind, value) for kind, value in zip(_TOLD, requested, strict=False))
    started = time.perf_counter()
    generated = model.draw(asked, prior, like=like, seed=seed, guidance=None if told else _UNGUIDED)
    seconds = time.perf_counter() - started
    return Drawn(crop, requested, generated, seconds, seed, _passes(generated, prior, model.card))


def _passes(generated: GeneratedVolume, prior: Volume | None, card: ModelCard) -> bool:
    """Return whether no check fails but the one of extent: here the prior image has another extent than what is drawn."""
    findings = check(generated, prior, card).findings
    return all(finding.outcome is not Outcome.FAILED or finding.check == "extent" for finding in findings)
