"""From a run folder to a bundle: weights, and a card whose every figure was measured here.

What the gates accept is measured on validation people; the figures for readers on test people, whom nothing else has seen.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from domain.image_statistics import similarity
from domain.model_card import ConceptInput, Measurement, ModelCard, OutputReference, SeriesLimits, ValueRange
from generators.autoencoder import Autoencoder
from generators.cards import WEIGHTS_NAME, write_card
from generators.denoiser import Denoiser, DenoiserShape
from generators.hippocampus_data import CONCEPTS, GRID, Crop, GridBatch, Split, of_subjects, on_grid, read_crops, split_subjects
from generators.latent_data import LatentData
from generators.latent_diffusion import LatentDiffusionGenerator
from generators.measuring import Obedience, between_sides, dice, generate_for, reconstructed, statistics
from generators.run_facts import known_failures, run_facts
from generators.training import load_checkpoint, trained_autoencoder
from generators.weights import file_digest, load_bundle, save_weights
from multimodal.conditioning import TokenEncoder

_Figure = tuple[str, float, str, int]  # name, value, UCUM unit, number of cases

VERSION = "0.1.0"
SAMPLER_STEPS = 8
GUIDANCES = (1.0, 1.5, 2.0, 3.0)
_SPACING_MM = ValueRange(0.9, 1.1, "mm")
_FIELD_MARGIN_MM = 2.5
_TEST_ROUNDS = 2
_ANYTHING = ValueRange(-1e9, 1e9, "1")

_TEXTS: dict[str, Any] = {
    "summary": "T1-weighted MR crops of one hippocampus with their label map, drawn by latent diffusion from requested volumes "
    "of its anterior and posterior part and from an image of the same person.",
    "intended_use": "Research: synthetic volumes for building and testing imaging software.",
    "out_of_scope": "Diagnosis, treatment, or any statement about a person. Other organs, sequences, spacings or fields of "
    "view. Age, sex and disease: the training data hold none, and the model knows none.",
    "licence": "CC BY-SA 4.0",
    "attribution": "Trained on Task04 Hippocampus of the Medical Segmentation Decathlon: M. Antonelli et al., The Medical "
    "Segmentation Decathlon, Nature Communications 13:4128 (2022); A. L. Simpson et al., arXiv:1902.09063 (2019). "
    "Images from Vanderbilt University Medical Center.",
}
_SOURCES = ("Medical Segmentation Decathlon, Task04 Hippocampus, 227 of its T1 MPRAGE crops with labels, CC BY-SA 4.0",)


def export_bundle(run_folder: Path, dataset_folder: Path, bundle_folder: Path, *, encoder: TokenEncoder) -> ModelCard:
    """Write weights and card of a trained run and return the card.

    Parameters
    ----------
    run_folder : Path
        Where `generators.training.train` kept its checkpoints.
    dataset_folder : Path
        The data set that it was trained on: the split is the same.
    bundle_folder : Path
        Made where it is missing.
    encoder : TokenEncoder
        Of the class that was trained; its weights are read from the run.

    Raises
    ------
    ConfigurationError
        If a stage was not trained.
    """
    crops = read_crops(dataset_folder)
    split = split_subjects(crops)
    parts = {name: of_subjects(crops, getattr(split, name)) for name in ("train", "validation", "test")}
    autoencoder = trained_autoencoder(run_folder, on_grid(parts["train"]))
    denoiser, steps = _averaged(run_folder, encoder, autoencoder)
    with tempfile.TemporaryDirectory() as work:  # a card that lets everything pass never stands in the bundle's own folder
        draft = Path(work)
        digest = save_weights(draft, grid=GRID, autoencoder=autoencoder, denoiser=denoiser, encoder=encoder)
        write_card(_draft(digest, parts["train"], run_folder), draft)
        # Measured on the weights as they are shipped, in half precision, not on those of the run.
        bundle = load_bundle(draft)
        bundle_folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(draft / WEIGHTS_NAME, bundle_folder)
    encoder.load_state_dict(bundle.encoder_state)
    generator = LatentDiffusionGenerator.from_bundle(bundle)
    held_out = on_grid(parts["validation"])

    def on_validation(guidance: float) -> Obedience:
        return generate_for(generator, encoder, held_out, parts["validation"], guidance=guidance, sampler_steps=SAMPLER_STEPS)

    guidance, chosen = _best_guidance(on_validation)
    real = reconstructed(bundle.autoencoder, held_out, parts["validation"])
    reference = _reference(parts["validation"], held_out, [image for image, _ in real], chosen)
    measured = _measured(bundle.autoencoder, generator, encoder, parts["test"], guidance, reference)
    card = replace(
        bundle.card,
        reference=reference,
        measured=measured,
        training=_training(run_folder, split, steps, guidance, len(parts["validation"]))
        + run_facts(run_folder, dataset_folder),
        known_failures=known_failures(measured),
    )
    write_card(card, bundle_folder)
    return card


def _averaged(run_folder: Path, encoder: TokenEncoder, autoencoder: Autoencoder) -> tuple[Denoiser, int]:
    """Return the averaged denoiser with the lowest held-out loss, and load its encoder."""
    saved = load_checkpoint(run_folder / "denoiser-best.pt")
    prefix = "module."
    state = {name.removeprefix(prefix): tensor for name, tensor in saved["stage"]["average"].items() if name.startswith(prefix)}
    denoiser = Denoiser(DenoiserShape(latent_channels=autoencoder.shape.latent_channels, token_width=encoder.width))
    for name, network in (("denoiser.", denoiser), ("encoder.", encoder)):
        network.load_state_dict({key.removeprefix(name): tensor for key, tensor in state.items() if key.startswith(name)})
    return denoiser.eval(), int(saved["step"])


def _draft(digest: str, train: Sequence[Crop], run_folder: Path) -> ModelCard:
    """Return the card before anything is measured: it lets everything pass, and is replaced at the end."""
    digest_of_latents = file_digest(run_folder / "autoencoder.pt").removeprefix("sha256:")[:12]
    latents = next(run_folder.glob(f"latents-train-*-{digest_of_latents}.safetensors"))
    values = LatentData.load(latents).values.flatten(0, 1).numpy()
    lows, highs = np.percentile(values, (1, 99), axis=0).round(-1)
    extents = np.array([crop.image.shape for crop in train])
    shortest, longest = extents.min(0) - _FIELD_MARGIN_MM, np.minimum(extents.max(0) + _FIELD_MARGIN_MM, GRID)
    fields = [ValueRange(float(low), float(high), "mm") for low, high in zip(shortest, longest, strict=True)]
    return ModelCard(
        name="hippocampus-t1",
        version=VERSION,
        family="latent-diffusion",
        data_sources=_SOURCES,
        weights_digest=digest,
        limits=SeriesLimits("MR", _SPACING_MM, (fields[0], fields[1], fields[2])),
        concepts=tuple(
            ConceptInput(kind, ValueRange(float(low), float(high), "mm3"))
            for kind, low, high in zip(CONCEPTS, lows, highs, strict=True)
        ),
        reference=OutputReference(
            ValueRange(0, 1, "1"), _ANYTHING, _ANYTHING, _ANYTHING, _ANYTHING, 1e9, ((1, CONCEPTS[0]), (2, CONCEPTS[1]))
        ),
        measured=(),
        training=(),
        **_TEXTS,
    )


def _best_guidance(measure: Callable[[float], Obedience]) -> tuple[float, Obedience]:
    """Return the guidance with the smallest mean error of total volume on validation people."""
    tried = [(guidance, measure(guidance)) for guidance in GUIDANCES]
    return min(tried, key=lambda one: one[1].figures()[2])


def _reference(crops: Sequence[Crop], part: GridBatch, real: Sequence[NDArray[np.float32]], made: Obedience) -> OutputReference:
    """Return what the gates accept.

    Mean, spread and sharpness: real volumes after the autoencoder, three standard deviations either way. Similarity: halfway
    between the most alike two hippocampi of one person and the least alike a volume and its own reconstruction; above lies
    a copy. Tolerance: what 95 in 100 generated volumes keep to.
    """
    looks = np.array([statistics(image) for image in real])
    ranges = [
        ValueRange(float(mean - 3 * deviation), float(mean + 3 * deviation), "1")
        for mean, deviation in zip(looks.mean(0), looks.std(0, ddof=1), strict=True)
    ]
    sides = between_sides(crops, part)
    copies = [similarity(crop.image, image) for crop, image in zip(crops, real, strict=True)]
    tolerance = float(np.percentile(made.relative_error[:, :2], 95))
    return OutputReference(
        intensity_range=ValueRange(0, 1, "1"),
        mean=ranges[0],
        standard_deviation=ranges[1],
        sharpness=ranges[2],
        source_similarity=ValueRange(-1, round((max(sides) + min(copies)) / 2, 3), "1"),
        volume_tolerance=round(tolerance, 3),
        labels=((1, CONCEPTS[0]), (2, CONCEPTS[1])),
    )


def _measured(
    autoencoder: Autoencoder,
    generator: LatentDiffusionGenerator,
    encoder: TokenEncoder,
    crops: Sequence[Crop],
    guidance: float,
    reference: OutputReference,
) -> tuple[Measurement, ...]:
    """Return the figures for readers, each with its number of cases."""
    part = on_grid(crops)
    asked = generate_for(generator, encoder, part, crops, guidance=guidance, sampler_steps=SAMPLER_STEPS, rounds=_TEST_ROUNDS)
    dropped = generate_for(generator, encoder, part, crops, guidance=1.0, sampler_steps=SAMPLER_STEPS, told=False)
    figures = [
        *_fidelity(autoencoder, part, crops),
        *_obedience(asked, dropped),
        *_likeness(asked, part, crops),
        ("share of volumes that keep to every accepted range and tolerance", _share(asked, reference), "1", len(asked.volumes)),
    ]
    return tuple(Measurement(name, round(value, 4), unit, n, "test people") for name, value, unit, n in figures)


def _fidelity(autoencoder: Autoencoder, part: GridBatch, crops: Sequence[Crop]) -> Iterator[_Figure]:
    pairs = list(zip(reconstructed(autoencoder, part, crops), crops, strict=True))
    errors = [np.abs(image - crop.image).mean() for (image, _), crop in pairs]
    yield "autoencoder mean absolute error", float(np.mean(errors)), "1", len(crops)
    sharpness = [statistics(image)[2] / statistics(crop.image)[2] for (image, _), crop in pairs]
    yield "sharpness after the autoencoder, over the original", float(np.mean(sharpness)), "1", len(crops)
    for label, kind in ((1, CONCEPTS[0]), (2, CONCEPTS[1])):
        overlaps = [dice(labels, crop.labels, label) for (_, labels), crop in pairs]
        yield f"autoencoder Dice, label of {kind}", float(np.mean(overlaps)), "1", len(crops)


def _share(asked: Obedience, reference: OutputReference) -> float:
    """Return the share of volumes that the gates on looks and requested volumes let pass."""
    ranges = (reference.mean, reference.standard_deviation, reference.sharpness)
    kept = [
        all(value in accepted for value, accepted in zip(statistics(made.volume.array), ranges, strict=True))
        and error[:2].max() <= reference.volume_tolerance
        for made, error in zip(asked.volumes, asked.relative_error, strict=True)
    ]
    return float(np.mean(kept))


def _obedience(asked: Obedience, dropped: Obedience) -> Iterator[_Figure]:
    n = len(asked.volumes)
    for name, unit, value in zip(("r", "slope", "mean absolute error"), ("1", "1", "mm3"), asked.figures(), strict=True):
        yield f"requested against generated total volume, {name}", value, unit, n
    spread = dropped.generated[:, 2].std(ddof=1) / dropped.requested[:, 2].std(ddof=1)
    yield "spread of total volume with the values dropped, over the real spread", float(spread), "1", len(dropped.volumes)
    yield "seconds a volume, tokens to volume, median", float(np.median(asked.seconds)), "s", n


def _likeness(asked: Obedience, part: GridBatch, crops: Sequence[Crop]) -> Iterator[_Figure]:
    partners = [int(part.partner[index % len(crops)]) for index in range(len(asked.volumes))]
    to_prior = [
        similarity(made.volume.array, crops[side].image)
        for made, side in zip(asked.volumes, partners, strict=True)
        if side >= 0
    ]
    yield "correlation with the prior image, median", float(np.median(to_prior)), "1", len(to_prior)
    sides = between_sides(crops, part)
    yield "correlation of the two real hippocampi of one person, median", float(np.median(sides)), "1", len(sides)


def _training(run_folder: Path, split: Split, steps: int, guidance: float, validation: int) -> tuple[tuple[str, str], ...]:
    autoencoder_steps = load_checkpoint(run_folder / "autoencoder.pt")["step"]
    return (
        (
            "split",
            f"{len(split.train)} people for training, {len(split.validation)} for validation, {len(split.test)} for test; "
            "by person, both hippocampi together",
        ),
        ("trained ranges", "1st to 99th percentile of the bent training crops"),
        (
            "accepted mean, spread and sharpness",
            "validation volumes after the autoencoder, three deviations either way",
        ),
        ("accepted relative difference of a volume", "what 95 in 100 labels of generated validation volumes keep to"),
        ("autoencoder steps", str(autoencoder_steps)),
        ("denoiser steps of the kept weights", str(steps)),
        ("default guidance", f"{guidance:g}"),
        ("default sampler steps", str(SAMPLER_STEPS)),
        ("chosen on", f"{validation} validation crops: guidance by mean absolute error of total volume"),
        ("volume is measured by", "the label map that the model draws with the image, not by an independent network"),
        ("torch", torch.__version__),
    )
