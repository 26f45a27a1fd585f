"""Families of generators by name, behind one Protocol. Importing this module loads no torch; loading a generator does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from domain.errors import WeightsRejected
from domain.generation import GeneratedVolume, Guidance
from domain.model_card import ModelCard
from domain.volume import Volume
from generators.cards import bundle_folder, read_card

if TYPE_CHECKING:
    from torch import Tensor

    from generators.weights import Bundle
    from multimodal.conditioning import ConditioningTokens


class Generator(Protocol):
    """Makes volumes from conditioning tokens."""

    card: ModelCard

    def generate(
        self,
        tokens: ConditioningTokens,
        *,
        like: Volume,
        seed: int,
        guidance: Guidance,
        sampler_steps: int,
        threads: int = 2,
        cancelled: Callable[[], bool] = ...,
        progress: Callable[[int, int], None] = ...,
    ) -> GeneratedVolume:
        """Return one volume; see `generators.latent_diffusion.LatentDiffusionGenerator.generate`."""

    def image_latent(self, prior: Volume) -> Tensor | None:
        """Return the latent of a prior image, (C, d, h, w); None if the model takes none."""

    def through_autoencoder(self, volume: Volume) -> Volume | None:
        """Return a volume after encoding and decoding: what the model keeps of an image; None if it makes none."""


def _latent_diffusion(bundle: Bundle, device: str) -> Generator:
    from generators.latent_diffusion import LatentDiffusionGenerator

    return LatentDiffusionGenerator.from_bundle(bundle, device)


def _vae(bundle: Bundle, device: str) -> Generator:
    from generators.variational import VariationalGenerator

    return VariationalGenerator.from_bundle(bundle, device)


def _gan(bundle: Bundle, device: str) -> Generator:
    from generators.adversarial import AdversarialGenerator

    return AdversarialGenerator.from_bundle(bundle, device)


FAMILIES: dict[str, Callable[[Bundle, str], Generator]] = {"latent-diffusion": _latent_diffusion, "vae": _vae, "gan": _gan}
"""Families of our own bundles; `FOUNDATION` is beside them, in the publisher's layout."""

FOUNDATION = "maisi"


def load_generator(name_or_folder: str | Path, device: str = "cpu") -> Generator:
    """Return the generator of an installed bundle, by name, or of a folder.

    Raises
    ------
    WeightsRejected
        If the bundle cannot be trusted (see `generators.weights.load_bundle`) or its family is unknown.
    """
    if require_family(read_card(bundle_folder(name_or_folder))).family == FOUNDATION:  # before torch is loaded
        from generators.foundation.generator import load_maisi

        return load_maisi(name_or_folder, device)
    from generators.weights import load_bundle

    return generator_of(load_bundle(name_or_folder), device)


def generator_of(bundle: Bundle, device: str = "cpu") -> Generator:
    """Return the generator of a bundle of ours that is loaded already."""
    return FAMILIES[require_family(bundle.card).family](bundle, device)


def require_family(card: ModelCard) -> ModelCard:
    """Return the card of a model whose family is known.

    Raises
    ------
    WeightsRejected
        If it is not.
    """
    if card.family not in (*FAMILIES, FOUNDATION):
        raise WeightsRejected(
            found=f"a model of the unknown family {card.family!r}",
            allowed=", ".join((*FAMILIES, FOUNDATION)),
            action="use a bundle of one of these families, or a newer version of this software",
        )
    return card
