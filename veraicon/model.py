"""The site's model: its card at once, its networks when a job first needs them.

A model that cannot be trusted fails the jobs that need it, by name, and is tried again with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.clinical import ClinicalContext, ClinicalFact
from domain.generation import GeneratedVolume, GenerationRequest
from domain.model_card import ModelCard
from domain.volume import Volume
from generators.cards import bundle_folder, read_card

if TYPE_CHECKING:  # torch lives behind these names, in the worker only
    from generators.registry import Generator
    from multimodal.conditioning import ConditioningTokens
    from multimodal.encoder import MultimodalEncoder


@dataclass(frozen=True)
class _Loaded:
    encoder: MultimodalEncoder
    generator: Generator


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
    """

    def __init__(self, name: str, *, device: str, threads: int) -> None:
        self._name, self._device, self._threads = name, device, threads
        self._loaded: _Loaded | None = None

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

    def encode(self, context: ClinicalContext, asked: tuple[ClinicalFact, ...], prior: Volume) -> ConditioningTokens:
        """Return tokens with a mask for what is missing; see `multimodal.encoder.MultimodalEncoder.encode`."""
        networks = self._networks()
        return networks.encoder.encode(context, asked, prior, networks.generator.card)

    def generate(
        self, request: GenerationRequest, tokens: ConditioningTokens, *, like: Volume, cancelled: Callable[[], bool]
    ) -> GeneratedVolume:
        """Return one volume of the extent of `like`; see `generators.registry.Generator.generate`."""
        return self._networks().generator.generate(
            tokens,
            like=like,
            seed=request.seed,
            guidance=request.guidance,
            sampler_steps=request.sampler_steps,
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
            from generators.registry import generator_of
            from generators.weights import load_bundle
            from multimodal.encoder import MultimodalEncoder

            bundle = load_bundle(self._name, self._device)
            encoder = MultimodalEncoder.from_state(bundle.encoder_state, bundle.card)
            self._loaded = _Loaded(encoder, generator_of(bundle, self._device))
        return self._loaded
