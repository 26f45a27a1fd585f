"""From arrays to a `GeneratedVolume`: what every family of generators shares."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from domain.errors import DeviceExhausted, NonFiniteOutput
from domain.generation import ExecutionEnvironment, ModelIdentity
from domain.model_card import ModelCard
from domain.volume import FloatArray, Volume
from generators.cards import card_digest


def finite(image: FloatArray, card: ModelCard) -> FloatArray:
    """Return an image that shows something.

    Raises
    ------
    NonFiniteOutput
        If a voxel is NaN or infinite, or all are the same.
    """
    broken = not np.isfinite(image).all()
    if broken or image.min() == image.max():
        raise NonFiniteOutput(
            found=f"a volume of {card.name} {'with NaN or infinity in it' if broken else 'that is constant'}",
            allowed="finite intensities that vary",
            action="ask again with another seed or a lower guidance; if it stays, install the weights again",
        )
    return image


def as_volume(image: FloatArray, spacing_mm: float, modality: str) -> Volume:
    """Return a volume on an axial grid whose centre is the origin: it has no place in any patient."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing_mm  # slice to z, row to y, column to x
    affine[:3, 3] = [-(n - 1) / 2 * spacing_mm for n in reversed(image.shape)]
    affine[3, 3] = 1.0
    return Volume(np.ascontiguousarray(image, dtype=np.float32), affine, "", modality)


def identity(card: ModelCard) -> ModelIdentity:
    """Return which network it was, by digests."""
    return ModelIdentity(card.name, card.version, card.weights_digest, card_digest(card), card.licence)


def environment(device: str, threads: int) -> ExecutionEnvironment:
    """Return the facts that decide the last bits of a volume."""
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
def threads_set(count: int) -> Iterator[None]:
    """Run with this many threads: their number decides the order of sums, and so the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def memory_watched(device: str) -> Iterator[None]:
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
