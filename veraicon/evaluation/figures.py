"""From what was drawn and measured to figures: does a model obey, does it vary, does it remember.

Every interval is over people, and a figure that compares with real people resamples both sides together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.volume import FloatArray
from generators.hippocampus_data import Crop
from quality.agreement import mean_absolute_error, pearson, slope, spread
from quality.measured import Measured, measure, overlaps
from quality.memorisation import common_shape, copied_share, nearest_distances
from quality.resampling import DRAWS, LEVEL, estimate
from quality.segmentation import Segmenter
from veraicon.evaluation.generating import Arm
from veraicon.evaluation.report import Row

Numbers = NDArray[np.float64]

PASSED = "share that the quality checks let pass at the first draw"

_TOTAL = 2
_LABELS = ("anterior", "posterior")


@dataclass(frozen=True, eq=False)
class Real:
    """Held-out people, measured as the generated volumes are."""

    crops: tuple[Crop, ...]
    measured: Measured

    @classmethod
    def of(cls, crops: tuple[Crop, ...], ruler: Segmenter) -> Real:
        """Return crops as the measuring network sees them."""
        return cls(crops, measure(ruler, [crop.image for crop in crops]))

    @property
    def people(self) -> NDArray[np.int64]:
        """Person of each, (N,)."""
        return np.array([crop.subject for crop in self.crops])

    @property
    def true(self) -> Numbers:
        """Volumes that people drew, (N, 3), mm3."""
        return np.array([crop.values for crop in self.crops])


@dataclass(frozen=True, eq=False)
class _Side:
    """Two numbers for each case, what it should be and what it measures, and whose case it is."""

    wanted: Numbers
    got: Numbers
    people: NDArray[np.int64]


def obedience(asked: Arm, found: Measured, real: Real) -> Iterator[Row]:
    """Yield how closely measured volumes follow requested ones, beside how closely they follow the truth of real people."""
    for column, kind in ((_TOTAL, "total"), (0, "anterior"), (1, "posterior")):
        ours = _Side(asked.requested[:, column], found.volumes[:, column], asked.people)
        theirs = _Side(real.true[:, column], real.measured.volumes[:, column], real.people)
        about = f"requested and measured {kind} volume"
        for key, name, unit, figure in (
            ("r", "r", "", pearson),
            ("slope", "slope", "", slope),
            ("error", "mean absolute error", "mm3", mean_absolute_error),
            ("bias", "mean difference", "mm3", _bias),
        ):
            if kind == "total" and key != "bias":
                yield _over(f"obedience-{key}", f"{about}, {name} over the measuring network's own", figure, ours, theirs)
            yield _beside(f"{kind}-{key}", f"{about}, {name}", unit, figure, ours, theirs)


def variety(asked: Arm, dropped: Arm, found: tuple[Measured, Measured], real: Real) -> Iterator[Row]:
    """Yield the spread of measured total volume, told and not told, beside that of real people."""
    theirs = _Side(real.true[:, _TOTAL], real.measured.volumes[:, _TOTAL], real.people)
    for key, arm, sizes in (("dropped", dropped, found[1]), ("asked", asked, found[0])):
        ours = _Side(arm.requested[:, _TOTAL], sizes.volumes[:, _TOTAL], arm.people)
        words = "with the value dropped" if key == "dropped" else "as requested"
        name = f"spread of measured total volume {words}"
        yield _over(f"{key}-spread", f"{name}, over that of real", _spread_of_measured, ours, theirs)
        yield _beside(f"{key}-spread-mm3", name, "mm3", _spread_of_measured, ours, theirs)


def label_agreement(asked: Arm, found: Measured, real: Real) -> Iterator[Row]:
    """Yield the Dice of the label map that came with a volume and what the measuring network sees in it."""
    maps = [one.generated.label_map for one in asked.drawn]
    whole = [index for index, labels in enumerate(maps) if labels is not None]
    ours = overlaps([found.labels[index] for index in whole], [labels for labels in maps if labels is not None], len(_LABELS))
    theirs = overlaps(real.measured.labels, [crop.labels for crop in real.crops], len(_LABELS))
    for label, name in enumerate(_LABELS):
        a, b = ours[:, label], theirs[:, label]
        yield Row(
            f"label-dice-{name}",
            f"Dice of the measuring network with the label map, {name}",
            estimate(lambda chosen, values=a: float(values[chosen].mean()), asked.people[whole]),
            beside=estimate(lambda chosen, values=b: float(values[chosen].mean()), real.people),
        )


def memory(asked: Arm, train: Sequence[Crop], real: Real, through_autoencoder: Callable[[Crop], FloatArray]) -> Iterator[Row]:
    """Yield the share of generated volumes that lie nearer to a training volume than 95 in 100 held-out ones do."""
    training, made = [crop.image for crop in train], asked.images
    held_out = [through_autoencoder(crop) for crop in real.crops]
    shape = common_shape([*training, *made, *held_out])
    ours, theirs = (nearest_distances(volumes, training, shape) for volumes in (made, held_out))
    yield Row(
        "copied",
        "share nearer to a training volume than the held-out 5th percentile",
        estimate(lambda a, b: copied_share(ours, theirs, a, b), asked.people, real.people),
    )
    yield Row(
        "nearest",
        "distance to the nearest training volume, median",
        estimate(lambda a: float(np.median(ours[a])), asked.people),
        beside=estimate(lambda b: float(np.median(theirs[b])), real.people),
    )


def downstream(overlap: dict[str, Numbers], people: NDArray[np.int64]) -> Iterator[Row]:
    """Yield Dice on real people after training on synthetic volumes, and on both, beside training on real ones.

    Parameters
    ----------
    overlap : mapping of str to array, (N, L)
        Dice of each held-out crop and label by arm: ``real``, ``synthetic``, ``both``.
    people : array, (N,)
        Person of each crop.
    """
    of_real = overlap["real"]
    for arm, key, name in (("synthetic", "downstream", "synthetic"), ("both", "downstream-both", "real and synthetic")):
        ours = overlap[arm]
        words = f"Dice on real people, trained on {name}"
        over = estimate(lambda a, b, x=ours: float(x[a].mean() / of_real[b].mean()), people, people)
        yield Row(key, f"{words}, over trained on real", over)
        for label, part in ((slice(None), "mean"), (0, _LABELS[0]), (1, _LABELS[1])):
            yield Row(
                f"{key}-{part}",
                f"{words}, {part}",
                estimate(lambda a, x=ours[:, label]: float(x[a].mean()), people),
                beside=estimate(lambda b, x=of_real[:, label]: float(x[b].mean()), people),
            )


def cost(asked: Arm, same: NDArray[np.bool_]) -> Iterator[Row]:
    """Yield seconds a volume, the share that the checks let pass, and the share that came again bit by bit."""
    seconds = np.array([one.seconds for one in asked.drawn])
    yield Row(
        "seconds",
        "seconds a volume, from what is asked to the volume, median",
        estimate(lambda chosen: float(np.median(seconds[chosen])), asked.people),
        unit="s",
    )
    passed = np.array([one.passed for one in asked.drawn])
    yield Row("passed", PASSED, estimate(lambda chosen: float(passed[chosen].mean()), asked.people))
    first = asked.people[: len(same)]
    yield Row("replayed", "share that comes again bit by bit", estimate(lambda chosen: float(same[chosen].mean()), first))


def facts() -> tuple[tuple[str, str], ...]:
    """Return what has to be known to read the intervals."""
    text = f"{LEVEL:g} % by bootstrap over people, {DRAWS} resamples, seed 0; generated and real are resampled together"
    return (("intervals", f"{text}; n counts volumes, or pairs of them"),)


def _over(key: str, name: str, figure: Callable[[Numbers, Numbers], float], ours: _Side, theirs: _Side) -> Row:
    def ratio(a: NDArray[np.intp], b: NDArray[np.intp]) -> float:
        below = figure(theirs.wanted[b], theirs.got[b])
        return figure(ours.wanted[a], ours.got[a]) / below if below else float("nan")

    return Row(key, name, estimate(ratio, ours.people, theirs.people))


def _beside(key: str, name: str, unit: str, figure: Callable[[Numbers, Numbers], float], ours: _Side, theirs: _Side) -> Row:
    value, beside = (
        estimate(lambda chosen, side=side: figure(side.wanted[chosen], side.got[chosen]), side.people)
        for side in (ours, theirs)
    )
    return Row(key, name, value, unit, beside)


def _bias(wanted: Numbers, got: Numbers) -> float:
    return float((got - wanted).mean())


def _spread_of_measured(_: Numbers, got: Numbers) -> float:
    return spread(got)
