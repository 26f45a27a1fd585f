"""Tiny models of the families VAE and GAN, and people made of two blocks: enough for the real code paths in milliseconds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.adversarial import AdversarialGenerator
from generators.adversarial_stage import AdversarialStage
from generators.augmentation import volumes_mm3
from generators.autoencoder import Autoencoder
from generators.cards import write_card
from generators.recipes import Recipe, TrainingPlan
from generators.training_set import Facts, FactVectors, TrainingSet
from generators.variational import GaussianPrior, VariationalGenerator
from generators.variational_stage import VariationalStage
from generators.vector_data import VectorData
from generators.vector_decoder import VectorDecoder, VectorShape
from generators.weights import ENCODER, save_weights
from tests.builders_generators import CONCEPTS, GRID, card, tiny_encoder, tiny_recipe

SHAPE = VectorShape(grid=GRID, vector=8, channels=(32, 16), image_channels=8, norm_groups=4, token_width=16, pooled_tokens=2)
STAGES = {"vae": VariationalStage, "gan": AdversarialStage}
GENERATORS = {"vae": VariationalGenerator, "gan": AdversarialGenerator}


def vector_recipe(family: str, **plan: Any) -> Recipe:
    """Return the tiny recipe of a family."""
    batch = {"image-autoencoder": 2, family: 4}
    volumes = dict(zip(CONCEPTS, ((1,), (2,), (1, 2)), strict=True))
    recipe: Recipe = tiny_recipe(
        family=family, vector=SHAPE, volumes=volumes, plan=TrainingPlan(batch=batch, check_every=2, **plan)
    )
    return recipe


def blocks(count: int = 6) -> TrainingSet:
    """Return people with a block of label 1 in front of one of label 2, of several sizes, each as bright as its label says."""
    labels = torch.zeros(count, *GRID, dtype=torch.uint8)
    for case in range(count):
        low, high = 5 - case % 3, 11 + case % 3
        labels[case, low:high, 4:8, low:high], labels[case, low:high, 8:12, low:high] = 1, 2
    rng = torch.Generator().manual_seed(0)
    images = 0.1 + 0.4 * labels.unsqueeze(1) + 0.02 * torch.randn(count, 1, *GRID, generator=rng)
    return TrainingSet(
        labels=labels,
        images=images,
        extents=torch.full((count, 3), 14),
        partner=torch.tensor([case ^ 1 for case in range(count)]),
        facts=Facts(CONCEPTS, ("clinical-facts",) * 3, volumes_mm3(labels), torch.full((count, 3), -1)),
        measured=volumes_mm3,
    )


def vectors() -> FactVectors:
    """Return embeddings that tell the three volumes apart."""
    concepts: tuple[Tensor, ...] = tuple(4 * torch.eye(8)[index : index + 1] for index in range(3))
    return FactVectors(concepts, torch.zeros(0, 8), torch.zeros(0, 8))


def random_autoencoder(recipe: Recipe) -> Autoencoder:
    """Return an autoencoder of images with random weights, the same each time."""
    assert recipe.image_autoencoder is not None
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Autoencoder(recipe.image_autoencoder).eval()


def stage_of(family: str) -> Any:
    """Return an untrained stage on `blocks`, the same each time."""
    recipe = vector_recipe(family)
    data = VectorData.of(blocks(), random_autoencoder(recipe), variants=2, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = tiny_encoder(recipe)
    return STAGES[family](recipe, data, data, encoder, vectors())


def generator_of_stage(stage: Any, family: str) -> Any:
    """Return the generator of a stage's averaged networks."""
    networks = {name: network.eval() for name, network in stage._average.module.items()}
    autoencoder = random_autoencoder(vector_recipe(family))
    if family == "vae":
        return VariationalGenerator(card(family=family), networks["decoder"], networks["prior"], autoencoder)
    return AdversarialGenerator(card(family=family), networks["decoder"], autoencoder)


def write_vector_bundle(folder: Path, family: str) -> Path:
    """Write a bundle of random weights with a valid card and return its folder."""
    recipe = vector_recipe(family)
    assert recipe.image_autoencoder is not None
    with torch.random.fork_rng():
        torch.manual_seed(4)
        encoder = tiny_encoder(recipe)
        encoder.fit_scale(torch.tensor([200.0, 200.0, 400.0]), torch.tensor([90.0, 90.0, 180.0]))
        parts: dict[str, Any] = {
            ENCODER: (encoder, encoder.sizes),
            "decoder": (VectorDecoder(SHAPE), asdict(SHAPE)),
            "image_autoencoder": (random_autoencoder(recipe), asdict(recipe.image_autoencoder)),
        }
        if family == "vae":
            parts["prior"] = (GaussianPrior(SHAPE), asdict(SHAPE))
    digest = save_weights(folder, grid=GRID, parts=parts)
    write_card(card(family=family, weights_digest=digest), folder)
    return folder
