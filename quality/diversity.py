"""Whether volumes differ from one another as much as real ones do: structural similarity at several scales, of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import compute_ms_ssim
from numpy.typing import NDArray

from domain.grid import cut

_PUBLISHED = (0.0448, 0.2856, 0.3001)  # of the first three scales of five; scaled so that they add up to 1 again
_WEIGHTS = tuple(weight / sum(_PUBLISHED) for weight in _PUBLISHED)
# Crops have about 35 voxels on their shortest axis: at the third scale a kernel of the usual eleven does not fit.
_KERNEL = 4


def pairs_of(people: Sequence[int], *, count: int, seed: int = 0) -> NDArray[np.intp]:
    """Return random pairs of cases of two different people, (count, 2), or all of them if there are no more."""
    whose = np.asarray(people)
    first, second = np.triu_indices(len(whose), 1)
    apart = whose[first] != whose[second]
    every = np.stack([first[apart], second[apart]], axis=1)
    chosen = np.random.default_rng(seed).permutation(len(every))[:count]
    return np.asarray(every[np.sort(chosen)], dtype=np.intp)


def likeness(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Return the multi-scale structural similarity of two volumes of intensities 0 to 1, centre on centre; 1 for equal ones.

    References
    ----------
    Wang, Simoncelli and Bovik, Multiscale Structural Similarity for Image Quality Assessment, Asilomar 2003; the first three of
    its five scales.
    """
    slices, rows, columns = np.minimum(one.shape, other.shape).tolist()
    x, y = (torch.from_numpy(np.ascontiguousarray(cut(volume, (slices, rows, columns))))[None, None] for volume in (one, other))
    return float(compute_ms_ssim(x, y, spatial_dims=3, kernel_size=_KERNEL, weights=_WEIGHTS))


def likeness_of_pairs(volumes: Sequence[NDArray[np.floating[Any]]], pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the likeness of each pair of cases, (N,)."""
    return np.array([likeness(volumes[first], volumes[second]) for first, second in pairs.tolist()])
