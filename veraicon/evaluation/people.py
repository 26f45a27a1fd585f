"""The real people that a hippocampus model is measured on, and those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from domain.errors import UnsupportedSeries
from domain.model_card import ModelCard, require_series_fits
from domain.volume import Volume
from generators.hippocampus_data import Crop, of_subjects, read_crops, split_subjects

SPLIT_SEED = 4


@dataclass(frozen=True, slots=True)
class People:
    """Crops of the people whom generators and measuring network learned from, and of those whom none of them has seen."""

    train: tuple[Crop, ...]
    test: tuple[Crop, ...]


def read_people(folder: Path) -> People:
    """Return training and held-out people of MSD Task04, split by person.

    Raises
    ------
    ConfigurationError
        If the folder does not hold the data set.
    """
    crops = read_crops(folder)
    split = split_subjects(crops, seed=SPLIT_SEED)
    return People(of_subjects(crops, split.train), of_subjects(crops, split.test))


def volume_of(crop: Crop) -> Volume:
    """Return a crop's image as a volume of its own voxel size, in patient axes; it has no place in a patient."""
    edge_mm = crop.voxel_mm3 ** (1 / 3)
    affine = np.diag([edge_mm, edge_mm, edge_mm, 1.0])[[2, 1, 0, 3]]
    return Volume(crop.image, affine, "", "MR")


def other_side(crop: Crop, crops: Sequence[Crop]) -> Crop | None:
    """Return the other hippocampus of the same person, where it is there."""
    return next((other for other in crops if other.subject == crop.subject and other.number != crop.number), None)


def fits(crop: Crop, card: ModelCard) -> bool:
    """Return whether a model was trained to take a crop of this spacing and field of view."""
    try:
        require_series_fits(volume_of(crop), card)
    except UnsupportedSeries:
        return False
    return True
