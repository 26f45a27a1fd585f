"""Bends crops and their labels together, so that few people become many shapes and sizes.

Each axis is scaled on its own and a smooth displacement is added. The volume of the whole changes little by that: the spread of
real sizes is what a model without a requested value has to learn. Volumes are counted again after bending.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional

_SCALE_DEVIATION = 0.07  # of each axis against the others
_SIZE_DEVIATION = 0.015  # of all axes together
_LARGEST_TURN = math.radians(7)
_CONTROL_POINTS = (3, 4, 3)
_DISPLACEMENT_MM = 1.0


def bent(
    image: Tensor, labels: Tensor, extent: Tensor, rng: torch.Generator, *, size_deviation: float = _SIZE_DEVIATION
) -> tuple[Tensor, Tensor]:
    """Return one crop and its labels, bent at random.

    Parameters
    ----------
    image : tensor, (C, D, H, W), float32, 0 to 1
        On the grid, edge-padded, 1 mm voxels; C is 1, or 0 where there is no image.
    labels : tensor, (D, H, W), uint8
    extent : tensor, (3,)
        Shape of the crop on the grid: the answer is edge-padded outside it again.
    size_deviation : float
        Of the logarithm of what all axes are scaled by; what only has to recognise sizes may see more of them than there are.

    Notes
    -----
    A label that is the only one, such as a lesion, keeps its number of voxels: it may be small or thin, and interpolation would
    wear it away.
    """
    where = _sampling_grid(labels.shape, size_deviation, rng)
    bent_image = _sampled_by_splines(image, where)  # (C, D, H, W)
    share = _sampled(functional.one_hot(labels.long()).movedim(-1, 0).float(), where)  # (1 + L, D, H, W)
    for axis, (n, length) in enumerate(zip(labels.shape, extent.tolist(), strict=True), start=1):
        start = (n - length) // 2
        index = torch.arange(n).clamp(start, start + length - 1)
        bent_image = bent_image.index_select(axis, index)
        outside = index != torch.arange(n)
        share[1:] = share[1:].index_fill(axis, outside.nonzero().flatten(), 0)
    if len(share) == 2:
        return bent_image, _fullest(share[1], int(labels.count_nonzero()))
    return bent_image, share.max(0).indices.to(torch.uint8)


def volumes_mm3(labels: Tensor) -> Tensor:
    """Return anterior, posterior and total volume, (N, 3), of 1 mm label maps (N, D, H, W)."""
    parts = torch.stack([(labels == label).sum((1, 2, 3)) for label in (1, 2)], dim=1).float()
    return torch.cat([parts, parts.sum(1, keepdim=True)], dim=1)


def _sampled(voxels: Tensor, where: Tensor) -> Tensor:
    return functional.grid_sample(voxels.unsqueeze(0), where, padding_mode="border", align_corners=False)[0]


def _sampled_by_splines(image: Tensor, where: Tensor) -> Tensor:
    """Return an image sampled by cubic splines: linear weights take a fifth of its sharpness, which a generator would learn.

    References
    ----------
    Unser, Splines: A Perfect Fit for Signal and Image Processing, IEEE Signal Processing Magazine 16:6, 1999.
    """
    size = np.array(image.shape[1:])
    places = ((where[0].flip(-1).numpy() + 1) * size - 1) / 2  # (D, H, W, 3), voxels: slice, row, column
    along = np.moveaxis(places, -1, 0)
    channels = [map_coordinates(channel.numpy(), along, order=3, mode="nearest") for channel in image]
    return torch.from_numpy(np.stack(channels)).clamp(0, 1) if channels else image


def _fullest(share: Tensor, voxels: int) -> Tensor:
    """Return a map, (D, H, W), of 1 in the `voxels` voxels with the largest shares, and in none whose share is 0."""
    best = share.flatten().topk(min(voxels, int(share.count_nonzero()))).indices
    return torch.zeros(share.numel(), dtype=torch.uint8).index_fill(0, best, 1).view(share.shape)


def _sampling_grid(shape: torch.Size, size_deviation: float, rng: torch.Generator) -> Tensor:
    """Return where each voxel comes from, (1, D, H, W, 3), in the coordinates of `grid_sample` (x, y, z; -1 to 1)."""
    size = torch.tensor(list(shape), dtype=torch.float32).flip(0)  # x, y, z
    axes = torch.randn(4, generator=rng).clamp(-2, 2)
    scale = torch.exp(_SCALE_DEVIATION * (axes[:3] - axes[:3].mean()) + size_deviation * axes[3])
    turn = _rotation((torch.rand(3, generator=rng) * 2 - 1) * _LARGEST_TURN)
    # In millimetres the map is turn / scale; `grid_sample` counts in half extents, so it is conjugated by the size.
    with torch.autocast("cpu", enabled=False):  # where a voxel comes from must not be rounded
        matrix = turn @ torch.diag(1 / scale)
        theta = torch.cat([matrix * size / size.unsqueeze(1), torch.zeros(3, 1)], dim=1)
        grid = functional.affine_grid(theta.unsqueeze(0), [1, 1, *shape], align_corners=False)
    points = torch.randn(1, 3, *_CONTROL_POINTS, generator=rng) * _DISPLACEMENT_MM
    smooth = functional.interpolate(points, size=list(shape), mode="trilinear", align_corners=True)
    return grid + smooth.movedim(1, -1) * 2 / size


def _rotation(angles: Tensor) -> Tensor:
    """Return the rotation by small angles about x, y and z: the exponential of the cross-product matrix."""
    x, y, z = angles.tolist()
    rotation: Tensor = torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
    return rotation
