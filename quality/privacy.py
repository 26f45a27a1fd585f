"""Whether a generated volume is the patient's own image again. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from domain.findings import Finding, Outcome
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard
from domain.volume import Volume, to_patient_axes

NOT_A_COPY = "not-a-copy"

# Intensities have no common scale between scanners: each volume is scaled by these percentiles of its own.
_SCALE_PERCENTILES = (1.0, 99.0)


def not_a_copy(generated: GeneratedVolume, source: Volume | None, card: ModelCard) -> Finding:
    """Compare a generated volume with the source image that conditioned it.

    Measured is Pearson's correlation over all voxels, each volume clipped and scaled to its 1st and 99th percentile, the source
    interpolated linearly on the generated grid where the grids differ. A value that is not finite fails.

    Parameters
    ----------
    generated : GeneratedVolume
        What the generator made.
    source : Volume or None
        The real image; None where the generator was given none, then there is nothing to copy.
    card : ModelCard
        ``reference.source_similarity`` is the accepted range.
    """
    accepted = card.reference.source_similarity
    if source is None:
        return Finding(
            NOT_A_COPY,
            Outcome.NOT_APPLICABLE,
            None,
            str(accepted),
            "No source image conditioned this volume, so none can be copied.",
        )
    similarity = source_similarity(generated.volume, source)
    if similarity in accepted:
        outcome, sentence = Outcome.PASSED, "The volume differs from the source image as other subjects' volumes do."
    elif similarity > accepted.high:
        outcome, sentence = Outcome.FAILED, "The volume is too much like the source image to count as synthetic."
    else:
        outcome, sentence = (
            Outcome.FAILED,
            "The volume has too little to do with the source image, or cannot be compared with it.",
        )
    return Finding(NOT_A_COPY, outcome, similarity, str(accepted), f"{sentence} Correlation {similarity:.3f}.")


def source_similarity(generated: Volume, source: Volume) -> float:
    """Return Pearson's correlation of the two volumes on the generated grid; NaN where one of them is constant or not finite.

    References
    ----------
    Normalised cross-correlation at zero shift.
    """
    ours = to_patient_axes(generated)
    theirs = resample(to_patient_axes(source), ours)
    first, second = _scaled(ours.array), _scaled(theirs)
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    if not norm > 0:  # also where it is NaN
        return float("nan")
    return float((first * second).sum() / norm)


def resample(source: Volume, grid: Volume) -> NDArray[np.float64]:
    """Return the source's values at the voxel centres of `grid`, linear between voxels and constant beyond the border.

    Returns
    -------
    array, (slice, row, column), float64, of the shape of `grid`
    """
    values = np.asarray(source.array, dtype=np.float64)
    if source.shape == grid.shape and np.allclose(source.affine_lps, grid.affine_lps, atol=1e-4):
        return values
    to_source = np.linalg.inv(source.affine_lps) @ grid.affine_lps
    index = np.indices(grid.shape, dtype=np.float64)
    index = np.tensordot(to_source[:3, :3], index, axes=1) + to_source[:3, 3].reshape(3, 1, 1, 1)
    last = np.array(source.shape).reshape(3, 1, 1, 1) - 1
    index = np.clip(index, 0, last)
    below = np.minimum(np.floor(index).astype(np.intp), np.maximum(last - 1, 0))
    fraction = index - below
    result = np.zeros(grid.shape)
    for corner in np.ndindex(2, 2, 2):
        step = np.array(corner).reshape(3, 1, 1, 1)
        weight = np.where(step == 1, fraction, 1 - fraction).prod(axis=0)
        z, y, x = np.minimum(below + step, last)
        result += weight * values[z, y, x]
    return result


def _scaled(array: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(array, dtype=np.float64)
    low, high = np.percentile(values, _SCALE_PERCENTILES)
    if not high > low:  # constant, or not finite
        return np.full(values.shape, np.nan)
    scaled: NDArray[np.float64] = np.clip((values - low) / (high - low), 0.0, 1.0)
    return scaled
