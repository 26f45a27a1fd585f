"""A model card and generated volumes for tests: a smooth blob with two labels on a small grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from domain.generation import ConditioningRecord, ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.model_card import (
    ConceptInput,
    Measurement,
    ModelCard,
    OutputReference,
    SeriesLimits,
    ValueRange,
)
from domain.volume import Volume

ANTERIOR, POSTERIOR, WHOLE = "hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume"
SHAPE = (20, 24, 16)
SPACING_MM = 1.0


def digest(letter: str) -> str:
    """Return a digest of the right form."""
    return f"sha256:{letter * 64}"


def make_card() -> ModelCard:
    """Return a card whose ranges hold the volumes of `make_generated`."""
    unit = "1"
    return ModelCard(
        name="hippocampus-t1",
        version="1.0",
        family="latent-diffusion",
        summary="Makes T1 volumes of the hippocampus.",
        intended_use="Research.",
        out_of_scope="Any clinical use.",
        licence="CC-BY-SA-4.0",
        attribution="The authors of the data.",
        data_sources=("a public set | with a bar",),
        weights_digest=digest("a"),
        limits=SeriesLimits("MR", ValueRange(0.8, 1.2, "mm"), (ValueRange(10, 60, "mm"),) * 3),
        concepts=(ConceptInput(ANTERIOR, ValueRange(100, 3000, "mm3")), ConceptInput(POSTERIOR, ValueRange(100, 3000, "mm3"))),
        reference=OutputReference(
            intensity_range=ValueRange(0.0, 1.0, unit),
            mean=ValueRange(0.02, 0.6, unit),
            standard_deviation=ValueRange(0.05, 0.5, unit),
            sharpness=ValueRange(0.005, 0.2, "/mm"),
            source_similarity=ValueRange(0.2, 0.97, unit),
            volume_tolerance=0.15,
            labels=((1, ANTERIOR), (2, POSTERIOR)),
        ),
        measured=(Measurement("volume correlation", 0.91, "1", 20, "validation"),),
        training=(("steps", "8300"),),
    )


def make_volume(
    array: NDArray[np.floating], *, spacing_mm: float = SPACING_MM, origin_mm: tuple[float, float, float] = (0, 0, 0)
) -> Volume:
    """Return a volume in patient axes: slices to Superior, rows to Posterior, columns to Left."""
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[1, 1] = affine[0, 2] = spacing_mm
    affine[:3, 3] = origin_mm
    affine[3, 3] = 1
    return Volume(np.asarray(array, dtype=np.float32), affine, "1.2.3.4", "MR")


def blob(
    shape: tuple[int, int, int] = SHAPE, *, width: float = 4.0, texture: float = 0.0, seed: int = 0
) -> NDArray[np.float64]:
    """Return a smooth bright blob in the middle, in [0, 1], with noise on top where asked."""
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    radius = (z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2) / width**2
    noise = np.random.default_rng(seed).normal(scale=texture, size=shape) if texture else 0.0
    return np.clip(np.exp(-radius) + noise, 0.0, 1.0)


def make_labels(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    """Return two boxes beside each other: label 1 of 6 x 5 x 8 and label 2 of 6 x 5 x 8 voxels."""
    labels = np.zeros(shape, dtype=np.uint8)
    labels[7:13, 7:12, 4:12] = 1
    labels[7:13, 12:17, 4:12] = 2
    return labels


BOX_MM3 = 6 * 5 * 8 * SPACING_MM**3


def make_source() -> Volume:
    """Return the image that conditioned the generated volume: related, on another scale, not the same."""
    return make_volume(400 * blob(width=5.0, texture=0.15, seed=7) + 30)


def make_generated(**changes: object) -> GeneratedVolume:
    """Return a volume that passes every gate beside `make_source` and `make_card`; `changes` replace fields."""
    generated = GeneratedVolume(
        volume=make_volume(blob(texture=0.05)),
        label_map=make_labels(),
        model=ModelIdentity("hippocampus-t1", "1.0", digest("a"), digest("b"), "CC-BY-SA-4.0"),
        seed=2**60 + 1,
        sampler="rectified-flow-adams-bashforth-2",
        sampler_steps=8,
        guidance=2.5,
        conditioning=ConditioningRecord(((ANTERIOR, BOX_MM3 * 1.05, "mm3"),), ("prior-image", ANTERIOR), (POSTERIOR,)),
        environment=ExecutionEnvironment((("numpy", "2.4"), ("torch", "2.13")), "cpu", 2, "AVX512"),
    )
    return replace(generated, **changes)  # type: ignore[arg-type]


def with_targets(*targets: tuple[str, float, str]) -> ConditioningRecord:
    """Return a conditioning record with these targets."""
    return ConditioningRecord(targets, tuple(kind for kind, _, _ in targets), ())
