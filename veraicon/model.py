"""The site's model: its card at once, its networks when a job first needs them.

A model that cannot be trusted fails the jobs that need it, by name, and is tried again with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from domain.clinical import ClinicalContext, ClinicalFact
from domain.generation import GeneratedVolume, GenerationRequest
from domain.model_card import ModelCard
from domain.volume import Volume
from generators.cards import advised_steps, bundle_folder, read_card
from generators.registry import FOUNDATION

if TYPE_CHECKING:  # torch lives behind these names, in the worker only
    from generators.registry import Generator
    from multimodal.conditioning import ConditioningTokens


@dataclass(frozen=True)
class _Loaded:
    generator: Generator
    encode: Callable[[ClinicalContext, tuple[ClinicalFact, ...], Volume | None], ConditioningTokens]


class SiteModel:
    """Encoder and generator of one bundle.

    Parameters
    ----------
    name : str
        Packaged name or folder.
    device : str
        ``cpu`` or ``cuda``.
    threads : int
        CPU threads of the generator.
    sentence_encoder : Path or None
        Folder of the transformer that embeds texts, the one that the model was trained with; None for the packaged one.
    """

    def __init__(self, name: str, *, device: str, threads: int, sentence_encoder: Path | None = None) -> None:
        self._name, self._device, self._threads = name, device, threads
        self._loaded: _Loaded | None = None
        self._sentence_encoder = sentence_encoder

    @property
    def card(self) -> ModelCard:
        """The card: of the loaded weights, else as it stands on disk.

        Raises
        ------
        WeightsRejected
            If there is no such model or its card is not whole.
        """
        return self._loaded.generator.card if self._loaded else read_card(bundle_folder(self._name))

    def load(self) -> None:
        """Load the networks now; what failed once is tried again at the next call.

        Raises
        ------
        WeightsRejected
            If weights and card do not agree.
        """
        self._networks()

    def encode(self, context: ClinicalContext, asked: tuple[ClinicalFact, ...], prior: Volume | None) -> ConditioningTokens:
        """Return tokens with a mask for what is missing; see `multimodal.encoder.MultimodalEncoder.encode`."""
        return self._networks().encode(context, asked, prior)

    def through_autoencoder(self, volume: Volume) -> Volume | None:
        """Return what the model keeps of an image; see `generators.registry.Generator.through_autoencoder`."""
        return self._networks().generator.through_autoencoder(volume)

    def generate(
        self, request: GenerationRequest, tokens: ConditioningTokens, *, like: Volume, cancelled: Callable[[], bool]
    ) -> GeneratedVolume:
        """Return one volume of the extent of `like`; see `generators.registry.Generator.generate`."""
        return self._networks().generator.generate(
            tokens,
            like=like,
            seed=request.seed,
            guidance=request.guidance,
            sampler_steps=request.sampler_steps or advised_steps(self.card),
            threads=self._threads,
            cancelled=cancelled,
        )

    def _networks(self) -> _Loaded:
        """Return the networks, and have torch use the configured threads from here on.

        Their number decides the last bits of the tokens as of the volume. It is set for good, so that of two jobs at once none
        takes the other's away when it ends.
        """
        import torch

        torch.set_num_threads(self._threads)
        if self._loaded is None:
            self._loaded = self._load_foundation() if self.card.family == FOUNDATION else self._load_own()
        return self._loaded

    def _load_own(self) -> _Loaded:
        from generators.registry import generator_of
        from generators.weights import ENCODER, load_bundle
        from multimodal.encoder import MultimodalEncoder
        from multimodal.sentences import SentenceEncoder

        bundle = load_bundle(self._name)
        generator, sentences = generator_of(bundle, self._device), SentenceEncoder(self._sentence_encoder)
        encoder = MultimodalEncoder.from_state(bundle.states[ENCODER], bundle.sizes[ENCODER], bundle.card)

        def encode(context: ClinicalContext, asked: tuple[ClinicalFact, ...], prior: Volume | None) -> ConditioningTokens:
            latent = generator.image_latent(prior) if prior is not None else None
            return encoder.encode(context, asked, latent, bundle.card, sentences=sentences)

        return _Loaded(generator, encode)

    def _load_foundation(self) -> _Loaded:
        """Return a foundation model: nothing of a person is encoded, and a request for a value is refused."""
        from generators.foundation.generator import load_maisi
        from generators.foundation.told import untold

        generator = load_maisi(self._name, self._device)
        return _Loaded(generator, lambda _context, asked, _prior: untold(asked, generator.variant))
