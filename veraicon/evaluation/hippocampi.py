"""Measures hippocampus models on held-out people: all on the same people, by the same network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from domain.generation import guidance_text
from generators.hippocampus_data import Crop
from quality.measured import Measured, measure
from quality.measuring_network import load_measuring_network, read_measuring_card
from veraicon.evaluation import figures, looks
from veraicon.evaluation.contact_sheet import write_contact_sheet
from veraicon.evaluation.downstream import generated_examples, real_examples, trained_overlap
from veraicon.evaluation.figures import Real
from veraicon.evaluation.generating import Arm, clipped, draw_arm, replayed, usable
from veraicon.evaluation.models import EvaluatedModel
from veraicon.evaluation.people import SPLIT_SEED, read_people, volume_of
from veraicon.evaluation.plan import EvaluationPlan, Tell, telling
from veraicon.evaluation.report import ModelReport, Row

_TRAINING_PEOPLE_SEED = 500_000  # added to the seed: no volume for a training person has the noise of one for a held-out person


class HippocampusBench:
    """Real people, measured once, and everything that models are held against.

    Parameters
    ----------
    dataset : Path
        MSD Task04, see `generators.hippocampus_data.read_crops`.
    out : Path
        Contact sheets go here.

    Raises
    ------
    ConfigurationError
        If the folder does not hold the data set.
    WeightsRejected
        If the measuring network cannot be trusted.
    """

    def __init__(self, dataset: Path, out: Path, plan: EvaluationPlan, tell: Tell) -> None:
        self._out, self._plan, self._tell = out, plan, tell
        self._people, self._ruler = read_people(dataset), load_measuring_network(plan.measuring)
        torch.set_num_threads(plan.threads)
        self._examples = real_examples(self._people.train)
        told = telling(tell, "segmenter: real")
        self._real_dice = trained_overlap(self._examples, self._people.test, steps=plan.segmenter_steps, tell=told)

    def measure(self, model: EvaluatedModel) -> ModelReport:
        """Draw what is needed from a model, and return its figures."""
        plan, crops = self._plan, usable(self._people.test, model.card)
        real = Real.of(crops, self._ruler)
        asked = self._draw(model, crops, "asked")
        dropped = self._draw(model, crops, "value dropped", told=False)
        found, found_dropped = (measure(self._ruler, arm.images) for arm in (asked, dropped))
        same = replayed(model, asked, crops, count=plan.replays)
        rows = (
            *figures.obedience(asked, found, real),
            *figures.variety(asked, dropped, (found, found_dropped), real),
            *figures.label_agreement(asked, found, real),
            *self._worth(model),
            *looks.distances(asked, found, real),
            *looks.diversity(asked, real),
            *figures.memory(asked, self._people.train, real, lambda crop: model.through_autoencoder(volume_of(crop))),
            *figures.cost(asked, same),
        )
        self._picture(model, asked, found, real)
        return ModelReport(model.title, rows, tuple(self._model_facts(model, crops)))

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Return what has to be known to read any of the figures."""
        card, people = read_measuring_card(self._plan.measuring), self._people
        persons = [len({crop.subject for crop in part}) for part in (people.test, people.train)]
        return (
            (
                "people",
                f"{len(people.test)} real crops of {persons[0]} held-out people; {len(people.train)} of {persons[1]} training "
                f"people; split by person (subject_group), seed {SPLIT_SEED}",
            ),
            (
                "measuring and feature network",
                f"{card.name} {card.version}, {card.weights_digest}; features: the mean over space of every channel of every "
                "level on the way down",
            ),
            (
                "segmenters of the Dice after training",
                f"the same network, first weights, alterations and {self._plan.segmenter_steps} steps for every arm; synthetic "
                f"volumes for training people, {self._plan.count} of them, with the label maps that came with them",
            ),
            *looks.facts(),
            *figures.facts(),
        )

    def _draw(self, model: EvaluatedModel, crops: tuple[Crop, ...], what: str, *, told: bool = True) -> Arm:
        plan, tell = self._plan, telling(self._tell, f"{model.title}: {what}")
        return draw_arm(model, crops, count=plan.count, seed=plan.seed, told=told, tell=tell)

    def _worth(self, model: EvaluatedModel) -> Iterator[Row]:
        """Draw volumes for training people, never for held-out ones, on whom the segmenters are judged."""
        plan, title = self._plan, model.title
        crops, seed = usable(self._people.train, model.card), plan.seed + _TRAINING_PEOPLE_SEED
        told = telling(self._tell, f"{title}: for training people")
        synthetic = generated_examples(draw_arm(model, crops, count=plan.count, seed=seed, tell=told))
        overlap = {"real": self._real_dice}
        for arm, examples in (("synthetic", synthetic), ("both", self._examples + synthetic)):
            told = telling(self._tell, f"{title}: segmenter, {arm}")
            overlap[arm] = trained_overlap(examples, self._people.test, steps=plan.segmenter_steps, tell=told)
        yield from figures.downstream(overlap, np.array([crop.subject for crop in self._people.test]))

    def _picture(self, model: EvaluatedModel, asked: Arm, found: Measured, real: Real) -> None:
        caption = f"{model.title}. Real crops and training data: {model.card.attribution} Licence: {model.card.licence}."
        write_contact_sheet(
            self._out / f"contact-sheet-{model.title.replace(' ', '-')}.png", asked, found, real, caption=caption
        )

    def _model_facts(self, model: EvaluatedModel, crops: tuple[Crop, ...]) -> Iterator[tuple[str, str]]:
        yield "weights", model.card.weights_digest
        how = f"guidance {guidance_text(model.guidance)}, {model.steps} steps, seed {self._plan.seed}"
        yield "drawn", f"{self._plan.count} volumes an arm, {how}"
        out = len(self._people.test) - len(crops)
        moved = sum(not np.allclose(clipped(crop, model.card), crop.values) for crop in crops)
        text = (
            f"anterior and posterior volume of {len(crops)} held-out crops; {moved} of them lie beyond the trained range and "
            f"were asked for at its end; {out} more were left out, since the model does not take their field of view"
        )
        yield "asked", text
