"""What the families VAE and GAN have in common: one vector, one pass, a label map that meets the request, and its image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import structlog
import torch
from torch import Tensor

from domain.errors import JobError, RequestInvalid
from domain.generation import GeneratedVolume, Guidance
from domain.grid import Shape, cut, placed
from domain.model_card import ModelCard, require_series_fits
from domain.volume import FloatArray, Volume, to_patient_axes
from generators.autoencoder import Autoencoder, AutoencoderShape
from generators.denoiser import label_hint
from generators.label_levels import labels_at_levels, wanted_voxels
from generators.prior_image import encoded, reconstructed
from generators.results import as_volume, environment, finite, identity, memory_watched, threads_set
from generators.sampling_limits import on_grid, require_sampling
from generators.vector_decoder import VectorDecoder, VectorShape
from generators.weights import Bundle, built
from multimodal.conditioning import ConditioningTokens

log = structlog.get_logger()


class VectorGenerator(ABC):
    """Draws a vector, decodes it once.

    Parameters
    ----------
    decoder : VectorDecoder
    autoencoder : Autoencoder
        Of images, the one that the token encoder's prior-image tokens were trained on. It takes no part in drawing.
    """

    sampler: ClassVar[str]

    def __init__(self, card: ModelCard, decoder: VectorDecoder, autoencoder: Autoencoder, *, device: str = "cpu") -> None:
        self.card = card
        self._decoder, self._autoencoder, self._device = decoder, autoencoder, device

    def image_latent(self, prior: Volume) -> Tensor | None:
        """Return the standardised latent of a received image, (C, d, h, w), on the CPU.

        Raises
        ------
        UnsupportedSeries
            If the image is not one that the model was trained to take.
        """
        return encoded(self._autoencoder, prior, self.card, self._decoder.shape.grid)

    def through_autoencoder(self, volume: Volume) -> Volume | None:
        """Return an image of intensities 0 to 1 as the prior-image tokens know it: after encoding and decoding."""
        return reconstructed(self._autoencoder, volume, self.card, self._decoder.shape.grid)

    def generate(
        self,
        tokens: ConditioningTokens,
        *,
        like: Volume,
        seed: int,
        guidance: Guidance,
        sampler_steps: int,
        threads: int = 2,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> GeneratedVolume:
        """Return one volume; the same arguments on the same build, CPU kind and thread count give the same bits.

        Parameters
        ----------
        tokens, like, seed
            As in `generators.latent_diffusion.LatentDiffusionGenerator.generate`.
        guidance : float or mapping of str to float
            1 only: there is no unguided answer to move away from.
        sampler_steps : int
            Any number that the sampler of other families takes; one step is made and recorded.

        Raises
        ------
        RequestInvalid
            If a guidance other than 1 is asked, or the batch or the steps are not ones that any family takes.
        UnsupportedSeries
            If `like` does not fit the model, or has more voxels than its grid.
        NonFiniteOutput
            If the networks return NaN or infinity, or the same value everywhere.
        DeviceExhausted
            If the device has too little memory.
        JobError
            If `cancelled` says so before the one step.
        """
        require_sampling(tokens, guidance, sampler_steps)
        require_no_guidance(guidance, self.card)
        shape = on_grid(require_series_fits(to_patient_axes(like), self.card).shape, self._decoder.shape.grid)
        if cancelled():
            raise JobError(found="a cancelled job", allowed="a job that is still wanted", action="ask again to generate it")
        with threads_set(threads), memory_watched(self._device), torch.inference_mode():
            image, labels = self._drawn(tokens, shape, torch.Generator().manual_seed(seed))
        progress(1, 1)
        log.info("volume generated", model=self.card.name, steps=1)
        return GeneratedVolume(
            volume=as_volume(finite(image, self.card), self.card.limits.voxel_mm, self.card.limits.modality),
            label_map=labels,
            model=identity(self.card),
            seed=seed,
            sampler=self.sampler,
            sampler_steps=1,
            guidance=1.0,
            conditioning=tokens.record,
            environment=environment(self._device, threads),
        )

    @abstractmethod
    def _vector(self, told: Tensor, normal: Tensor) -> Tensor:
        """Return the vector of a volume, (1, H), from what is told and a standard normal one."""

    def _drawn(
        self, tokens: ConditioningTokens, shape: Shape, rng: torch.Generator
    ) -> tuple[FloatArray, np.ndarray[Any, np.dtype[np.uint8]]]:
        """Return image and label map on the asked shape."""
        decoder, size = self._decoder, self._decoder.shape
        told = decoder.told(tokens.tokens.to(self._device), tokens.mask.to(self._device))
        # Drawn on the CPU, from this volume's own random stream, so that the device does not change it.
        normal = torch.randn(1, size.vector, generator=rng).to(self._device)
        grain = decoder.drawn_grain(1, rng).to(self._device)
        sketch = decoder.sketch(self._vector(told, normal), told, torch.tensor([shape]))
        logits = _cut(decoder.label_logits(sketch)[0].double(), shape)
        wanted = wanted_voxels(tokens.record.targets, self.card.reference.labels, self.card.limits.voxel_mm**3)
        labels = labels_at_levels(logits, wanted).to(torch.uint8).numpy()
        # The label map is final from here on, and the image is drawn to it: so the two agree.
        whole = torch.from_numpy(placed(labels, size.grid, outside=0))[None]
        image = decoder.image(sketch, label_hint(whole, size.label_count, size.image_block).to(self._device), grain)
        return _cut(image[0].clamp(0, 1).float(), shape)[0].numpy(), np.ascontiguousarray(labels)


def vector_networks(bundle: Bundle, device: str) -> tuple[VectorDecoder, Autoencoder]:
    """Return decoder and image autoencoder of a bundle.

    Raises
    ------
    WeightsRejected
        If the weights are not those of the networks.
    """
    decoder = built(bundle, "decoder", lambda sizes: VectorDecoder(VectorShape(**sizes)), device)
    autoencoder = built(bundle, "image_autoencoder", lambda sizes: Autoencoder(AutoencoderShape(**sizes)), device)
    return decoder, autoencoder


def require_no_guidance(guidance: Guidance, card: ModelCard) -> None:
    """Refuse a guidance that would change nothing.

    Raises
    ------
    RequestInvalid
        If it is other than 1.
    """
    weights = guidance.values() if isinstance(guidance, Mapping) else (guidance,)
    if any(weight != 1 for weight in weights):
        raise RequestInvalid(
            found=f"a guidance other than 1 for {card.name}",
            allowed=f"1: the family {card.family} has no guidance",
            action="ask for guidance 1, or name a model of the family latent-diffusion",
        )


def _cut(voxels: Tensor, shape: Shape) -> Tensor:
    """Return the centred part of (V, D, H, W) on the CPU, the rule of `domain.grid.cut`."""
    return torch.from_numpy(np.stack([cut(one, shape) for one in voxels.cpu().numpy()]))
