"""Measures a model of stroke lesions: whether a graver deficit goes with a larger lesion as much as it does in real people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from domain.clinical import ClinicalFact, Coding
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard
from domain.volume import Volume
from multimodal.concepts import CONCEPTS, MEASUREMENT_SYSTEM
from quality.agreement import spearman
from quality.gates import check
from quality.resampling import estimate
from veraicon.evaluation.figures import PASSED
from veraicon.evaluation.generating import bits_of
from veraicon.evaluation.models import EvaluatedModel
from veraicon.evaluation.report import Row

if TYPE_CHECKING:
    from generators.training_set import TrainingSet

NIHSS = "nihss"


@dataclass(frozen=True, eq=False)
class Lesions:
    """Held-out people with a lesion and what is known of each.

    Attributes
    ----------
    part : TrainingSet
        One case a person.
    spacing_mm : float
        Edge of its voxels.
    """

    part: TrainingSet
    spacing_mm: float

    def __len__(self) -> int:
        return len(self.part)

    @property
    def volumes(self) -> NDArray[np.float64]:
        """Lesion volumes, (N,), mm3."""
        counts = (self.part.labels > 0).sum((1, 2, 3)).numpy()
        return np.asarray(counts * self.spacing_mm**3, dtype=np.float64)

    @property
    def nihss(self) -> NDArray[np.float64]:
        """Total score of each, (N,); NaN where it is not known."""
        column = self.part.facts.kinds.index(NIHSS)
        return np.asarray(self.part.facts.numbers[:, column].numpy(), dtype=np.float64)

    def like(self, case: int) -> Volume:
        """Return an empty volume of the extent of a case."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])[[2, 1, 0, 3]]
        return Volume(np.zeros(self.part.extents[case].tolist(), np.float32), affine, "", "MR")

    def asked(self, case: int, card: ModelCard) -> tuple[ClinicalFact, ...]:
        """Return what is known of a case and may be told to a model; a number beyond its trained range as the range's end.

        Never the volume: whether it follows from the rest is what is measured.
        """
        volumes = {concept for _, concept in card.reference.labels}
        facts, told = (
            self.part.facts,
            {concept.kind: concept.trained for concept in card.concepts if concept.kind not in volumes},
        )
        units = {concept.kind: concept.unit for concept in CONCEPTS}
        asked = []
        for column, kind in enumerate(facts.kinds):
            number, answer = float(facts.numbers[case, column]), int(facts.answers[case, column])
            if kind not in told or (np.isnan(number) and answer < 0):
                continue
            trained = told[kind]
            number = min(max(number, trained.low), trained.high) if trained else number
            value = facts.texts[answer] if answer >= 0 else number
            asked.append(ClinicalFact((Coding(MEASUREMENT_SYSTEM, kind),), kind, value, units[kind], None, "request"))
        return tuple(asked)


@dataclass(frozen=True, eq=False)
class _Made:
    cases: NDArray[np.intp]
    volumes: NDArray[np.float64]
    seconds: NDArray[np.float64]
    passed: NDArray[np.bool_]
    same: NDArray[np.bool_]


def lesion_rows(
    model: EvaluatedModel, lesions: Lesions, *, count: int, seed: int, replays: int, tell: Callable[[int, int], None]
) -> Iterator[Row]:
    """Draw lesions for held-out people and yield the figures.

    Parameters
    ----------
    count : int
        Lesions to draw: person by person, and again with other seeds.
    replays : int
        How many of the first are drawn twice.
    """
    known = np.flatnonzero(np.isfinite(lesions.nihss))
    made = _draw(model, lesions, known, count=count, seed=seed, replays=replays, tell=tell)
    nihss, real = lesions.nihss, lesions.volumes
    score = nihss[made.cases]
    yield Row(
        "nihss",
        "Spearman of NIHSS and lesion volume",
        estimate(lambda a: spearman(score[a], made.volumes[a]), made.cases),
        beside=estimate(lambda b: spearman(nihss[known][b], real[known][b]), known),
    )
    yield Row(
        "lesion-median",
        "lesion volume, median",
        estimate(lambda a: float(np.median(made.volumes[a])), made.cases),
        "mm3",
        estimate(lambda b: float(np.median(real[known][b])), known),
    )
    yield Row(
        "seconds",
        "seconds a volume, from what is asked to the volume, median",
        estimate(lambda a: float(np.median(made.seconds[a])), made.cases),
        "s",
    )
    yield Row("passed", PASSED, estimate(lambda a: float(made.passed[a].mean()), made.cases))
    first = made.cases[: len(made.same)]
    yield Row("replayed", "share that comes again bit by bit", estimate(lambda a: float(made.same[a].mean()), first))


def lesion_mm3(generated: GeneratedVolume) -> float:
    """Return the volume of everything that is labelled, mm3."""
    labels = generated.label_map
    voxels = 0 if labels is None else int((labels > 0).sum())
    return voxels * float(np.prod(generated.volume.spacing_mm))


def _draw(
    model: EvaluatedModel,
    lesions: Lesions,
    known: NDArray[np.intp],
    *,
    count: int,
    seed: int,
    replays: int,
    tell: Callable[[int, int], None],
) -> _Made:
    cases = np.resize(known, count)
    volumes, seconds, passed, same = [], [], [], []
    for index, case in enumerate(cases.tolist()):
        asked, like = lesions.asked(case, model.card), lesions.like(case)
        started = time.perf_counter()
        generated = model.draw(asked, None, like=like, seed=seed + index)
        seconds.append(time.perf_counter() - started)
        volumes.append(lesion_mm3(generated))
        passed.append(check(generated, None, model.card).passed)
        if index < replays:
            again = model.draw(asked, None, like=like, seed=seed + index)
            same.append(bits_of(generated) == bits_of(again))
        tell(index + 1, count)
    return _Made(cases, np.array(volumes), np.array(seconds), np.array(passed), np.array(same))
