"""The measuring network: segments a volume, so that what was generated is measured by something that did not generate it.

It shares no weights with any generator. Its features are also those of the Fréchet and kernel distances.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch
from monai.networks.blocks import ResidualUnit
from torch import Tensor, nn
from torch.nn import functional

_NORM_GROUPS = 8


@dataclass(frozen=True, slots=True)
class SegmenterShape:
    """Size of the network.

    Attributes
    ----------
    labels : int
        Number of labels beside background.
    channels : tuple of int
        Width of each level; each level but the first halves the grid.
    """

    labels: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 128)

    def content(self) -> dict[str, object]:
        """Return the sizes as plain values, for the header of a weights file."""
        return asdict(self)


class Segmenter(nn.Module):
    """Residual U-Net from an image to label logits.

    References
    ----------
    Çiçek et al., 3D U-Net, MICCAI 2016; Kerfoot et al., Left-Ventricle Quantification Using Residual U-Net, STACOM 2018.
    """

    def __init__(self, shape: SegmenterShape) -> None:
        super().__init__()
        self.shape = shape
        widths = shape.channels
        inputs = (1, *widths[:-1])
        self.down = nn.ModuleList(
            _block(before, width, stride=1 if level == 0 else 2)
            for level, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        pairs = list(zip(widths[::-1][:-1], widths[::-1][1:], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, wide, 2, stride=2) for deep, wide in pairs)
        self.merge = nn.ModuleList(_block(2 * wide, wide, subunits=1) for _, wide in pairs)
        self.head = nn.Conv3d(widths[0], 1 + shape.labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return label logits, (B, 1 + L, D, H, W), of images (B, 1, D, H, W) of intensities 0 to 1."""
        return self.seen(image)[0]

    def seen(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return label logits, and as features the mean over space of every channel of every level on the way down, (B, F)."""
        levels = self._levels(image)
        features = torch.cat([level.mean((2, 3, 4)) for level in levels], dim=1)
        x = levels.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), levels.pop()], dim=1))
        return cast("Tensor", self.head(x)), features

    def _levels(self, image: Tensor) -> list[Tensor]:
        x, levels = 2 * image - 1, []
        for block in self.down:
            x = block(x)
            levels.append(x)
        return levels


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return twice the cross-entropy plus one minus the soft Dice of the labels.

    The weight on cross-entropy keeps soft volumes unbiased: Dice alone rewards small structures that are drawn too large.

    Parameters
    ----------
    logits : tensor, (B, 1 + L, D, H, W)
    labels : tensor, (B, D, H, W), int64

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18:203, 2021 (sum of cross-entropy and Dice).
    """
    chance = logits.softmax(1)[:, 1:]
    one_hot = functional.one_hot(labels, logits.shape[1])[..., 1:].movedim(-1, 1).to(chance)
    shared = (chance * one_hot).sum((0, 2, 3, 4))
    dice = (2 * shared + 1) / (chance.sum((0, 2, 3, 4)) + one_hot.sum((0, 2, 3, 4)) + 1)
    return 2 * functional.cross_entropy(logits, labels) + (1 - dice.mean())


def _block(before: int, width: int, *, stride: int = 1, subunits: int = 2) -> ResidualUnit:
    norm = ("group", {"num_groups": _NORM_GROUPS})
    return ResidualUnit(3, before, width, strides=stride, subunits=subunits, norm=norm, act="LEAKYRELU")
