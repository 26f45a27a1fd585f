"""A keyed spread-spectrum watermark in stored voxels: it says whose a volume is when every attribute was taken away.

Each voxel is moved by a fraction of how much its surroundings vary, up or down as a secret bit says; the bits tile space. Who
has the secret adds up the movements: without the watermark the sum is noise, whatever the image. It is no proof against
somebody who works to remove it: smoothing, resampling or turning the volume weakens or breaks it.

References
----------
Cox, Kilian, Leighton, Shamoon: Secure spread spectrum watermarking for multimedia, IEEE Trans. Image Processing 6(12), 1997.
Hoeffding: Probability inequalities for sums of bounded random variables, J. Am. Stat. Assoc. 58, 1963, theorem 2.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The bits repeat after this many voxels along each axis, so that a piece of a volume still shows them.
TILE = 64
# How far a voxel moves: a part of the standard deviation around it (root mean square), and at most so many stored units (of
# 4096 for MR, HU for CT).
STRENGTH = 0.02
MAX_STEP = 32
# How often at most a volume without the watermark is said to carry it, for one key.
FALSE_ALARM_RATE = 1e-6

_NEIGHBOURS = 5
# Standard deviation of bits smoothed by (1, 2, 1) / 4 along two axes, each of which has 3/8 as its sum of squares.
_SMOOTHED_DEVIATION = 3 / 8
_FLAT = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detection:
    """What was found of a watermark.

    Attributes
    ----------
    score : float
        Sum of the movements in standard deviations of what it is without the watermark.
    threshold : float
        Above it the watermark is said to be there.
    false_alarm_rate : float
        Upper bound of how often a volume without it passes the threshold.
    shift : (int, int, int)
        By how many voxels (slice, row, column) of the tile the volume was moved, as by a crop.
    """

    score: float
    threshold: float
    false_alarm_rate: float
    shift: tuple[int, int, int] = (0, 0, 0)

    @property
    def found(self) -> bool:
        """Whether the watermark is there."""
        return self.score > self.threshold


def watermark_seed(secret: bytes, request_id: str) -> bytes:
    """Return the seed of a request's bits: who knows it cannot make that of another request."""
    return hmac.new(secret, b"veraicon-watermark/1:" + request_id.encode("utf-8"), hashlib.sha256).digest()


def embed_watermark(stored: NDArray[Any], seed: bytes, *, low: int, high: int) -> NDArray[Any]:
    """Return the stored values with the watermark in them; the same arguments give the same values.

    Parameters
    ----------
    stored : array, (slice, row, column), integer
    seed : bytes
        Of `watermark_seed`.
    low, high : int
        Range of stored values.
    """
    values = stored.astype(np.float64)
    movement = STRENGTH * _spread(values) * _smooth(_over(_bits(seed), stored.shape)) / _SMOOTHED_DEVIATION
    moved = np.rint(values + np.clip(movement, -MAX_STEP, MAX_STEP))
    return np.clip(moved, low, high).astype(stored.dtype)


def detect_watermark(
    stored: NDArray[Any], seed: bytes, *, first_slice: int = 0, search: bool = False, keys: int = 1
) -> Detection:
    """Return whether stored or displayed values carry the watermark of a seed.

    Parameters
    ----------
    stored : array, (slice, row, column)
        On any linear scale.
    first_slice : int
        Number of the first slice in the series as it was made, from 0.
    search : bool
        Try each shift of the tile, for a volume that may have been cropped; the threshold rises with their number.
    keys : int
        How many seeds are tried for this volume; the threshold rises so that the rate holds for all of them.

    Notes
    -----
    For bits that nobody knows, the sum of n bounded terms passes t standard deviations with at most exp(-t^2 / 2), whatever the
    image is (Hoeffding, theorem 2).
    """
    folded = _fold(_response(stored.astype(np.float64)), first_slice)
    norm = math.sqrt(float((folded**2).sum()))
    tries = keys * (TILE**3 if search else 1)
    threshold = math.sqrt(2 * math.log(tries / FALSE_ALARM_RATE))
    if norm < _FLAT:
        return Detection(0.0, threshold, FALSE_ALARM_RATE)
    signs = _bits(seed)
    if not search:
        return Detection(float((folded * signs).sum()) / norm, threshold, FALSE_ALARM_RATE)
    product = np.fft.rfftn(signs) * np.conj(np.fft.rfftn(folded))
    scores = np.fft.irfftn(product, s=folded.shape, axes=(0, 1, 2)) / norm
    best = np.unravel_index(int(scores.argmax()), scores.shape)
    return Detection(float(scores.max()), threshold, FALSE_ALARM_RATE, (int(best[0]), int(best[1]), int(best[2])))


