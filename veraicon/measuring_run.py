"""`veraicon train measuring`: trains the ruler by which generators are judged, on people who are never measured by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from generators.augmentation import bent
from generators.card_texts import TEXTS
from generators.hippocampus_data import Crop, of_subjects, on_grid, read_crops, split_subjects
from generators.recipes import TrainingPlan
from generators.training import Progress, run_stage
from quality.agreement import mean_absolute_error, pearson, slope
from quality.measured import measure, overlaps
from quality.measuring_network import MeasuringCard, load_measuring_network, save_measuring_network
from quality.segmentation import Segmenter
from quality.segmenter_training import Draw, MeasuringStage

NAME = "measuring"
STEPS = 6000
_SEED = 77
_SIZE_DEVIATION = 0.05  # a ruler has to know sizes that no person of the training part has
_LABELS = ("anterior", "posterior")


def train_measuring(dataset: Path, run_folder: Path, *, steps: int, bundle: Path | None, progress: Progress) -> None:
    """Train the measuring network; it goes on after its last checkpoint.

    Parameters
    ----------
    dataset : Path
        MSD Task04.
    bundle : Path or None
        Folder for weights and card; None writes none.
    """
    crops = read_crops(dataset)
    split = split_subjects(crops)
    held_out = of_subjects(crops, split.validation)
    stage = MeasuringStage(_draw(of_subjects(crops, split.train)), _examples(held_out), seed=_SEED)
    run_folder.mkdir(parents=True, exist_ok=True)
    plan = replace(TrainingPlan(), steps={NAME: steps}, check_every=500, seed=_SEED)
    run_stage(stage, run_folder, steps=steps, plan=plan, progress=progress)
    if bundle is not None:
        write_measuring_network(stage.averaged, held_out, len(split.train), bundle)


def write_measuring_network(network: Segmenter, held_out: tuple[Crop, ...], people: int, folder: Path) -> MeasuringCard:
    """Write a measuring network with the figures of its weights as they are kept, on validation people."""
    texts = TEXTS["hippocampus-t1"]
    card = MeasuringCard(
        name="hippocampus-measuring",
        version="0.1.0",
        licence=texts.licence,
        attribution=texts.attribution,
        trained_on=f"{people} people of Task04 Hippocampus, Medical Segmentation Decathlon, split by person",
        labels=_LABELS,
        measured=(),
    )
    save_measuring_network(network, card, folder)
    return save_measuring_network(network, replace(card, measured=_figures(load_measuring_network(folder), held_out)), folder)


def _figures(network: Segmenter, crops: tuple[Crop, ...]) -> tuple[tuple[str, float], ...]:
    found = measure(network, [crop.image for crop in crops], features=False)
    dice = overlaps(found.labels, [crop.labels for crop in crops], len(_LABELS)).mean(0)
    true, told = [crop.values[2] for crop in crops], found.volumes[:, 2]
    figures = {f"Dice, {name}": value for name, value in zip(_LABELS, dice, strict=True)}
    figures["total volume, r"] = pearson(true, told)
    figures["total volume, slope"] = slope(true, told)
    figures["total volume, mean absolute error, mm3"] = mean_absolute_error(true, told)
    return (("validation crops", float(len(crops))), *((name, round(float(value), 4)) for name, value in figures.items()))


def _draw(crops: tuple[Crop, ...]) -> Draw:
    cases = on_grid(crops)
    images = torch.zeros(0) if cases.images is None else cases.images

    def one(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        index = int(torch.randint(len(cases), (), generator=rng))
        extent = cases.extents[index]
        image, labels = bent(images[index], cases.labels[index], extent, rng, size_deviation=_SIZE_DEVIATION)
        return image, labels, extent

    return one


def _examples(crops: tuple[Crop, ...]) -> list[tuple[Tensor, Tensor]]:
    cases = on_grid(crops)
    images = torch.zeros(0) if cases.images is None else cases.images
    return list(zip(images, cases.labels, strict=True))
