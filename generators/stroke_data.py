"""Reads the lesion masks and the clinical table of the Stroke Outcome Optimization Project (SOOP) and splits them by person.

The masks lie in one standard space (MNI) at 1 mm; here they become voxels of 2 mm. What is known of a person is what the table
says; ``n/a`` stays unknown. Measured are the volume, and the arterial territory: that in which most of the lesion lies.

References
----------
Absher et al., The stroke outcome optimization project, Scientific Data 11:839, 2024.
Liu et al., Digital 3D Brain MRI Arterial Territories Atlas, Scientific Data 10:74, 2023.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from torch.nn import functional

from domain.errors import ConfigurationError
from domain.grid import Shape, placed
from domain.volume import Volume, to_patient_axes
from generators.training_set import Facts, TrainingSet

GRID: Shape = (80, 96, 80)
"""Holds every mask (68 slices, 95 rows, 79 columns of 2 mm); divisible by 16, as autoencoder and denoiser need."""

SPACING_MM = 2.0

SEXES = {"F": "female", "M": "male"}
PRIOR_STROKE = {"0.0": "no", "1.0": "yes"}
TERRITORIES = (
    "left anterior cerebral artery",
    "right anterior cerebral artery",
    "left middle cerebral artery",
    "right middle cerebral artery",
    "left posterior cerebral artery",
    "right posterior cerebral artery",
    "left vertebrobasilar arteries",
    "right vertebrobasilar arteries",
)
"""Regions 1 to 8 of the atlas's second level; 9 and 10 are the ventricles, which no artery feeds."""

TEXTS = (*SEXES.values(), *PRIOR_STROKE.values(), *TERRITORIES)

_AGE_LIMIT = "89+"  # older people are all told as this; it is read as 89
_UNKNOWN = ("n/a", "")
_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TWO_TO_ONE = np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])


@dataclass(frozen=True, slots=True)
class Column:
    """A concept and where the table has it.

    Attributes
    ----------
    heading : str
        In ``participants.tsv``; empty where it is measured.
    answers : mapping or None
        What the table writes to what is told; None where the column holds numbers.
    """

    kind: str
    heading: str
    answers: Mapping[str, str] | None = None
    modality: str = "clinical-facts"


COLUMNS = (
    Column("age", "age", modality="demographics"),
    Column("sex", "sex", SEXES, "demographics"),
    Column("nihss", "nihss"),
    Column("modified-rankin", "gs_rankin_6isdeath"),
    Column("bmi", "bmi"),
    Column("prior-stroke", "priorstroke", PRIOR_STROKE),
    Column("arterial-territory", "", {name: name for name in TERRITORIES}),
    Column("stroke-lesion-volume", ""),
)


@dataclass(frozen=True, eq=False)
class Lesion:
    """One person's lesion.

    Attributes
    ----------
    labels : array, (slice, row, column), uint8
        1 in the lesion; patient axes, 2 mm.
    told : mapping of str to str
        By heading what the table says, by kind what is measured; without what is unknown.
    """

    labels: NDArray[np.uint8]
    told: Mapping[str, str]


def read_lesions(folder: Path, *, seed: int = 4) -> dict[str, TrainingSet]:
    """Return the parts ``train``, ``validation`` and ``test`` of about 70, 10 and 20 % of the people.

    Parameters
    ----------
    folder : Path
        With ``NIfTI/bwsrsub-N_lesion.nii.gz``, ``participants.tsv``, ``ArterialAtlas136.nii.gz`` and ``ArterialAtlas136.txt``.
    seed : int
        Of the split, which is the same for the same people and seed.

    Raises
    ------
    ConfigurationError
        If a file is missing, a mask is empty or in another space, or the table holds what it should not.
    """
    paths = sorted((folder / "NIfTI").glob("bwsrsub-*_lesion.nii.gz"))
    names = ("participants.tsv", "ArterialAtlas136.nii.gz", "ArterialAtlas136.txt")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or len(paths) < len(_SHARES):
        raise ConfigurationError(
            found=f"a folder without {', '.join(missing) or 'lesion masks'}",
            allowed=f"a folder with NIfTI/bwsrsub-N_lesion.nii.gz, {', '.join(names)} (SOOP)",
            action="unpack the SOOP lesions and name their folder",
        )
    table = _table(folder / names[0])
    regions, affine = _territories(folder / names[1], folder / names[2])
    return {
        part: on_grid([_read_lesion(path, table, regions, affine) for path in chosen])
        for part, chosen in _split(paths, seed).items()
    }


def on_grid(lesions: Sequence[Lesion]) -> TrainingSet:
    """Return lesions centred on `GRID` with what is known of each."""
    labels = torch.zeros(len(lesions), *GRID, dtype=torch.uint8)
    for index, lesion in enumerate(lesions):
        labels[index] = torch.from_numpy(placed(lesion.labels, GRID, outside=0))
    columns = [[_value(lesion, column) for lesion in lesions] for column in COLUMNS]
    values = torch.tensor(columns, dtype=torch.float32).T  # (N, K)
    coded = torch.tensor([column.answers is not None for column in COLUMNS])
    return TrainingSet(
        labels=labels,
        images=None,
        extents=torch.tensor([lesion.labels.shape for lesion in lesions]),
        partner=torch.full((len(lesions),), -1),
        facts=Facts(
            kinds=tuple(column.kind for column in COLUMNS),
            modalities=tuple(column.modality for column in COLUMNS),
            numbers=values.masked_fill(coded, float("nan")),
            answers=torch.where(coded, values.nan_to_num(-1), torch.tensor(-1.0)).long(),
            texts=TEXTS,
        ),
    )


