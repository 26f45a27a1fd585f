"""Checks that every generated volume has to pass before it may leave. numpy only, so that any process can repeat them.

A check that cannot be computed has failed: NaN is in no range. No sentence repeats a value of a patient.
"""

from __future__ import annotations

import numpy as np

from domain.findings import Finding, Outcome, QualityReport
from domain.generation import GeneratedVolume
from domain.image_statistics import mean, sharpness, standard_deviation
from domain.model_card import ModelCard, ValueRange
from domain.volume import Volume, to_patient_axes
from quality.labels import check_labels, check_requested_volumes
from quality.privacy import not_a_copy

# Between the 1st and 99th percentile, as a share of the model's intensity range. A faint image is still an image: this
# catches the constant ones; how much contrast is normal says the card by its standard deviation.
_MIN_CONTRAST = 0.01


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
            check_contrast(generated, card),
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


def check_finite(volume: Volume) -> Finding:
    """Refuse NaN, infinity and an empty array."""
    allowed = "only finite voxels"
    if volume.array.size == 0:
        return Finding("finite", Outcome.FAILED, None, allowed, "The volume has no voxels.")
    broken = int(np.size(volume.array) - np.isfinite(volume.array).sum())
    sentence = f"{broken} voxels are not finite." if broken else "Every voxel is finite."
    return Finding("finite", _outcome(broken == 0), float(broken), allowed, sentence)


def check_contrast(generated: GeneratedVolume, card: ModelCard) -> Finding:
    """Refuse an image that is constant or nearly so. A label map is nearly all background; labels have their own checks."""
    if generated.is_label_map:
        return Finding("contrast", Outcome.NOT_APPLICABLE, None, "an image", "The volume is a label map.")
    intensity = card.reference.intensity_range
    low, high = np.percentile(generated.volume.array, (1, 99))
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
    """Refuse a volume that does not have the source's number of voxels along each patient axis, give or take one.

    Position is not compared: a generated volume lies in a space of its own, since it is no place in any patient.
    """
    allowed = "at most 1 voxel more or less than the source along each patient axis"
    if source is None:
        return Finding("extent", Outcome.NOT_APPLICABLE, None, allowed, "No source image conditioned this volume.")
    pairs = zip(to_patient_axes(volume).shape, to_patient_axes(source).shape, strict=True)
    difference = max(abs(ours - theirs) for ours, theirs in pairs)
    sentence = f"The numbers of voxels differ from the source's by up to {difference}."
    return Finding("extent", _outcome(difference <= 1), float(difference), allowed, sentence)


def _in_range(check_name: str, measured: float, accepted: ValueRange, what: str) -> Finding:
    inside = measured in accepted
    sentence = f"The {what} is {measured:.4g}, {'as in' if inside else 'unlike'} real volumes."
    return Finding(check_name, _outcome(inside), measured, str(accepted), sentence)


def _outcome(passed: bool) -> Outcome:
    return Outcome.PASSED if passed else Outcome.FAILED
