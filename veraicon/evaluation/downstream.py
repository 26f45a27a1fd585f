"""What synthetic volumes are worth as training data: segmenters trained with and without them, all judged on real people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.grid import normalised, placed
from generators.augmentation import bent
from generators.hippocampus_data import GRID, Crop
from quality.measured import measure, overlaps
from quality.segmentation import SegmenterShape
from quality.segmenter_training import Draw, train_segmenter
from veraicon.evaluation.generating import Arm

LABELS = 2
_SHAPE = SegmenterShape(labels=LABELS, channels=(8, 16, 32, 64))
_SEED = 31


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their label maps on the common grid: (N, 1, D, H, W), (N, D, H, W), and the extent of each, (N, 3)."""

    images: Tensor
    labels: Tensor
    extents: Tensor

    def __add__(self, other: Examples) -> Examples:
        """Return both together."""
        return Examples(
            torch.cat([self.images, other.images]),
            torch.cat([self.labels, other.labels]),
            torch.cat([self.extents, other.extents]),
        )

    def draw(self) -> Draw:
        """Return what draws one of them, bent at random."""

        def one(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            index = int(torch.randint(len(self.images), (), generator=rng))
            image, labels = bent(self.images[index], self.labels[index], self.extents[index], rng)
            return image, labels, self.extents[index]

        return one


def real_examples(crops: Sequence[Crop]) -> Examples:
    """Return real crops with the label maps that people drew."""
    return _on_grid([crop.image for crop in crops], [crop.labels for crop in crops])


def generated_examples(arm: Arm) -> Examples:
    """Return generated volumes with the label maps that came with them; a volume without one teaches nothing."""
    kept = [(one.generated.volume.array, one.generated.label_map) for one in arm.drawn]
    whole = [(image, labels) for image, labels in kept if labels is not None]
    return _on_grid([image for image, _ in whole], [labels for _, labels in whole])


def trained_overlap(
    examples: Examples, crops: Sequence[Crop], *, steps: int, tell: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """Train a small segmenter and return its Dice on real people, (N, L): of each crop and each label.

    Network, first weights, number of steps and alterations are the same for every arm; only the examples differ.
    """
    network = train_segmenter(examples.draw(), steps=steps, seed=_SEED, shape=_SHAPE, progress=tell)
    found = measure(network, [crop.image for crop in crops], features=False)
    return overlaps(found.labels, [crop.labels for crop in crops], LABELS)


def _on_grid(images: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.uint8]]) -> Examples:
    return Examples(
        torch.from_numpy(np.stack([placed(normalised(image), GRID) for image in images])).unsqueeze(1),
        torch.from_numpy(np.stack([placed(one, GRID, outside=0) for one in labels])),
        torch.tensor([image.shape for image in images]),
    )