def halved(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask on voxels twice as long, as nearly of the same volume as whole voxels allow, and never empty.

    A threshold on the share of each new voxel that was in the mask would lose thin and small lesions. So the voxels with the
    largest shares are taken, as many as the volume asks for; of equal shares those with more of the lesion around them.

    Parameters
    ----------
    mask : array, (D, H, W)
        With at least one voxel of 1.

    Examples
    --------
    >>> mask = np.zeros((5, 4, 4), np.uint8)
    >>> mask[0, 0, 0] = mask[2:, :2, :2] = 1
    >>> halved(mask).shape, int(halved(mask).sum())
    ((3, 2, 2), 2)
    """
    where = np.unravel_index(_found(mask), mask.shape)
    shape = tuple((n + 1) // 2 for n in mask.shape)
    number = np.ravel_multi_index([index // 2 for index in where], shape)
    share = np.bincount(number, minlength=math.prod(shape)).reshape(shape).astype(np.float32) / 8
    box = tuple(slice(index.min() // 2, index.max() // 2 + 1) for index in where)
    inside = torch.from_numpy(share[box])  # the rest is empty
    around = functional.avg_pool3d(functional.pad(inside[None, None], (1,) * 6), 3, stride=1)[0, 0]
    voxels = max(1, round(len(number) / 8))
    # Shares are eighths, so a ninth of what is around decides between equal shares alone.
    best = (inside + around / 9).flatten().sort(descending=True, stable=True).indices[:voxels]
    half = np.zeros(shape, np.uint8)
    half[box].flat[best.numpy()] = 1
    return half


def _read_lesion(
    path: Path, table: Mapping[str, Mapping[str, str]], regions: NDArray[np.uint8], affine: NDArray[np.float64]
) -> Lesion:
    mask, own_affine = _read_nifti(path)
    if mask.shape != regions.shape or not np.allclose(own_affine, affine) or not mask.any():
        raise ConfigurationError(
            found=f"{path.name}, which is empty or not in the space of the atlas",
            allowed="masks with a lesion, on the voxels of ArterialAtlas136.nii.gz",
            action="unpack the data set again",
        )
    share = np.bincount(regions.reshape(-1)[_found(mask)], minlength=len(TERRITORIES) + 1)[1 : len(TERRITORIES) + 1]
    told = {heading: value for heading, value in table.get(_person(path), {}).items() if value not in _UNKNOWN}
    territory = {"arterial-territory": TERRITORIES[int(share.argmax())]} if share.any() else {}
    half = halved(mask)
    measured = territory | {"stroke-lesion-volume": str(int(half.sum()) * SPACING_MM**3)}
    # Two voxels become one: its centre lies half a voxel further.
    coarse = Volume(half.astype(np.float32), affine @ _TWO_TO_ONE, "", "MR")
    return Lesion(to_patient_axes(coarse).array.astype(np.uint8), told | measured)


def _found(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the flat indices of a mask; flat and as truth values it is searched many times faster."""
    return np.flatnonzero(mask.reshape(-1).view(np.bool_))


def _value(lesion: Lesion, column: Column) -> float:
    """Return a number, or the index of an answer in `TEXTS`; NaN where unknown."""
    written = lesion.told.get(column.heading or column.kind)
    if written is None:
        return float("nan")
    try:
        if column.answers is not None:
            return TEXTS.index(column.answers[written])
        return float(written.removesuffix("+") if written == _AGE_LIMIT else written)
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            found=f"an entry under {column.heading} that cannot be read",
            allowed=f"n/a, or {', '.join(column.answers) if column.answers else 'a number'}",
            action="correct participants.tsv",
        ) from error


def _split(paths: Sequence[Path], seed: int) -> dict[str, list[Path]]:
    shuffled = [paths[index] for index in np.random.default_rng(seed).permutation(len(paths))]
    ends = np.cumsum([round(share * len(paths)) for share in _SHARES.values()])[:-1]
    return {part: list(chosen) for part, chosen in zip(_SHARES, np.split(np.array(shuffled), ends), strict=True)}


def _table(path: Path) -> dict[str, dict[str, str]]:
    """Return the clinical table by person; only the columns that are told."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    headings = [column.heading for column in COLUMNS if column.heading]
    if not rows or not {"participant_id", *headings} <= rows[0].keys():
        raise ConfigurationError(
            found="participants.tsv without its columns",
            allowed=", ".join(("participant_id", *headings)),
            action="unpack the data set again",
        )
    return {row["participant_id"]: {heading: row[heading] or "" for heading in headings} for row in rows}


def _territories(atlas: Path, names: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return for each voxel its region of the atlas's second level (0 where none), and the affine (LPS)."""
    fine, affine = _read_nifti(atlas)
    lines = [line.split("|") for line in names.read_text(encoding="utf-8").split("\n") if line.strip()]
    coarse = np.zeros(int(fine.max()) + 1, np.uint8)
    for number, _, _, region in lines:
        coarse[int(number)] = int(region)
    return coarse[fine], affine


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return whole numbers, (slice, row, column), and the affine to LPS: NIfTI holds (column, row, slice) and maps to RAS."""
    loaded = nibabel.load(path)
    if not isinstance(loaded, SpatialImage) or loaded.affine is None:
        raise ConfigurationError(found=f"{path.name}, no volume", allowed="NIfTI", action="unpack the data set again")
    array = np.asarray(loaded.dataobj).astype(np.uint8, copy=False).transpose(2, 1, 0)
    return array, (_RAS_TO_LPS @ loaded.affine)[:, [2, 1, 0, 3]]


def _person(path: Path) -> str:
    return path.name.removeprefix("bwsr").removesuffix("_lesion.nii.gz")
