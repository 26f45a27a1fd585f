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
        "concepts": tuple(ConceptInput(kind, ValueRange(1000, 4000, "mm3")) for kind in CONCEPTS),
        "reference": OutputReference(
            ValueRange(0, 1, "1"), _ANY, _ANY, _ANY, ValueRange(-1, 0.9, "1"), 0.2, ((1, CONCEPTS[0]), (2, CONCEPTS[1]))
        ),
        "measured": (),
        "training": (),
    }
    return ModelCard(**{**entries, **changes})


def write_tiny_bundle(folder: Path, **changes: Any) -> Path:
    """Write a bundle of random weights with a valid card and return its folder."""
    import torch

    from generators.autoencoder import Autoencoder, AutoencoderShape
    from generators.cards import write_card
    from generators.denoiser import Denoiser, DenoiserShape
    from generators.weights import save_weights
    from multimodal.encoder import EncoderConfig, MultimodalEncoder

    with torch.random.fork_rng():
        torch.manual_seed(5)
        autoencoder = Autoencoder(AutoencoderShape(latent_channels=2, channels=(8, 8), norm_groups=4))
        encoder = MultimodalEncoder(EncoderConfig(CONCEPTS, GRID, 16))
        shape = DenoiserShape(
            latent_channels=2, channels=(8, 8), head_channels=8, norm_groups=4, token_width=16, pooled_tokens=2
        )
        denoiser = Denoiser(shape)
        for weights in denoiser.parameters():  # MONAI starts the last layer at zero: then nothing would reach the output
            torch.nn.init.normal_(weights, std=0.1)
    encoder.fit_values(torch.tensor([1700.0, 1500.0, 3200.0]), torch.tensor([300.0, 300.0, 500.0]))
    digest = save_weights(folder, grid=GRID, autoencoder=autoencoder, denoiser=denoiser, encoder=encoder)
    write_card(card(weights_digest=digest, **changes), folder)
    return folder
