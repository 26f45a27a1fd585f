"""How far two sets of volumes lie apart in the features of a network.

Both distances depend on the number of volumes, so neither means anything alone: see `quality.halves`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]


def frechet(one: Features, other: Features) -> float:
    """Return the Fréchet distance of two Gaussians fitted to features, (N, F) and (M, F).

    The trace of the root of the product of the covariances is the sum of the singular values of one set of centred features
    times the other's: an N by M matrix, exact also where there are fewer volumes than features.

    References
    ----------
    Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017, equation 6.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(shift + (a**2).sum() + (b**2).sum() - 2 * shared)


def kernel(one: Features, other: Features) -> float:
    """Return the unbiased squared maximum mean discrepancy of features under the kernel (x.y / F + 1)^3; may be negative.

    References
    ----------
    Bińkowski et al., Demystifying MMD GANs, ICLR 2018, section 4; Gretton et al., A Kernel Two-Sample Test, JMLR 13:723, 2012,
    equation 3.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    n, m = len(a), len(b)
    aa, bb, ab = _cubic(a, a), _cubic(b, b), _cubic(a, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def _cubic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)
