"""How much of a stroke lesion its largest piece holds, by the steps it is drawn in, beside real lesions of validation people.

Run: python benchmarks/lesion_pieces.py DATASET

DATASET is the folder of the Stroke Outcome Optimization Project's masks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy import ndimage

from generators.stroke_data import read_lesions
from veraicon.evaluation.lesions import Lesions
from veraicon.evaluation.models import open_model
from veraicon.evaluation.plan import Sampling

_STEPS = (8, 4)


def _largest(mask: NDArray[Any]) -> float:
    numbers, _ = ndimage.label(mask > 0)
    return float(np.bincount(numbers[numbers > 0]).max() / (mask > 0).sum())


def main() -> None:
    """Print a mean for real lesions, and one for each number of steps."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    lesions = Lesions(read_lesions(Path(sys.argv[1]))["validation"], 2.0)
    cases = range(len(lesions))
    print(f"real: {np.mean([_largest(mask.numpy()) for mask in lesions.part.labels]):.2f}, n {len(lesions)}")
    for steps in _STEPS:
        model = open_model("stroke-lesion", sampling=Sampling(steps=steps), threads=2)
        made = [
            model.draw(lesions.asked(case, model.card), None, like=lesions.like(case), seed=case).label_map for case in cases
        ]
        shares = [_largest(mask) for mask in made if mask is not None]
        print(f"{steps} steps: {np.mean(shares):.2f}, n {len(shares)}", flush=True)


if __name__ == "__main__":
    main()
