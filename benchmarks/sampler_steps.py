"""What a model's volumes are worth by how many steps they are drawn in, and by which rule: on validation people alone.

Run: python benchmarks/sampler_steps.py DATASET [MODEL]

DATASET is the folder of Task04 of the Medical Segmentation Decathlon, MODEL a packaged name or a bundle of latent diffusion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from generators import latent_diffusion, sampler
from generators.hippocampus_data import Crop, of_subjects, read_crops, split_subjects
from quality.measured import measure
from quality.measuring_network import load_measuring_network
from veraicon.evaluation import figures, looks
from veraicon.evaluation.figures import Real
from veraicon.evaluation.generating import Arm, draw_arm, usable
from veraicon.evaluation.models import EvaluatedModel, open_model
from veraicon.evaluation.people import SPLIT_SEED, volume_of
from veraicon.evaluation.plan import Sampling
from veraicon.evaluation.report import Row

_RULES = {"Euler": (8, 6, 4), "with the step before": (8, 6, 5, 4)}
_DRAWS = 3
_SHOWN = {
    "obedience-error": "error over the network's own",
    "total-bias": "mean difference, mm3",
    "obedience-r": "r over",
    "dropped-spread": "spread, value dropped",
    "frechet": "Fréchet ratio",
    "copied": "near copies",
    "recall": "recall",
}


def _by_euler(*args: Any, multistep: bool, **options: Any) -> Any:
    return sampler.sample(*args, multistep=False, **options)


def _rows(model: EvaluatedModel, crops: tuple[Crop, ...], train: tuple[Crop, ...], real: Real) -> Iterator[Row]:
    ruler, count = load_measuring_network(), _DRAWS * len(crops)

    def drawn(*, told: bool) -> Arm:
        return draw_arm(model, crops, count=count, seed=0, told=told, tell=lambda _done, _of: None)

    asked, dropped = drawn(told=True), drawn(told=False)
    found = measure(ruler, asked.images), measure(ruler, dropped.images)
    yield from figures.obedience(asked, found[0], real)
    yield from figures.variety(asked, dropped, found, real)
    yield from looks.distances(asked, found[0], real)
    yield from figures.memory(asked, train, real, lambda crop: model.through_autoencoder(volume_of(crop)))


def main() -> None:
    """Print a table in Markdown."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    folder, name = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "hippocampus-t1"
    crops = read_crops(folder)
    split = split_subjects(crops, seed=SPLIT_SEED)
    people, train = of_subjects(crops, split.validation), of_subjects(crops, split.train)
    print("| rule, steps | " + " | ".join(_SHOWN.values()) + " |")
    print("|---" * (1 + len(_SHOWN)) + "|")
    for rule, steps in ((rule, steps) for rule, counts in _RULES.items() for steps in counts):
        model = open_model(name, sampling=Sampling(steps=steps), threads=2)
        mine = usable(people, model.card)
        with patch.object(latent_diffusion, "sample", _by_euler if rule == "Euler" else sampler.sample):
            rows = {row.key: row for row in _rows(model, mine, train, Real.of(mine, load_measuring_network()))}
        print(f"| {rule}, {steps} | " + " | ".join(f"{rows[key].value.value:.3g}" for key in _SHOWN) + " |", flush=True)


if __name__ == "__main__":
    main()
