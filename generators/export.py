"""From a run folder to a bundle: weights, and a card that says what they were made from and what may leave.

What the gates accept is measured here, on validation people. Figures for readers are measured by `veraicon evaluate`, on test
people whom nothing else has seen, and written into the card by it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from domain.grid import cut
from domain.image_statistics import mean, sharpness, similarity, standard_deviation
from domain.model_card import ConceptInput, ModelCard, OutputReference, SeriesLimits, ValueRange
from domain.volume import FloatArray, Volume
from generators.autoencoder import Autoencoder
from generators.card_texts import TEXTS
from generators.cards import write_card
from generators.packing import trained_networks
from generators.recipes import Parts, Recipe
from generators.run_facts import run_facts
from generators.training import load_checkpoint
from generators.training_set import TrainingSet
from generators.weights import save_weights
from multimodal.conditioning import TokenEncoder

VERSION = "0.4.0"
GUIDANCE = 1.0

# A label's level is set to the requested volume, so a miss means that no level of it has that volume.
_VOLUME_TOLERANCE = 0.02
_SPACING_TOLERANCE = 0.1
_FIELD_MARGIN_MM = 2.5
# The labels of images are structures of the body, each one piece. In 227 expert label maps of the hippocampus every label keeps
# at least 99.4 % of its voxels in its largest piece: a tenth in crumbs is noise, not anatomy.
_MAIN_PIECE = 0.9
_ACCEPTED = "validation volumes after the autoencoder, four deviations either way"
_ACCEPTED_LABELS = "smallest to largest of the label maps of training people"
_ANY_LIKENESS = ValueRange(-1, 1, "1")  # to the source image, which a label map shows nothing of


def export_bundle(
    recipe: Recipe, parts: Parts, run_folder: Path, dataset_folder: Path, bundle_folder: Path, *, encoder: TokenEncoder
) -> ModelCard:
    """Write weights and card of a trained run and return the card.

    Parameters
    ----------
    parts : mapping
        What `recipe.read` returned: the split is the same.
    run_folder : Path
        Where `generators.training.train` kept its checkpoints.
    bundle_folder : Path
        Made where it is missing.
    encoder : TokenEncoder
        Of the class that was trained; its weights are read from the run.

    Raises
    ------
    ConfigurationError
        If a stage was not trained.
    """
    networks, steps = trained_networks(recipe, run_folder, parts["train"], encoder)
    image_autoencoder = cast("Autoencoder | None", networks.get("image_autoencoder", (None,))[0])
    digest = save_weights(bundle_folder, grid=recipe.grid, parts=networks)
    texts = TEXTS[recipe.name]
    card = ModelCard(
        name=recipe.name,
        version=VERSION,
        family=recipe.family,
        weights_digest=digest,
        limits=_limits(recipe, parts["train"]),
        concepts=_concepts(parts["train"], recipe),
        reference=_reference(parts, image_autoencoder, recipe.spacing_mm, texts.labels),
        measured=(),
        training=_training(recipe, parts, run_folder, steps) + run_facts(run_folder, dataset_folder),
        **texts.entries(),
    )
    write_card(card, bundle_folder)
    return card


def _limits(recipe: Recipe, train: TrainingSet) -> SeriesLimits:
    low, high = recipe.spacing_mm * (1 - _SPACING_TOLERANCE), recipe.spacing_mm * (1 + _SPACING_TOLERANCE)
    shapes = train.extents.float() * recipe.spacing_mm
    lows, highs = shapes.amin(0) - _FIELD_MARGIN_MM, shapes.amax(0) + _FIELD_MARGIN_MM
    most = torch.tensor(recipe.grid) * recipe.spacing_mm
    fields = [ValueRange(float(a), float(b), "mm") for a, b in zip(lows, highs.minimum(most), strict=True)]
    return SeriesLimits("MR", ValueRange(round(low, 3), round(high, 3), "mm"), (fields[0], fields[1], fields[2]))


def _concepts(train: TrainingSet, recipe: Recipe) -> tuple[ConceptInput, ...]:
    """Return what the model may be told: the 1st to 99th percentile of the training numbers, rounded inwards by their unit."""
    facts, concepts = train.facts, []
    for column, (kind, unit) in enumerate(zip(facts.kinds, recipe.units, strict=True)):
        values = facts.numbers[:, column]
        values = values[~values.isnan()]
        if len(values):
            low, high = (float(values.quantile(share)) for share in (0.01, 0.99))
            concepts.append(ConceptInput(kind, ValueRange(_rounded(low, unit), _rounded(high, unit), unit)))
        else:
            said = sorted({facts.texts[index] for index in facts.answers[:, column].tolist() if index >= 0})
            concepts.append(ConceptInput(kind, None, tuple(said)))
    return tuple(concepts)


def _rounded(value: float, unit: str) -> float:
    return round(value, -1) if unit == "mm3" else round(value, 1)


def _reference(
    parts: Parts, autoencoder: Autoencoder | None, spacing_mm: float, labels: tuple[tuple[int, str], ...]
) -> OutputReference:
    """Return what the gates accept; of a model that draws no image, whatever real label maps of training people show.

    Mean, spread and sharpness: real volumes after the autoencoder, four standard deviations either way: only what is broken
    lies outside, and how good volumes are says `veraicon evaluate`. Similarity: halfway between the most alike two hippocampi
    of one person and the least alike a volume and its own reconstruction; above lies a copy.
    """
    held_out = parts["validation"]
    if autoencoder is None or held_out.images is None:
        return _label_reference(parts["train"], spacing_mm, labels)
    shapes = [tuple(extent) for extent in held_out.extents.tolist()]
    real = [cut(image[0].numpy(), shape) for image, shape in zip(held_out.images, shapes, strict=True)]
    with torch.inference_mode():
        decoded = [autoencoder.decode(autoencoder.encode(image[None])).clamp(0, 1)[0, 0].numpy() for image in held_out.images]
    kept = [cut(image, shape) for image, shape in zip(decoded, shapes, strict=True)]
    looks = np.array([statistics(image) for image in kept])
    sides = [similarity(real[i], real[j]) for i, j in enumerate(held_out.partner.tolist()) if j >= 0]
    copies = [similarity(one, other) for one, other in zip(real, kept, strict=True)]
    accepted = _accepted(looks)
    return OutputReference(
        intensity_range=ValueRange(0, 1, "1"),
        mean=accepted[0],
        standard_deviation=accepted[1],
        sharpness=accepted[2],
        source_similarity=ValueRange(-1, round((max(sides) + min(copies)) / 2, 3), "1"),
        volume_tolerance=_VOLUME_TOLERANCE,
        labels=labels,
        main_piece=_MAIN_PIECE,
    )


def _label_reference(train: TrainingSet, spacing_mm: float, labels: tuple[tuple[int, str], ...]) -> OutputReference:
    maps = [
        cut(label_map.numpy(), tuple(extent)).astype(np.float32)
        for label_map, extent in zip(train.labels, train.extents.tolist(), strict=True)
    ]
    looks = np.array([statistics(one, spacing_mm) for one in maps])
    lows, highs = looks.min(0).tolist(), looks.max(0).tolist()
    shown, spread, edges = (ValueRange(low, high, "1") for low, high in zip(lows, highs, strict=True))
    every = ValueRange(0, float(train.label_count), "1")
    pieces = min(_main_piece(one) for one in maps)
    return OutputReference(
        every, shown, spread, edges, _ANY_LIKENESS, _VOLUME_TOLERANCE, labels, math.floor(100 * pieces) / 100
    )


def _main_piece(mask: FloatArray) -> float:
    """Return the share of a mask that its largest piece holds; neighbours share a face."""
    numbers, _ = ndimage.label(mask > 0)
    return float(np.bincount(numbers[numbers > 0]).max() / (mask > 0).sum())


def statistics(array: FloatArray, spacing_mm: float = 1.0) -> tuple[float, float, float]:
    """Return mean, standard deviation and sharpness of a volume."""
    volume = Volume(array, np.diag([spacing_mm] * 3 + [1.0])[[2, 1, 0, 3]], "", "MR")
    return mean(volume), standard_deviation(volume), sharpness(volume)


def _accepted(looks: NDArray[np.float64]) -> list[ValueRange]:
    centre, deviation = looks.mean(0), looks.std(0, ddof=1)
    return [ValueRange(float(m - 4 * d), float(m + 4 * d), "1") for m, d in zip(centre, deviation, strict=True)]


def _training(recipe: Recipe, parts: Parts, run_folder: Path, steps: int) -> tuple[tuple[str, str], ...]:
    counts = [f"{len(parts[name])} cases for {name}" for name in ("train", "validation", "test")]
    return (
        ("split", f"{', '.join(counts)}; by person"),
        ("trained ranges", "1st to 99th percentile of the training people"),
        ("accepted mean, spread and sharpness", _ACCEPTED if recipe.image_autoencoder else _ACCEPTED_LABELS),
        ("accepted relative difference of a volume", "by design: the level of each label is set to the requested volume"),
        *((f"{name} steps", str(load_checkpoint(run_folder / f"{name}.pt")["step"])) for name in recipe.stages[:-1]),
        (f"{recipe.stages[-1]} steps", str(steps)),
        ("default guidance", f"{GUIDANCE:g}"),
        ("default sampler steps", str(recipe.sampler_steps)),
        ("torch", torch.__version__),
    )