def _bits(seed: bytes) -> Floats:
    """Plus or minus one for each voxel of the tile; SHAKE-256, so no release of a library changes them."""
    data = np.frombuffer(hashlib.shake_256(seed).digest(TILE**3 // 8), np.uint8)
    return np.unpackbits(data).reshape(TILE, TILE, TILE).astype(np.float64) * 2 - 1


def _over(tile: Floats, shape: tuple[int, ...]) -> Floats:
    """The tile repeated over a volume."""
    slices, rows, columns = (np.arange(length) % TILE for length in shape)
    spread: Floats = tile[np.ix_(slices, rows, columns)]
    return spread


def _response(values: Floats) -> Floats:
    """What of each voxel speaks for its bit: how far it stands from its neighbours, in parts of how far they stand themselves.

    An image is smooth along each axis and the bits are not, so second differences along all of them leave little but the bits.
    """
    for axis in range(3):
        if values.shape[axis] > 1:
            before, here, behind = _neighbours(values, axis)
            values = here - (before + behind) / 2
    around = np.sqrt(np.maximum(_mean(values**2), 0))
    return _smooth(np.divide(values, around, out=np.zeros_like(values), where=around > _FLAT))


def _fold(response: Floats, first_slice: int) -> Floats:
    """Sum over all places that share a bit."""
    folded = np.zeros((TILE, TILE, TILE))
    slices, rows, columns = (np.arange(length) % TILE for length in response.shape)
    np.add.at(folded, np.ix_((slices + first_slice) % TILE, rows, columns), response)
    return folded


def _smooth(values: Floats) -> Floats:
    """In the plane by (1, 2, 1) / 4: what smoothing and lossy coding leave of a volume lies in the lower frequencies."""
    for axis in (1, 2):
        before, here, behind = _neighbours(values, axis)
        values = (before + 2 * here + behind) / 4
    return values


def _neighbours(values: Floats, axis: int) -> tuple[Floats, Floats, Floats]:
    """Values before, at and behind each place along an axis; the border is its own neighbour."""
    padded = np.pad(values, [(1, 1) if one == axis else (0, 0) for one in range(3)], mode="edge")
    length = values.shape[axis]
    before, here, behind = (np.take(padded, np.arange(start, start + length), axis) for start in range(3))
    return before, here, behind


def _spread(values: Floats) -> Floats:
    """Standard deviation of the surroundings."""
    return np.sqrt(np.maximum(_mean(values**2) - _mean(values) ** 2, 0))


def _mean(values: Floats) -> Floats:
    """Mean of the surroundings in the plane."""
    half = _NEIGHBOURS // 2
    for axis in (1, 2):
        padded = np.pad(values, [(half + 1, half) if one == axis else (0, 0) for one in range(3)], mode="edge")
        sums = np.cumsum(padded, axis=axis)
        length = values.shape[axis]
        ahead = np.take(sums, np.arange(_NEIGHBOURS, _NEIGHBOURS + length), axis)
        behind = np.take(sums, np.arange(length), axis)
        values = (ahead - behind) / _NEIGHBOURS
    return values
