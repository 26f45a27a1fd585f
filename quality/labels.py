"""Checks of the label map that belongs to a generated volume: its labels, their pieces, and the volumes that were asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from domain.findings import Finding, Outcome
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard

_LABELS = "labels"
_PIECES = "label-pieces"
_REQUESTED = "requested-volume"

# UCUM units of a volume, in mm3.
_UNIT_MM3 = {"mm3": 1.0, "cm3": 1000.0, "mL": 1000.0, "ml": 1000.0}


def check_labels(generated: GeneratedVolume, card: ModelCard) -> tuple[Finding, ...]:
    """Refuse a label map that is missing, on another grid, with unknown, empty or scattered labels."""
    known = {value for value, _ in card.reference.labels}
    allowed = f"labels {', '.join(map(str, sorted(known)))} and 0, each present, on the grid of the volume" if known else "none"
    label_map = generated.label_map
    if label_map is None:
        if not known:
            return (Finding(_LABELS, Outcome.NOT_APPLICABLE, None, allowed, "This model makes no label map."),)
        return (Finding(_LABELS, Outcome.FAILED, None, allowed, "The model makes a label map, and this volume has none."),)
    if label_map.shape != generated.volume.shape:
        return (Finding(_LABELS, Outcome.FAILED, None, allowed, "The label map is not on the grid of the volume."),)
    present = {int(value) for value in np.unique(label_map)} - {0}
    wrong = sorted(present ^ known)
    if wrong:
        sentence = f"Labels that are unknown or empty: {', '.join(map(str, wrong))}."
        return (Finding(_LABELS, Outcome.FAILED, float(len(wrong)), allowed, sentence),)
    agrees = Finding(_LABELS, Outcome.PASSED, 0.0, allowed, "Every label is known and none is empty.")
    return (agrees, _check_pieces(label_map, sorted(known), card.reference.main_piece)) if known else (agrees,)


def check_requested_volumes(generated: GeneratedVolume, card: ModelCard) -> tuple[Finding, ...]:
    """Compare each volume that was asked for with that of its label; told is the relative difference, never the volume."""
    tolerance = card.reference.volume_tolerance
    allowed = f"at most {tolerance:.0%} relative difference"
    targets = generated.conditioning.targets
    if not targets:
        return (Finding(_REQUESTED, Outcome.NOT_APPLICABLE, None, allowed, "No volume was asked for."),)
    return tuple(_check_target(generated, card, target, allowed) for target in targets)


def main_piece_share(mask: NDArray[np.bool_]) -> float:
    """Return the share of a mask's voxels that its largest piece holds; neighbours share a face. NaN for an empty mask."""
    size = int(mask.sum())
    return _largest_piece(_cropped(mask)) / size if size else math.nan


def _check_target(generated: GeneratedVolume, card: ModelCard, target: tuple[str, float, str], allowed: str) -> Finding:
    kind, value, unit = target
    labels = _labels_of(kind, card)
    if not labels:
        return Finding(_REQUESTED, Outcome.NOT_APPLICABLE, None, allowed, f"No label of the model measures {kind}.")
    if generated.label_map is None:
        return Finding(_REQUESTED, Outcome.NOT_APPLICABLE, None, allowed, f"Without a label map {kind} cannot be measured.")
    scale = _UNIT_MM3.get(unit)
    if scale is None or not value > 0 or not math.isfinite(value):
        return Finding(_REQUESTED, Outcome.FAILED, None, allowed, f"What was asked for {kind} is no volume in a known unit.")
    voxel_mm3 = abs(float(np.linalg.det(generated.volume.affine_lps[:3, :3])))
    made_mm3 = float(np.isin(generated.label_map, labels).sum()) * voxel_mm3
    asked_mm3 = value * scale
    difference = abs(made_mm3 - asked_mm3) / asked_mm3
    outcome = Outcome.PASSED if difference <= card.reference.volume_tolerance else Outcome.FAILED
    # Told in whole percents, rounded up: with the exact difference the patient's value could be computed from the label map.
    told = math.ceil(100 * difference - 1e-9) / 100
    sentence = f"The generated {kind} differs by {told:.0%} from the one that was asked for."
    return Finding(_REQUESTED, outcome, told, allowed, sentence)


def _labels_of(kind: str, card: ModelCard) -> list[int]:
    """Labels that make up a concept: its own, or all its parts (``x-volume`` = ``x-anterior-volume`` + ...)."""
    own = [value for value, concept in card.reference.labels if concept == kind]
    if own or not kind.endswith("-volume"):
        return own
    prefix = kind.removesuffix("volume")
    return [value for value, concept in card.reference.labels if concept.startswith(prefix) and concept.endswith("-volume")]


def _check_pieces(label_map: NDArray[np.uint8], known: list[int], least: float) -> Finding:
    shares = {label: main_piece_share(label_map == label) for label in known}
    worst = min(shares, key=lambda label: shares[label])
    share = shares[worst]
    sentence = f"The largest piece of label {worst} holds {share:.1%} of it."
    outcome = Outcome.PASSED if share >= least else Outcome.FAILED
    return Finding(_PIECES, outcome, share, f"at least {least:.0%} of each label in one piece", sentence)


def _cropped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    box = tuple(slice(int(hit.min()), int(hit.max()) + 1) for hit in np.nonzero(mask))
    return mask[box]


def _largest_piece(mask: NDArray[np.bool_]) -> int:
    """Voxels of the largest 6-connected piece: every voxel takes the least number among its neighbours until none changes."""
    numbers = np.where(mask, np.arange(mask.size).reshape(mask.shape), mask.size)
    while True:
        before = numbers.copy()
        for here, there in _face_neighbours(mask.ndim):
            both = mask[here] & mask[there]
            least = np.minimum(numbers[here], numbers[there])
            numbers[here] = np.where(both, least, numbers[here])
            numbers[there] = np.where(both, np.minimum(least, numbers[there]), numbers[there])
        # Jump: a voxel's number is itself the place of a voxel, whose number is not larger.
        numbers[mask] = numbers.ravel()[numbers[mask]]
        if np.array_equal(before, numbers):
            return int(np.bincount(numbers[mask]).max())


def _face_neighbours(dimensions: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    for axis in range(dimensions):
        everything = [slice(None)] * dimensions
        here, there = list(everything), list(everything)
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        yield tuple(here), tuple(there)
