"""Cards and tiny bundles of random weights: the real code paths on networks that run in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domain.model_card import ConceptInput, ModelCard, OutputReference, SeriesLimits, ValueRange

GRID = (16, 16, 16)
CONCEPTS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
_MM = ValueRange(4, 20, "mm")
_ANY = ValueRange(-10, 10, "1")


def card(**changes: Any) -> ModelCard:
    """Return a whole card with the given entries changed."""
    entries: dict[str, Any] = {
        "name": "tiny",
        "version": "0",
        "family": "latent-diffusion",
        "summary": "Random weights.",
        "intended_use": "Tests.",
        "out_of_scope": "Everything else.",
        "licence": "CC0-1.0",
        "attribution": "Nobody.",
        "data_sources": ("none",),
        "weights_digest": "sha256:0",
        "limits": SeriesLimits("MR", ValueRange(0.9, 1.1, "mm"), (_MM, _MM, _MM)),
        "concepts": tuple(ConceptInput(kind, ValueRange(100, 4000, "mm3")) for kind in CONCEPTS),
        "reference": OutputReference(
            ValueRange(0, 1, "1"), _ANY, _ANY, _ANY, ValueRange(-1, 0.9, "1"), 0.2, ((1, CONCEPTS[0]), (2, CONCEPTS[1]))
        ),
        "measured": (),
        "training": (),
    }
    return ModelCard(**{**entries, **changes})


def tiny_recipe(**changes: Any) -> Any:
    """Return the recipe of a model that trains in milliseconds a step; it has no data set."""
    from generators.autoencoder import AutoencoderShape
    from generators.denoiser import DenoiserShape
    from generators.recipes import Recipe, TrainingPlan

    def nothing(_folder: Path) -> Any:
        raise NotImplementedError

    denoiser = {"channels": (8, 8), "head_channels": 8, "norm_groups": 4, "token_width": 16, "pooled_tokens": 2}
    entries: dict[str, Any] = {
        "name": "tiny",
        "read": nothing,
        "grid": GRID,
        "spacing_mm": 1.0,
        "label_autoencoder": AutoencoderShape(3, block=2, latent_channels=2, channels=(8, 8), norm_groups=4),
        "label_denoiser": DenoiserShape(latent_channels=2, hint_channels=1, **denoiser),
        "image_autoencoder": AutoencoderShape(1, block=2, latent_channels=2, channels=(8, 8), norm_groups=4),
        "image_denoiser": DenoiserShape(latent_channels=2, hint_channels=1 + 2 * 4**3, **denoiser),
        "plan": TrainingPlan(batch={"label-autoencoder": 2, "image-autoencoder": 2, "denoiser": 4}, variants=2, check_every=4),
    }
    return Recipe(**{**entries, **changes})


def tiny_encoder(recipe: Any) -> Any:
    """Return an encoder of random weights for the three volumes."""
    from multimodal.encoder import EncoderConfig, MultimodalEncoder
    from multimodal.picking import concept_of

    displays = tuple(concept_of(kind).display for kind in CONCEPTS)
    return MultimodalEncoder(EncoderConfig(CONCEPTS, recipe.latent, texts=displays, width=16, embedding=8))


def with_size_prior(recipe: Any) -> Any:
    """Return a recipe whose model draws the size of both labels."""
    from dataclasses import replace

    from generators.size_prior import SizePriorShape

    return replace(
        recipe,
        size_prior=SizePriorShape(label_count=2, components=2, token_width=16, pooled_tokens=2),
        label_denoiser=replace(recipe.label_denoiser, hint_channels=1 + 2),
        volumes={CONCEPTS[0]: (1,), CONCEPTS[1]: (2,), CONCEPTS[2]: (1, 2)},
    )


def write_tiny_bundle(folder: Path, *, with_image: bool = True, with_sizes: bool = False, **changes: Any) -> Path:
    """Write a bundle of random weights with a valid card and return its folder."""
    import torch

    from generators.autoencoder import Autoencoder
    from generators.cards import write_card
    from generators.denoiser import Denoiser
    from generators.packing import diffusion_networks
    from generators.size_prior import SizePrior
    from generators.training import Autoencoders
    from generators.weights import save_weights

    recipe = tiny_recipe() if with_image else tiny_recipe(image_autoencoder=None, image_denoiser=None)
    recipe = with_size_prior(recipe) if with_sizes else recipe
    with torch.random.fork_rng():
        torch.manual_seed(5)
        image = Autoencoder(recipe.image_autoencoder) if with_image else None
        autoencoders = Autoencoders(Autoencoder(recipe.label_autoencoder), image)
        encoder = tiny_encoder(recipe)
        averaged = {"encoder": encoder.state_dict(), "label_denoiser": Denoiser(recipe.label_denoiser).state_dict()}
        if with_image:
            averaged["image_denoiser"] = Denoiser(recipe.image_denoiser).state_dict()
        if with_sizes:
            averaged["size_prior"] = SizePrior(recipe.size_prior).state_dict()
        for name in averaged.keys() - {"encoder"}:  # MONAI starts the last layer at zero: then nothing would reach the output
            averaged[name] = {key: torch.randn_like(weights) * 0.1 for key, weights in averaged[name].items()}
    encoder.fit_scale(torch.tensor([1700.0, 1500.0, 3200.0]), torch.tensor([300.0, 300.0, 500.0]))
    averaged["encoder"] = encoder.state_dict()
    digest = save_weights(folder, grid=GRID, parts=diffusion_networks(recipe, autoencoders, averaged, encoder))
    write_card(card(weights_digest=digest, **changes), folder)
    return folder
