"""Checks that every generated volume has to pass before it may leave. numpy only, so that any process can repeat them.

A check that cannot be computed has failed: NaN is in no range. No sentence repeats a value of a patient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from domain.findings import Finding, Outcome, QualityReport
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard, ValueRange
from domain.volume import Volume, to_patient_axes
from quality.labels import check_labels, check_requested_volumes
from quality.privacy import not_a_copy

# Between the 1st and 99th percentile, as a share of the model's intensity range. A faint image is still an image: this
# catches the constant ones; how much contrast is normal says the card by its standard deviation.
_MIN_CONTRAST = 0.01
# Rounding of stored affines, in voxels.
_GRID_SLACK = 1e-3


def check(generated: GeneratedVolume, source: Volume | None, card: ModelCard) -> QualityReport:
    """Return what all checks say about one generated volume.

    Parameters
    ----------
    generated : GeneratedVolume
        What the generator made, in the card's intensity scale.
    source : Volume or None
        The real image that conditioned it, in any axes and scale.
    card : ModelCard
        Its `reference` and `limits` are what is allowed.
    """
    volume = generated.volume
    finite = check_finite(volume)
    if finite.outcome is Outcome.FAILED:
        return QualityReport((finite,))  # nothing that is measured on NaN means anything
    return QualityReport(
        (
            finite,
            check_contrast(volume, card),
            check_intensity(volume, card),
            _in_range("mean", mean(volume), card.reference.mean, "mean intensity"),
            _in_range(
                "standard-deviation", standard_deviation(volume), card.reference.standard_deviation, "spread of intensity"
            ),
            _in_range("sharpness", sharpness(volume), card.reference.sharpness, "mean absolute gradient"),
            check_spacing(volume, card),
            check_extent(volume, source),
            *check_labels(generated, card),
            *check_requested_volumes(generated, card),
            not_a_copy(generated, source, card),
        )
    )


def mean(volume: Volume) -> float:
    """Return the mean of all voxels."""
    return float(volume.array.mean(dtype=np.float64))


def standard_deviation(volume: Volume) -> float:
    """Return the standard deviation of all voxels."""
    return float(volume.array.std(dtype=np.float64))


def sharpness(volume: Volume) -> float:
    """Return the mean absolute difference of neighbours per mm, averaged over the axes; NaN where an axis has one voxel."""
    if min(volume.shape) < 2:
        return float("nan")
    array = volume.array.astype(np.float64)
    return float(np.mean([np.abs(np.diff(array, axis=axis)).mean() / volume.spacing_mm[axis] for axis in range(3)]))


def check_finite(volume: Volume) -> Finding:
    """Refuse NaN, infinity and an empty array."""
    allowed = "only finite voxels"
    if volume.array.size == 0:
        return Finding("finite", Outcome.FAILED, None, allowed, "The volume has no voxels.")
    broken = int(np.size(volume.array) - np.isfinite(volume.array).sum())
    sentence = f"{broken} voxels are not finite." if broken else "Every voxel is finite."
    return Finding("finite", _outcome(broken == 0), float(broken), allowed, sentence)


def check_contrast(volume: Volume, card: ModelCard) -> Finding:
    """Refuse a volume that is constant or nearly so."""
    intensity = card.reference.intensity_range
    low, high = np.percentile(volume.array, (1, 99))
    share = float(high - low) / (intensity.high - intensity.low) if intensity.high > intensity.low else float("nan")
    sentence = f"The 1st and 99th percentile lie {share:.1%} of the intensity range apart."
    return Finding("contrast", _outcome(share >= _MIN_CONTRAST), share, f"at least {_MIN_CONTRAST:.0%}", sentence)


def check_intensity(volume: Volume, card: ModelCard) -> Finding:
    """Refuse intensities outside the model's output range."""
    accepted = card.reference.intensity_range
    low, high = float(volume.array.min()), float(volume.array.max())
    worst = low if low not in accepted else high
    inside = low in accepted and high in accepted
    sentence = "All intensities lie in the model's output range." if inside else f"An intensity of {worst:.4g} lies outside."
    return Finding("intensity", _outcome(inside), worst, str(accepted), sentence)


def check_spacing(volume: Volume, card: ModelCard) -> Finding:
    """Refuse a voxel size that the model was not trained at."""
    accepted = card.limits.spacing_mm
    outside = [spacing for spacing in volume.spacing_mm if spacing not in accepted]
    measured = outside[0] if outside else max(volume.spacing_mm)
    sentence = (
        f"A voxel spacing is {measured:.3f} mm." if outside else "Every voxel spacing is one that the model was trained at."
    )
    return Finding("spacing", _outcome(not outside), measured, str(accepted), sentence)


def check_extent(volume: Volume, source: Volume | None) -> Finding:
    """Refuse a volume that does not cover what the source covers, corner by corner.

    The eight outer corners of both grids are compared in voxels of the generated grid, so a shift, a turn, a flip that
    was not written into the affine and a wrong size are all seen.
    """
    allowed = "at most 1 voxel between the corners of the generated and the source grid"
    if source is None:
        return Finding("extent", Outcome.NOT_APPLICABLE, None, allowed, "No source image conditioned this volume.")
    ours, theirs = to_patient_axes(volume), to_patient_axes(source)
    try:
        to_ours = np.linalg.inv(ours.affine_lps)
    except np.linalg.LinAlgError:
        return Finding("extent", Outcome.FAILED, None, allowed, "The geometry of the volume is degenerate.")
    distance = float(np.abs(to_ours[:3, :3] @ (_corners_mm(ours) - _corners_mm(theirs))).max())
    sentence = f"The corners of the grids differ by up to {distance:.2f} voxels."
    return Finding("extent", _outcome(distance <= 1 + _GRID_SLACK), distance, allowed, sentence)


def _corners_mm(volume: Volume) -> NDArray[np.float64]:
    """Outer corners of the volume, (3, 8), LPS mm: half a voxel beyond the outermost centres."""
    corners = np.array([[-0.5 if low else n - 0.5 for low, n in zip(c, volume.shape, strict=True)] for c in _binary_corners()])
    placed: NDArray[np.float64] = volume.affine_lps[:3, :3] @ corners.T + volume.affine_lps[:3, 3:4]
    return placed


def _binary_corners() -> Iterator[tuple[int, ...]]:
    return np.ndindex(2, 2, 2)


def _in_range(check_name: str, measured: float, accepted: ValueRange, what: str) -> Finding:
    inside = measured in accepted
    sentence = f"The {what} is {measured:.4g}, {'as in' if inside else 'unlike'} real volumes."
    return Finding(check_name, _outcome(inside), measured, str(accepted), sentence)


def _outcome(passed: bool) -> Outcome:
    return Outcome.PASSED if passed else Outcome.FAILED
