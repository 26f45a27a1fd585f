"""How each model of ours is made: its data, its grid and the size of its networks. One code path trains them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from domain.errors import ConfigurationError, RequestInvalid
from domain.grid import Shape
from generators.autoencoder import AutoencoderShape
from generators.denoiser import DenoiserShape
from generators.run_facts import Precision
from generators.size_prior import SizePriorShape
from generators.training_set import TrainingSet
from generators.vector_decoder import VectorShape

Parts = dict[str, TrainingSet]
"""Training, validation and test people, under ``train``, ``validation`` and ``test``."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how; a run folder keeps the plan that it was started with.

    Attributes
    ----------
    steps, batch : mapping of str to int
        For each stage by name.
    variants : int
        Forms of each case that the denoisers see: one as it is, the others bent.
    check_every : int
        Steps between measuring the held-out loss and writing a checkpoint.
    patience : int
        Checks without a better held-out loss after which a stage stops.
    precision : str
        In which convolutions and matrices are multiplied in training: ``bfloat16`` takes half the time and less on a processor
        that has instructions for it. Weights, held-out losses and everything that is drawn later stay in float32.
    """

    steps: dict[str, int] = field(
        default_factory=lambda: {
            "label-autoencoder": 1500,
            "image-autoencoder": 4000,
            "denoiser": 6000,
            "vae": 4000,
            "gan": 4000,
        }
    )
    batch: dict[str, int] = field(
        default_factory=lambda: {"label-autoencoder": 4, "image-autoencoder": 2, "denoiser": 12, "vae": 8, "gan": 8}
    )
    variants: int = 8
    check_every: int = 250
    patience: int = 8
    precision: Precision = "float32"
    seed: int = 20261


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model.

    Attributes
    ----------
    read : callable
        Data set folder to the three parts of its split.
    grid : tuple of int
        Shape on which the networks work, voxels of `spacing_mm`.
    image_autoencoder, image_denoiser : AutoencoderShape, DenoiserShape, or None
        None for a model that makes label maps alone.
    units : tuple of str
        UCUM unit of each column of the data set's facts; empty where it is coded.
    tells_other_facts : bool
        Whether facts beyond the columns of the data set may be told.
    family : str
        Name in `generators.registry.FAMILIES`. The others than latent diffusion have no use for the label's autoencoder and for
        denoisers; of the image's autoencoder they keep what a prior image is told by.
    vector : VectorShape or None
        Of the families VAE and GAN.
    volumes : mapping of str to tuple of int
        Labels whose volume a kind of fact is, for those kinds that are volumes.
    sampler_steps : int
        As many as the card advises; chosen on validation people.
    size_prior : SizePriorShape or None
        Of a model that draws how large each label is before it draws the label; each label's volume is then a fact.
    """

    name: str
    read: Callable[[Path], Parts]
    grid: Shape
    spacing_mm: float
    label_autoencoder: AutoencoderShape
    label_denoiser: DenoiserShape
    image_autoencoder: AutoencoderShape | None
    image_denoiser: DenoiserShape | None
    tells_other_facts: bool = False
    units: tuple[str, ...] = ("mm3", "mm3", "mm3")
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    family: str = "latent-diffusion"
    vector: VectorShape | None = None
    volumes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sampler_steps: int = 4
    size_prior: SizePriorShape | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        if self.vector is not None:
            return ("image-autoencoder", self.family)
        image = ("image-autoencoder",) if self.image_autoencoder else ()
        return ("label-autoencoder", *image, "denoiser")

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Shape (C, d, h, w) of the image's latent; zeros where there is no image."""
        if self.image_autoencoder is None:
            return (0, 0, 0, 0)
        slices, rows, columns = (n // self.image_autoencoder.reduction for n in self.grid)
        return (self.image_autoencoder.latent_channels, slices, rows, columns)

    @property
    def vector_shape(self) -> VectorShape:
        """Size of the decoder of the families VAE and GAN.

        Raises
        ------
        ConfigurationError
            If the recipe is of another family.
        """
        if self.vector is None:
            raise ConfigurationError(
                found=f"the recipe {self.name} without a vector",
                allowed="a recipe of a family VAE or GAN",
                action="name another",
            )
        return self.vector


def _hippocampus_parts(folder: Path) -> Parts:
    from generators.hippocampus_data import of_subjects, on_grid, read_crops, split_subjects

    crops = read_crops(folder)
    split = split_subjects(crops)
    return {name: on_grid(of_subjects(crops, getattr(split, name))) for name in ("train", "validation", "test")}


def _stroke_parts(folder: Path) -> Parts:
    from generators.mirroring import with_mirrored
    from generators.stroke_data import read_lesions

    parts = read_lesions(folder)
    return {**parts, "train": with_mirrored(parts["train"])}


HIPPOCAMPUS = Recipe(
    name="hippocampus-t1",
    read=_hippocampus_parts,
    grid=(48, 64, 48),
    spacing_mm=1.0,
    label_autoencoder=AutoencoderShape(voxel_channels=3, block=4, latent_channels=8, channels=(32, 96)),
    label_denoiser=DenoiserShape(latent_channels=8, hint_channels=1, channels=(48, 96)),
    image_autoencoder=AutoencoderShape(voxel_channels=1, block=2, latent_channels=8, channels=(32, 64)),
    image_denoiser=DenoiserShape(latent_channels=8, hint_channels=1 + 2 * 4**3, channels=(32, 64, 128)),
    plan=TrainingPlan(variants=24),  # with eight, images of validation people no longer gained after 1500 steps
)

HIPPOCAMPUS_VAE = replace(
    HIPPOCAMPUS,
    name="hippocampus-t1-vae",
    family="vae",
    plan=TrainingPlan(variants=16),  # these see voxels, not latents: sixteen forms of each take a gigabyte
    vector=VectorShape(grid=HIPPOCAMPUS.grid),
    sampler_steps=1,
    volumes={
        "hippocampus-anterior-volume": (1,),
        "hippocampus-posterior-volume": (2,),
        "hippocampus-volume": (1, 2),
    },
)
HIPPOCAMPUS_GAN = replace(HIPPOCAMPUS_VAE, name="hippocampus-t1-gan", family="gan")

STROKE_LESION = Recipe(
    name="stroke-lesion",
    read=_stroke_parts,
    grid=(80, 96, 80),
    spacing_mm=2.0,
    label_autoencoder=AutoencoderShape(voxel_channels=2, block=4, latent_channels=8, channels=(32, 96)),
    label_denoiser=DenoiserShape(latent_channels=8, hint_channels=1 + 1, channels=(32, 64)),
    image_autoencoder=None,
    image_denoiser=None,
    units=("a", "", "{score}", "{score}", "kg/m2", "", "", "mm3"),
    tells_other_facts=True,
    volumes={"stroke-lesion-volume": (1,)},
    sampler_steps=8,
    size_prior=SizePriorShape(label_count=1),
    plan=TrainingPlan(variants=4),  # mirrored, there are 1200 cases; bending one costs four times what a hippocampus does
)

RECIPES = {recipe.name: recipe for recipe in (HIPPOCAMPUS, HIPPOCAMPUS_VAE, HIPPOCAMPUS_GAN, STROKE_LESION)}


def recipe_of(name: str) -> Recipe:
    """Return a recipe by the name of its model.

    Raises
    ------
    RequestInvalid
        If there is none.
    """
    if name not in RECIPES:
        raise RequestInvalid(
            found="a model that has no recipe", allowed=", ".join(RECIPES), action="name one of these, or add a recipe"
        )
    return RECIPES[name]
