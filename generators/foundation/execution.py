"""How the published networks run on a device: in which precision, and what of it the attestation records."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from domain.errors import ConfigurationError
from domain.generation import ExecutionEnvironment
from generators import results


def require_device(name: str) -> torch.device:
    """Return a device by name.

    Raises
    ------
    ConfigurationError
        If this machine has none of that name.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name) from error
    if device.type not in {"cpu", "cuda"} or (device.type == "cuda" and not torch.cuda.is_available()):
        raise _no_device(name)
    return device


def denoising(device: torch.device) -> AbstractContextManager[object]:
    """Return the precision of the denoiser and its ControlNet: bfloat16 on a GPU, single on a CPU, where bfloat16 is slower."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def decoding(device: torch.device) -> AbstractContextManager[object]:
    """Return the precision of the decoder: float16 on a GPU, as published.

    Of an image bfloat16 would keep 8 bits, which are steps of 4 to 8 Hounsfield units in soft tissue.
    """
    return torch.autocast("cuda", torch.float16) if device.type == "cuda" else nullcontext()


def environment(device: torch.device, threads: int) -> ExecutionEnvironment:
    """Return the facts that decide the last bits of a volume, precision and GPU among them."""
    shared = results.environment(str(device), threads)
    if device.type == "cpu":
        return replace(shared, software=(*shared.software, ("precision", "float32")))
    gpu = (("precision", "bfloat16 denoiser, float16 decoder"), ("gpu", torch.cuda.get_device_name(device)))
    return replace(shared, software=shared.software + gpu)


def _no_device(name: str) -> ConfigurationError:
    return ConfigurationError(
        found=f"the device {name!r}, which this machine does not have",
        allowed="cpu, or cuda where torch finds a GPU",
        action="correct [generation] device, or install torch with CUDA",
    )
