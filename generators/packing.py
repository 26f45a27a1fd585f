"""The networks of a finished run, each with its sizes: what the weights file of a bundle holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from generators.autoencoder import Autoencoder
from generators.denoiser import Denoiser
from generators.denoiser_stage import averaged_networks
from generators.recipes import Recipe
from generators.size_prior import SIZE_PRIOR, SizePrior
from generators.training import Autoencoders, load_checkpoint, trained_autoencoders, trained_image_autoencoder
from generators.training_set import TrainingSet
from generators.variational import GaussianPrior
from generators.vector_decoder import VectorDecoder
from generators.weights import ENCODER
from multimodal.conditioning import TokenEncoder

Networks = dict[str, tuple[nn.Module, Mapping[str, Any]]]
Weights = Mapping[str, Mapping[str, Tensor]]


def trained_networks(recipe: Recipe, run_folder: Path, train_part: TrainingSet, encoder: TokenEncoder) -> tuple[Networks, int]:
    """Return the networks of a run by part, and the number of steps of its last stage.

    Of the last stage they are those with the lowest held-out loss: a denoiser goes on learning its training people by heart
    when it no longer gains on others.

    Raises
    ------
    ConfigurationError
        If a stage was not trained.
    """
    saved = load_checkpoint(run_folder / f"{recipe.stages[-1]}-best.pt")
    averaged = averaged_networks(saved["stage"])
    if recipe.vector is None:
        networks = diffusion_networks(recipe, trained_autoencoders(recipe, run_folder, train_part), averaged, encoder)
    else:
        image = trained_image_autoencoder(recipe, run_folder, train_part)
        networks = vector_networks(recipe, image, averaged, encoder)
    return networks, int(saved["step"])


def diffusion_networks(recipe: Recipe, autoencoders: Autoencoders, averaged: Weights, encoder: TokenEncoder) -> Networks:
    """Return the networks of latent diffusion: autoencoders, and a denoiser for each."""
    networks = _shared(recipe, autoencoders.image, averaged, encoder)
    networks["label_autoencoder"] = (autoencoders.labels, asdict(recipe.label_autoencoder))
    shapes = {"label_denoiser": recipe.label_denoiser, "image_denoiser": recipe.image_denoiser}
    for name, shape in shapes.items():
        if shape is not None:
            networks[name] = (_loaded(Denoiser(shape), averaged[name]), asdict(shape))
    if recipe.size_prior is not None:
        networks[SIZE_PRIOR] = (_loaded(SizePrior(recipe.size_prior), averaged[SIZE_PRIOR]), asdict(recipe.size_prior))
    return networks


def vector_networks(recipe: Recipe, image: Autoencoder, averaged: Weights, encoder: TokenEncoder) -> Networks:
    """Return the networks of the families VAE and GAN: decoder, the VAE's prior, and what a prior image is told by."""
    networks = _shared(recipe, image, averaged, encoder)
    shape = recipe.vector_shape
    networks["decoder"] = (_loaded(VectorDecoder(shape), averaged["decoder"]), asdict(shape))
    if "prior" in averaged:
        networks["prior"] = (_loaded(GaussianPrior(shape), averaged["prior"]), asdict(shape))
    return networks


def _shared(recipe: Recipe, image: Autoencoder | None, averaged: Weights, encoder: TokenEncoder) -> Networks:
    networks: Networks = {ENCODER: (_loaded(encoder, averaged[ENCODER]), encoder.sizes)}
    if image is not None and recipe.image_autoencoder is not None:
        networks["image_autoencoder"] = (image, asdict(recipe.image_autoencoder))
    return networks


def _loaded(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    network.load_state_dict(dict(state))
    return network
