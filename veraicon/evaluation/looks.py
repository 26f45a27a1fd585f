"""Whether generated volumes look like real ones, and differ from one another as real ones do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.grid import normalised
from quality.distances import frechet, kernel
from quality.diversity import likeness_of_pairs, pairs_of
from quality.halves import SPLITS, BesideReal, beside_real
from quality.measured import Measured
from quality.resampling import Estimate, estimate
from quality.support import support
from veraicon.evaluation.figures import Real
from veraicon.evaluation.generating import Arm
from veraicon.evaluation.report import Row

_PAIRS = 200

Features = NDArray[np.floating[Any]]


def distances(asked: Arm, found: Measured, real: Real, *, splits: int = SPLITS) -> Iterator[Row]:
    """Yield distances in feature space, precision and recall, each beside the same of real volumes at the same number."""
    case_of = {crop.number: index for index, crop in enumerate(real.crops)}
    made_for = [case_of[one.crop.number] for one in asked.drawn]

    def compare(figure: Callable[[Features, Features], float]) -> BesideReal:
        people = real.people.tolist()
        return beside_real(figure, real.measured.features, people, found.features, made_for, splits=splits)

    apart = compare(frechet)
    yield Row("frechet", "Fréchet distance to real, over real to real", apart.ratio)
    yield Row("frechet-plain", "Fréchet distance (FID) to real", apart.generated, beside=apart.real)
    kernels = compare(kernel)
    yield Row("kernel", "kernel distance (KID) to real", kernels.generated, beside=kernels.real)
    for name in ("precision", "recall", "density", "coverage"):
        both = compare(partial(_share, name))
        yield Row(name, name, both.generated, beside=both.real)


def diversity(asked: Arm, real: Real) -> Iterator[Row]:
    """Yield the likeness (MS-SSIM) of generated volumes of two people, beside that of the real volumes of the same two."""
    first = {one.crop.number: one.generated.volume.array for one in reversed(asked.drawn)}
    crops = [crop for crop in real.crops if crop.number in first]
    pairs = pairs_of([crop.subject for crop in crops], count=_PAIRS)
    people = np.array([crop.subject for crop in crops])[pairs]  # (P, 2)
    made = likeness_of_pairs([normalised(first[crop.number]) for crop in crops], pairs)
    ours, theirs = made, likeness_of_pairs([crop.image for crop in crops], pairs)
    yield Row(
        "likeness",
        "likeness of two people's volumes (MS-SSIM), mean",
        _mean(ours, people),
        beside=_mean(theirs, people),
    )


def _share(name: str, reference: Features, other: Features) -> float:
    return float(getattr(support(reference, other), name))


def _mean(values: NDArray[np.float64], people: NDArray[np.int64]) -> Estimate:
    return estimate(lambda chosen: float(values[chosen].mean()), people)


def facts() -> Sequence[tuple[str, str]]:
    """Return what has to be known to read these figures."""
    return (
        (
            "distances, precision, recall, density, coverage",
            f"{SPLITS} random halvings of the held-out people: one half is the reference, against it stand the other half and "
            "as many volumes that were generated for that other half; medians, and the middle 95 in 100 of the halvings",
        ),
    )
