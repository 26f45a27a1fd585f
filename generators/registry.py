"""Families of generators by name, behind one Protocol. Importing this module loads no torch; loading a generator does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from domain.errors import WeightsRejected
from domain.generation import GeneratedVolume
from domain.model_card import ModelCard
from domain.volume import Volume
from generators.cards import bundle_folder, read_card

if TYPE_CHECKING:
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
        guidance: float,
        sampler_steps: int,
        threads: int = 2,
        cancelled: Callable[[], bool] = ...,
        progress: Callable[[int, int], None] = ...,
    ) -> GeneratedVolume:
        """Return one volume; see `generators.latent_diffusion.LatentDiffusionGenerator.generate`."""


def _latent_diffusion(bundle: Bundle, device: str) -> Generator:
    from generators.latent_diffusion import LatentDiffusionGenerator

    return LatentDiffusionGenerator.from_bundle(bundle, device)


FAMILIES: dict[str, Callable[[Bundle, str], Generator]] = {"latent-diffusion": _latent_diffusion}


def load_generator(name_or_folder: str | Path, device: str = "cpu") -> Generator:
    """Return the generator of an installed bundle, by name, or of a folder.

    Raises
    ------
    WeightsRejected
        If the bundle cannot be trusted (see `generators.weights.load_bundle`) or its family is unknown.
    """
    _family(read_card(bundle_folder(name_or_folder)))  # before torch is loaded
    from generators.weights import load_bundle

    return generator_of(load_bundle(name_or_folder, device), device)


def generator_of(bundle: Bundle, device: str = "cpu") -> Generator:
    """Return the generator of a bundle that is loaded already."""
    return _family(bundle.card)(bundle, device)


def _family(card: ModelCard) -> Callable[[Bundle, str], Generator]:
    if card.family not in FAMILIES:
        raise WeightsRejected(
            found=f"a model of the unknown family {card.family!r}",
            allowed=", ".join(FAMILIES),
            action="use a bundle of one of these families, or a newer version of this software",
        )
    return FAMILIES[card.family]
