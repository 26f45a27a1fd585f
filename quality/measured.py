"""What the measuring network says about volumes: labels, label volumes and features, on the same preparation for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from domain.grid import Shape, cut, normalised, placed
from domain.volume import FloatArray
from quality.segmentation import Segmenter
from quality.segmenter_training import PATCHES

LEAST = PATCHES[-1]


@dataclass(frozen=True, eq=False)
class Measured:
    """Volumes as the measuring network sees them.

    Attributes
    ----------
    labels : tuple of array, (slice, row, column), uint8
        The likeliest label of each voxel.
    volumes : array, (N, L + 1), float64, mm3
        Sum of each label's probability within the volume, and of all of them: not the count of `labels`, which loses every
        small part that is never the likeliest.
    features : array, (N, F), float32
        F is 0 where they were not asked for.
    """

    labels: tuple[NDArray[np.uint8], ...]
    volumes: NDArray[np.float64]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def measure(
    network: Segmenter, volumes: Sequence[FloatArray], *, least: Shape = LEAST, voxel_mm3: float = 1.0, features: bool = True
) -> Measured:
    """Return what a network says about volumes.

    Parameters
    ----------
    network : Segmenter
        In evaluation mode.
    volumes : sequence of array, (slice, row, column)
        In patient axes. Real and generated ones alike are scaled by their own 1st and 99th percentile and edge-padded.
    least : tuple of int
        A smaller volume is padded to this shape, the one that the network was trained on.
    features : bool
        Whether the features are wanted as well.
    """
    step = 2 ** (len(network.shape.channels) - 1)
    device = next(network.parameters()).device
    labels, sizes, seen = [], [], []
    for volume in volumes:
        grid = tuple(max(n, -(-length // step) * step) for n, length in zip(least, volume.shape, strict=True))
        image = torch.from_numpy(placed(normalised(volume), _shape_of(grid)))[None, None].to(device)
        with torch.inference_mode():
            logits, found = (part[0] for part in network.seen(image))
        seen.append(found.cpu().numpy() if features else np.empty(0))
        chance = logits.double().softmax(0)[1:].cpu().numpy()  # (L, D, H, W)
        parts = [float(cut(part, _shape_of(volume.shape)).sum()) * voxel_mm3 for part in chance]
        labels.append(cut(logits.max(0).indices.to(torch.uint8).cpu().numpy(), _shape_of(volume.shape)))
        sizes.append([*parts, sum(parts)])
    return Measured(tuple(labels), np.array(sizes), np.array(seen, dtype=np.float32))


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8], label: int) -> float:
    """Return the Dice coefficient of one label in two maps; 1 where neither has it.

    Examples
    --------
    >>> dice(np.array([1, 1, 0], np.uint8), np.array([0, 1, 0], np.uint8), 1).__round__(3)
    0.667
    """
    a, b = one == label, other == label
    both = int(a.sum() + b.sum())
    return float(2 * (a & b).sum() / both) if both else 1.0


def overlaps(ours: Sequence[NDArray[np.uint8]], truth: Sequence[NDArray[np.uint8]], labels: int) -> NDArray[np.float64]:
    """Return the Dice coefficient of each label of each case, (N, L)."""
    return np.array([[dice(a, b, label) for label in range(1, labels + 1)] for a, b in zip(ours, truth, strict=True)])


def _shape_of(lengths: Sequence[int]) -> Shape:
    slices, rows, columns = lengths
    return slices, rows, columns
