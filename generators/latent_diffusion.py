"""Generates a volume with its label map: noise, denoising under guidance, decoding, cropping to the asked shape."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.errors import DeviceExhausted, NonFiniteOutput, RequestInvalid, UnsupportedSeries
from domain.generation import ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.grid import Shape, cut
from domain.model_card import ModelCard, require_series_fits
from domain.volume import Volume, to_patient_axes
from generators.autoencoder import Autoencoder
from generators.cards import card_digest
from generators.denoiser import Denoiser, latent_field
from generators.noise import sampler_times
from generators.sampler import NAME, guided_velocity, sample
from generators.weights import Bundle
from multimodal.conditioning import ConditioningTokens

log = structlog.get_logger()

MAX_STEPS = 200
MAX_GUIDANCE = 20.0


class LatentDiffusionGenerator:
    """Latent diffusion over image and labels together.

    References
    ----------
    Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022.
    """

    def __init__(
        self, card: ModelCard, autoencoder: Autoencoder, denoiser: Denoiser, *, grid: Shape, device: str = "cpu"
    ) -> None:
        self.card = card
        self._autoencoder, self._denoiser = autoencoder, denoiser
        self._grid, self._device = grid, device

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "cpu") -> LatentDiffusionGenerator:
        """Return the generator of a bundle that was loaded to `device`."""
        return cls(bundle.card, bundle.autoencoder, bundle.denoiser, grid=bundle.grid, device=device)

    def generate(
        self,
        tokens: ConditioningTokens,
        *,
        like: Volume,
        seed: int,
        guidance: float,
        sampler_steps: int,
        threads: int = 2,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> GeneratedVolume:
        """Return one volume; the same arguments on the same build, CPU kind and thread count give the same bits.

        Parameters
        ----------
        tokens : ConditioningTokens
            A batch of one.
        like : Volume
            The answer has the number of voxels of this volume in patient axes; nothing else of it is used.
        seed : int
            Of the one random stream of this volume.
        guidance : float
            Weight of classifier-free guidance, 1 or more.

        Raises
        ------
        RequestInvalid
            If guidance, steps or the batch are not ones that the sampler takes.
        UnsupportedSeries
            If `like` does not fit the model, or has more voxels than its grid.
        NonFiniteOutput
            If the networks return NaN or infinity.
        DeviceExhausted
            If the device has too little memory.
        JobError
            If `cancelled` says so between two steps.
        """
        _require_sampling(tokens, guidance, sampler_steps)
        shape = _on_grid(require_series_fits(to_patient_axes(like), self.card).shape, self._grid)
        with _threads(threads), _memory_watched(self._device), torch.inference_mode():
            # 1. noise from this volume's own random stream, drawn on the CPU so that the device does not change it
            noise = self._noise(seed)
            # 2. the part of the grid that the asked volume fills
            reduction = self._autoencoder.shape.reduction
            field = latent_field(torch.tensor([shape]), self._grid, reduction).to(self._device)
            # 3. from noise to a latent
            velocity = guided_velocity(
                self._denoiser, tokens.tokens.to(self._device), tokens.mask.to(self._device), field, guidance
            )
            z = sample(velocity, noise, sampler_times(sampler_steps), cancelled=cancelled, progress=progress)
            # 4. from the latent to image and labels
            image, logits = self._autoencoder.decode(z)
        array, label_map = _finite(image[0, 0], self.card), logits[0].argmax(0).to(torch.uint8).cpu().numpy()
        log.info("volume generated", model=self.card.name, steps=sampler_steps)
        return GeneratedVolume(
            volume=_centred(cut(array, shape)),
            label_map=np.ascontiguousarray(cut(label_map, shape)),
            model=self._identity(),
            seed=seed,
            sampler=NAME,
            sampler_steps=sampler_steps,
            guidance=guidance,
            conditioning=tokens.record,
            environment=_environment(self._device, threads),
        )

    def _noise(self, seed: int) -> Tensor:
        reduction, channels = self._autoencoder.shape.reduction, self._autoencoder.shape.latent_channels
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(1, channels, *(n // reduction for n in self._grid), generator=rng).to(self._device)

    def _identity(self) -> ModelIdentity:
        card = self.card
        return ModelIdentity(card.name, card.version, card.weights_digest, card_digest(card), card.licence)


def _require_sampling(tokens: ConditioningTokens, guidance: float, sampler_steps: int) -> None:
    if len(tokens.tokens) != 1:
        raise RequestInvalid(
            found=f"conditioning tokens of {len(tokens.tokens)} volumes",
            allowed="one: the batch size changes the last bits of a volume",
            action="generate the volumes one after another",
        )
    if not 1 <= guidance <= MAX_GUIDANCE:
        raise RequestInvalid(found="a guidance out of range", allowed=f"1 to {MAX_GUIDANCE:g}", action="ask for a value in it")
    if not 1 <= sampler_steps <= MAX_STEPS:
        raise RequestInvalid(
            found=f"{sampler_steps} sampler steps", allowed=f"1 to {MAX_STEPS}", action="ask for fewer or more"
        )


def _on_grid(shape: Shape, grid: Shape) -> Shape:
    """Return the asked shape if the grid holds it: a field of view that fits may still have more voxels, by a finer spacing."""
    if any(n > held for n, held in zip(shape, grid, strict=True)):
        raise UnsupportedSeries(
            found="a series of {} x {} x {} voxels in patient axes".format(*shape),
            allowed="at most {} x {} x {}, the grid of the model".format(*grid),
            action="send a series that fits, or configure another model",
        )
    return shape


def _finite(image: Tensor, card: ModelCard) -> NDArray[np.float32]:
    array: NDArray[np.float32] = image.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise NonFiniteOutput(
            found=f"a volume of {card.name} with NaN or infinity in it",
            allowed="finite intensities",
            action="ask again with another seed or a lower guidance; if it stays, install the weights again",
        )
    return array


def _centred(array: NDArray[np.float32]) -> Volume:
    """Return a volume on an axial 1 mm grid whose centre is the origin: it has no place in any patient."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = 1.0  # slice to z, row to y, column to x
    affine[:3, 3] = [-(n - 1) / 2 for n in reversed(array.shape)]
    affine[3, 3] = 1.0
    return Volume(np.ascontiguousarray(array), affine, "", "MR")


def _environment(device: str, threads: int) -> ExecutionEnvironment:
    software = tuple((name, _version(name)) for name in ("torch", "monai", "numpy", "veraicon"))
    return ExecutionEnvironment(
        software=(("python", platform.python_version()), *software),
        device=device,
        threads=threads,
        instruction_set=torch.backends.cpu.get_cpu_capability(),
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "source checkout, not installed"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with this many threads: their number decides the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_watched(device: str) -> Iterator[None]:
    """Turn the ways in which torch says that memory ran out into one error."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _exhausted(device) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # the CPU allocator has no class of its own
            raise
        raise _exhausted(device) from error


def _exhausted(device: str) -> DeviceExhausted:
    return DeviceExhausted(
        found=f"too little memory on {device}", allowed="room for one volume", action="run fewer workers on this device"
    )
