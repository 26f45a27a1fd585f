"""From a run folder to a bundle: weights, and a card that says what they were made from and what may leave.

What the gates accept is measured here, on validation people. Figures for readers are measured by `veraicon evaluate`, on test
people whom nothing else has seen, and written into the card by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

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

VERSION = "0.3.0"
SAMPLER_STEPS = 8
GUIDANCE = 1.0

# A label's level is set to the requested volume, so a miss means that no level of it has that volume.
_VOLUME_TOLERANCE = 0.02
_SPACING_TOLERANCE = 0.1
_FIELD_MARGIN_MM = 2.5
_ANYTHING = ValueRange(-1e9, 1e9, "1")


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
        reference=_reference(parts["validation"], image_autoencoder, texts.labels),
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


def _reference(held_out: TrainingSet, autoencoder: Autoencoder | None, labels: tuple[tuple[int, str], ...]) -> OutputReference:
    """Return what the gates accept.

    Mean, spread and sharpness: real volumes after the autoencoder, four standard deviations either way: only what is broken
    lies outside, and how good volumes are says `veraicon evaluate`. Similarity: halfway between the most alike two hippocampi
    of one person and the least alike a volume and its own reconstruction; above lies a copy.
    """
    if autoencoder is None or held_out.images is None:
        return OutputReference(ValueRange(0, 1, "1"), _ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING, _VOLUME_TOLERANCE, labels)
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
    )


def statistics(array: FloatArray) -> tuple[float, float, float]:
    """Return mean, standard deviation and sharpness of a volume of 1 mm voxels."""
    volume = Volume(array, np.eye(4)[[2, 1, 0, 3]], "", "MR")
    return mean(volume), standard_deviation(volume), sharpness(volume)


def _accepted(looks: NDArray[np.float64]) -> list[ValueRange]:
    centre, deviation = looks.mean(0), looks.std(0, ddof=1)
    return [ValueRange(float(m - 4 * d), float(m + 4 * d), "1") for m, d in zip(centre, deviation, strict=True)]


def _training(recipe: Recipe, parts: Parts, run_folder: Path, steps: int) -> tuple[tuple[str, str], ...]:
    counts = [f"{len(parts[name])} cases for {name}" for name in ("train", "validation", "test")]
    return (
        ("split", f"{', '.join(counts)}; by person"),
        ("trained ranges", "1st to 99th percentile of the training people"),
        ("accepted mean, spread and sharpness", "validation volumes after the autoencoder, four deviations either way"),
        ("accepted relative difference of a volume", "by design: the level of each label is set to the requested volume"),
        *((f"{name} steps", str(load_checkpoint(run_folder / f"{name}.pt")["step"])) for name in recipe.stages[:-1]),
        (f"{recipe.stages[-1]} steps", str(steps)),
        ("default guidance", f"{GUIDANCE:g}"),
        ("default sampler steps", str(SAMPLER_STEPS if recipe.vector is None else 1)),
        ("torch", torch.__version__),
    )
