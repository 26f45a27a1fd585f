"""What a model does, measured: how real volumes look on its scale, and how closely it obeys what it is told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from domain.generation import ConditioningRecord, GeneratedVolume
from domain.grid import cut
from domain.image_statistics import mean, sharpness, similarity, standard_deviation
from domain.volume import FloatArray, Volume
from generators.autoencoder import Autoencoder
from generators.hippocampus_data import CONCEPTS, Crop, GridBatch
from generators.registry import Generator
from multimodal.conditioning import ConditioningTokens, TokenEncoder

_ANTERIOR, _POSTERIOR = 1, 2


@dataclass(frozen=True, eq=False)
class Obedience:
    """Requested and generated volumes, (N, 3), mm3 in the order of `CONCEPTS`, and the seconds that each took."""

    requested: NDArray[np.float64]
    generated: NDArray[np.float64]
    volumes: tuple[GeneratedVolume, ...]
    seconds: NDArray[np.float64]

    @property
    def relative_error(self) -> NDArray[np.float64]:
        """Absolute difference over the requested value, (N, 3)."""
        return np.asarray(np.abs(self.generated - self.requested) / self.requested)

    def figures(self) -> tuple[float, float, float]:
        """Return Pearson's r, slope of generated over requested, and mean absolute error in mm3, of the total volume."""
        wanted, got = self.requested[:, 2], self.generated[:, 2]
        slope = np.polyfit(wanted, got, 1)[0] if len(wanted) > 1 else float("nan")
        return float(np.corrcoef(wanted, got)[0, 1]), float(slope), float(np.abs(got - wanted).mean())


def statistics(array: FloatArray) -> tuple[float, float, float]:
    """Return mean, standard deviation and sharpness of a volume of 1 mm voxels."""
    volume = Volume(array, np.eye(4)[[2, 1, 0, 3]], "", "MR")
    return mean(volume), standard_deviation(volume), sharpness(volume)


def between_sides(crops: Sequence[Crop], part: GridBatch) -> list[float]:
    """Return the similarity of the two hippocampi of each person of whom both are there, once for each of the two."""
    partners = zip(crops, part.partner.tolist(), strict=True)
    return [similarity(crop.image, crops[side].image) for crop, side in partners if side >= 0]


def reconstructed(
    autoencoder: Autoencoder, part: GridBatch, crops: Sequence[Crop]
) -> list[tuple[FloatArray, NDArray[np.uint8]]]:
    """Return image and label map of each crop after the autoencoder, in the crop's own shape."""
    answers = []
    for index, crop in enumerate(crops):
        with torch.inference_mode():
            z = autoencoder.encode(part.images[index : index + 1], part.labels[index : index + 1].long())
            image, logits = autoencoder.decode(z)
        labels = logits[0].argmax(0).to(torch.uint8).numpy()
        answers.append((cut(image[0, 0].numpy(), crop.image.shape), cut(labels, crop.image.shape)))
    return answers


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8], label: int) -> float:
    """Return the Dice coefficient of one label in two maps."""
    a, b = one == label, other == label
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def generate_for(
    generator: Generator,
    encoder: TokenEncoder,
    part: GridBatch,
    crops: Sequence[Crop],
    *,
    guidance: float,
    sampler_steps: int,
    told: bool = True,
    rounds: int = 1,
) -> Obedience:
    """Generate for each crop what its label map measures, beside the other hippocampus of the person where there is one.

    Parameters
    ----------
    told : bool
        False masks the numbers, so that only the prior image is known: the model's own spread of sizes.
    rounds : int
        Volumes for each crop, each with a seed of its own.
    """
    requested, generated, volumes, seconds = [], [], [], []
    for turn in range(rounds):
        for index, crop in enumerate(crops):
            tokens = _tokens(encoder, part, index, told=told)
            like = Volume(crop.image, np.eye(4)[[2, 1, 0, 3]], "", "MR")
            seed = 1000 * turn + crop.number
            started = time.perf_counter()
            made = generator.generate(tokens, like=like, seed=seed, guidance=guidance, sampler_steps=sampler_steps)
            seconds.append(time.perf_counter() - started)
            requested.append(crop.values)
            generated.append(label_volumes(made))
            volumes.append(made)
    return Obedience(np.array(requested), np.array(generated), tuple(volumes), np.array(seconds))


def label_volumes(made: GeneratedVolume) -> tuple[float, float, float]:
    """Return anterior, posterior and total volume of a label map, mm3."""
    labels = made.label_map if made.label_map is not None else np.zeros((1, 1, 1), np.uint8)
    voxel_mm3 = float(np.prod(made.volume.spacing_mm))
    anterior, posterior = (float((labels == label).sum()) * voxel_mm3 for label in (_ANTERIOR, _POSTERIOR))
    return anterior, posterior, anterior + posterior


def _tokens(encoder: TokenEncoder, part: GridBatch, index: int, *, told: bool) -> ConditioningTokens:
    partner = int(part.partner[index])
    values = part.values[index : index + 1]
    # The two parts are told and the total is not, as an EHR that measures parts would have it.
    present = torch.tensor([[told, told, False]])
    prior = part.images[max(partner, 0)][None]
    with torch.inference_mode():
        tokens, mask = encoder(values, present, prior, torch.tensor([partner >= 0]))
    targets = tuple((kind, float(value), "mm3") for kind, value in zip(CONCEPTS, values[0], strict=True))[:2]
    record = ConditioningRecord(targets if told else (), (), ())
    return ConditioningTokens(tokens, mask, ("measured",) * tokens.shape[1], record)
