"""Whether a generated volume is a training volume again.

The distance is one minus the correlation of voxels, centre on centre, on the part of the grid that every crop fills. What is
close is told by held-out people: their volumes are new for certain, and pass through the model's autoencoder, so that blur,
which brings any volume nearer to any other, is on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.grid import Shape, cut
from quality.resampling import Indices

NEAREST_PERCENTILE = 5.0


def common_shape(volumes: Sequence[NDArray[Any]]) -> Shape:
    """Return the largest shape that every volume holds."""
    slices, rows, columns = np.min([volume.shape for volume in volumes], axis=0).tolist()
    return slices, rows, columns


def nearest_distances(
    volumes: Sequence[NDArray[np.floating[Any]]], training: Sequence[NDArray[np.floating[Any]]], shape: Shape
) -> NDArray[np.float64]:
    """Return the distance of each volume to the training volume that is nearest, (N,): 0 for a copy, 1 for no likeness.

    Parameters
    ----------
    volumes, training : sequence of array, (slice, row, column)
        In patient axes, 1 mm; brightness and contrast do not matter.
    shape : tuple of int
        The centre part that is compared; see `common_shape`.

    References
    ----------
    Normalised cross-correlation at zero shift; the share below a percentile of held-out distances follows Carlini et al.,
    Extracting Training Data from Diffusion Models, USENIX Security 2023, section 5.1 (distances relative to those of others).
    """
    likeness = _standardised(volumes, shape) @ _standardised(training, shape).T  # (N, M)
    return np.asarray(1 - likeness.max(axis=1))


def copied_share(
    generated: NDArray[np.float64], held_out: NDArray[np.float64], chosen: Indices | None = None, others: Indices | None = None
) -> float:
    """Return the share of generated volumes that lie nearer than 95 in 100 held-out ones do.

    Parameters
    ----------
    generated, held_out : array, (N,) and (M,)
        Distances by `nearest_distances`.
    chosen, others : array of int or None
        The cases of a resample; the threshold is drawn again with them.
    """
    ours = generated if chosen is None else generated[chosen]
    theirs = held_out if others is None else held_out[others]
    return float((ours < np.percentile(theirs, NEAREST_PERCENTILE)).mean())


def _standardised(volumes: Sequence[NDArray[np.floating[Any]]], shape: Shape) -> NDArray[np.float64]:
    """Return volumes as vectors of mean 0 and length 1, (N, V); one that does not vary is like nothing."""
    flat = np.stack([cut(volume, shape).ravel() for volume in volumes]).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(np.divide(flat, length, out=np.zeros_like(flat), where=length > 0))
