"""Reads the hippocampus crops of the Medical Segmentation Decathlon (Task04) and splits them by person.

References
----------
Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13:4128, 2022.
Simpson et al., A large annotated medical image dataset, arXiv:1902.09063, 2019.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from domain.errors import ConfigurationError
from domain.grid import Shape, normalised, placed
from domain.volume import FloatArray, Volume, to_patient_axes
from generators.augmentation import volumes_mm3
from generators.training_set import Facts, TrainingSet

GRID: Shape = (48, 64, 48)
"""Holds every crop (at most 47 slices, 59 rows, 42 columns); divisible by 16, as autoencoder and denoiser need."""

CONCEPTS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
"""The three volumes, mm3; the first two are labels 1 and 2, the third is their sum."""

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TRAIN_SHARE, _VALIDATION_SHARE = 103 / 147, 15 / 147


@dataclass(frozen=True, eq=False)
class Crop:
    """One hippocampus in patient axes.

    Attributes
    ----------
    number : int
        Number in the file name.
    subject : int
        Person: numbers n (odd) and n + 1 are the two hippocampi of one person. Inferred from intensities and volumes,
        not published by the data set's authors.
    image : array, (slice, row, column), float32, 0 to 1
    labels : array, (slice, row, column), uint8
        1 anterior, 2 posterior.
    voxel_mm3 : float
    """

    number: int
    subject: int
    image: FloatArray
    labels: NDArray[np.uint8]
    voxel_mm3: float

    @property
    def values(self) -> tuple[float, float, float]:
        """Anterior, posterior and total volume, mm3."""
        anterior, posterior = (float((self.labels == label).sum() * self.voxel_mm3) for label in (1, 2))
        return anterior, posterior, anterior + posterior


@dataclass(frozen=True, slots=True)
class Split:
    """People of each part; no person is in two."""

    train: frozenset[int]
    validation: frozenset[int]
    test: frozenset[int]


def read_crops(folder: Path) -> tuple[Crop, ...]:
    """Return all crops of a folder with ``images`` and ``labels`` (or ``imagesTr`` and ``labelsTr``), by number.

    Raises
    ------
    ConfigurationError
        If the folder does not hold the data set.
    """
    for images, labels in (("images", "labels"), ("imagesTr", "labelsTr")):
        paths = sorted((folder / images).glob("hippocampus_*.nii.gz"))
        if paths:
            return tuple(_read_crop(path, folder / labels / path.name) for path in paths)
    raise ConfigurationError(
        found="a folder without hippocampus crops",
        allowed="a folder with images/hippocampus_NNN.nii.gz and labels/hippocampus_NNN.nii.gz (MSD Task04)",
        action="unpack Task04_Hippocampus of the Medical Segmentation Decathlon and name its folder",
    )


def split_subjects(crops: Sequence[Crop], *, seed: int = 4) -> Split:
    """Return people split about 70/10/20 into train, validation and test; the same for the same people and seed."""
    people = np.array(sorted({crop.subject for crop in crops}))
    shuffled = np.random.default_rng(seed).permutation(people).tolist()
    first = round(len(people) * _TRAIN_SHARE)
    second = first + round(len(people) * _VALIDATION_SHARE)
    return Split(frozenset(shuffled[:first]), frozenset(shuffled[first:second]), frozenset(shuffled[second:]))


def of_subjects(crops: Sequence[Crop], subjects: frozenset[int]) -> tuple[Crop, ...]:
    """Return the crops of these people."""
    return tuple(crop for crop in crops if crop.subject in subjects)


def on_grid(crops: Sequence[Crop]) -> TrainingSet:
    """Return crops centred on `GRID`; what is known of each are the volumes of `CONCEPTS`, mm3."""
    where = {(crop.subject, crop.number % 2): index for index, crop in enumerate(crops)}
    numbers = torch.tensor([crop.values for crop in crops], dtype=torch.float32)
    return TrainingSet(
        labels=torch.from_numpy(np.stack([placed(crop.labels, GRID, outside=0) for crop in crops])),
        images=torch.from_numpy(np.stack([placed(crop.image, GRID) for crop in crops])).unsqueeze(1),
        extents=torch.tensor([crop.image.shape for crop in crops]),
        partner=torch.tensor([where.get((crop.subject, 1 - crop.number % 2), -1) for crop in crops]),
        facts=Facts(CONCEPTS, ("clinical-facts",) * 3, numbers, torch.full(numbers.shape, -1)),
        measured=volumes_mm3,
    )


def _read_crop(image_path: Path, label_path: Path) -> Crop:
    found = re.search(r"_(\d+)\.nii\.gz$", image_path.name)
    if found is None or not label_path.exists():
        raise ConfigurationError(
            found=f"{image_path.name} without a number or without labels",
            allowed="a label file of the same name for each hippocampus_NNN.nii.gz",
            action="unpack the data set again",
        )
    number = int(found.group(1))
    image, labels = _read_volume(image_path), _read_volume(label_path)
    return Crop(
        number=number,
        subject=(number + 1) // 2,
        image=normalised(image.array),
        labels=labels.array.astype(np.uint8),
        voxel_mm3=float(np.prod(image.spacing_mm)),
    )


def _read_volume(path: Path) -> Volume:
    """Return a NIfTI file as a volume in patient axes: NIfTI holds (column, row, slice) and maps to RAS."""
    loaded = nibabel.load(path)
    if not isinstance(loaded, SpatialImage) or loaded.affine is None:
        raise ConfigurationError(found=f"{path.name}, no volume", allowed="NIfTI", action="unpack the data set again")
    array = np.asarray(loaded.dataobj, dtype=np.float32).transpose(2, 1, 0)
    affine = (_RAS_TO_LPS @ loaded.affine)[:, [2, 1, 0, 3]]
    return to_patient_axes(Volume(array, affine, "", "MR"))
