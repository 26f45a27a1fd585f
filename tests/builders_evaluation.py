"""Real-looking crops and models that draw by rule: what an evaluation finds is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from domain.clinical import ClinicalFact
from domain.generation import ConditioningRecord, ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.model_card import ConceptInput, ModelCard, ValueRange
from domain.volume import Volume
from generators.hippocampus_data import CONCEPTS, Crop
from tests.builders_generators import card as make_card

SHAPE = (18, 20, 17)


def box(anterior: float, posterior: float, shape: tuple[int, int, int] = SHAPE, *, seed: int = 0) -> tuple[Any, Any]:
    """Return an image and label map with about these volumes, mm3: two parts, one behind the other, in soft noise."""
    slices, rows, columns = np.indices(shape)
    middle = [n / 2 for n in shape]
    radius = np.hypot(slices - middle[0], columns - middle[2])
    labels = np.zeros(shape, np.uint8)
    for label, before, want in ((1, rows < middle[1], anterior), (2, rows >= middle[1], posterior)):
        far = radius + np.abs(rows - middle[1]) / 2
        nearest = np.argsort(np.where(before, far, np.inf), axis=None)[: round(want)]
        labels.ravel()[nearest] = label
    noise = np.random.default_rng(seed).normal(0, 0.05, shape)
    image = np.clip(0.3 + 0.3 * (labels > 0) + 0.2 * (labels == 2) + noise, 0, 1).astype(np.float32)
    return image, labels


def make_crops(people: int, *, first: int = 0, seed: int = 0) -> tuple[Crop, ...]:
    """Return the two hippocampi of some people, with sizes of their own."""
    rng, crops = np.random.default_rng(seed), []
    for person in range(first + 1, first + people + 1):
        for side in (0, 1):
            number = 2 * person - 1 + side
            image, labels = box(*rng.integers(150, 400, 2).tolist(), seed=number)
            crops.append(Crop(number, person, image, labels, 1.0))
    return tuple(crops)


def evaluated_card(kinds: Sequence[str] = CONCEPTS, **changes: Any) -> ModelCard:
    """Return a card of a model that takes crops of `make_crops`."""
    concepts = tuple(ConceptInput(kind, ValueRange(0, 1000, "mm3")) for kind in kinds)
    return make_card(concepts=concepts, **changes)


@dataclass
class RuledModel:
    """A model as `veraicon.evaluation.models.EvaluatedModel` is: it draws what a rule makes of what is asked.

    Attributes
    ----------
    rule : callable
        From the asked values by kind, and the seed, to image and label map.
    calls : list
        What it was asked, see `draw`.
    """

    rule: Callable[[Mapping[str, Any], int], tuple[Any, Any]]
    card: ModelCard = field(default_factory=evaluated_card)
    title: str = "ruled 1"
    guidance: float = 2.0
    steps: int = 4
    calls: list[dict[str, Any]] = field(default_factory=list)

    def draw(
        self, asked: tuple[ClinicalFact, ...], prior: Volume | None, *, like: Volume, seed: int, guidance: float | None = None
    ) -> GeneratedVolume:
        """Return one volume by the rule."""
        told = {fact.text: fact.value for fact in asked}
        self.calls.append({"told": told, "prior": prior, "like": like.shape, "seed": seed, "guidance": guidance})
        image, labels = self.rule(told, seed)
        return GeneratedVolume(
            volume=Volume(image, np.eye(4)[[2, 1, 0, 3]], "", "MR"),
            label_map=labels,
            model=ModelIdentity("ruled", "1", "", "", "CC0-1.0"),
            seed=seed,
            sampler="rule",
            sampler_steps=self.steps,
            guidance=self.guidance,
            conditioning=ConditioningRecord((), (), ()),
            environment=ExecutionEnvironment((), "cpu", 1, ""),
        )

    def through_autoencoder(self, volume: Volume) -> Any:
        """Return the image, a little blurred."""
        return (0.5 * volume.array + 0.5 * volume.array.mean()).astype(np.float32)


def obedient(told: Mapping[str, Any], seed: int) -> tuple[Any, Any]:
    """Draw exactly what is asked; where nothing is, always the same size."""
    return box(told.get(CONCEPTS[0], 250), told.get(CONCEPTS[1], 250), seed=10_000 + seed)
