"""What MAISI's networks can be told: contrast, voxel spacing, body regions, a label map. The rest is refused in words.

This is the border to the publisher's axes as well: their arrays run along Right, Anterior, Superior; ours along Superior,
Posterior, Left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.clinical import ClinicalFact
from domain.errors import RequestInvalid
from domain.generation import ConditioningRecord
from domain.volume import Volume
from generators.foundation.layout import Layout
from generators.foundation.networks import LABEL_BITS
from generators.foundation.variants import BODY_REGIONS, Variant, may_be_told
from multimodal.conditioning import NULL, ConditioningTokens

Value = TypeVar("Value", bound=np.generic)

_SCALE = 100.0  # spacings and regions go into the networks a hundredfold
_BODY = 200
_HIGHEST_LABEL = 132
_REGION_LABELS = {"head": (22, 120), "chest": (28, 29, 30, 31, 32), "abdomen": (1, 2, 3, 4, 5, 14), "pelvis": (93, 94)}


@dataclass(frozen=True, eq=False)
class Told:
    """What a caller says; what it leaves out is as ``networks.json`` has it.

    Attributes
    ----------
    contrast : str
        A name of the variant's contrasts (``mri_t1``).
    regions : tuple of str
        Names of `BODY_REGIONS` that the volume shows; of ``ddpm-ct`` alone. From the label map where there is one.
    label_map : array, (slice, row, column), uint8, or None
        MAISI's labels (1 to 132, and 200 for the rest of the body) on the grid of `like` in patient axes.
    """

    contrast: str = ""
    regions: tuple[str, ...] = ()
    label_map: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Conditions:
    """The same as the networks take it, a batch of one on the CPU.

    Attributes
    ----------
    spacing : tensor, (1, 3)
        Along Right, Anterior, Superior; hundredths of a millimetre.
    contrast : tensor, (1,), int64, or None
        None where the denoiser has no classes.
    top, bottom : tensor, (1, 4), or None
        Topmost and lowest body region.
    mask : tensor, (1, 8, X, Y, Z), uint8, or None
        Bits of the label map.
    record : ConditioningRecord
        In words.
    """

    spacing: Tensor
    contrast: Tensor | None
    top: Tensor | None
    bottom: Tensor | None
    mask: Tensor | None
    record: ConditioningRecord


def untold(asked: Sequence[ClinicalFact], variant: Variant) -> ConditioningTokens:
    """Return the tokens of a model that takes none.

    Raises
    ------
    RequestInvalid
        If somebody asks for a value: no number of a person or an organ can be told.
    """
    if asked:
        raise _refused(sorted({fact.text for fact in asked}), variant)
    return ConditioningTokens(torch.zeros(1, 0, 1), torch.zeros(1, 0, dtype=torch.bool), (), (), ConditioningRecord((), (), ()))


def require_untold(tokens: ConditioningTokens, variant: Variant) -> None:
    """Refuse tokens that say anything: these networks would pass over it, and the record would claim that they obeyed.

    Raises
    ------
    RequestInvalid
        Naming what was told and what may be.
    """
    present = tokens.mask.any(0).tolist()
    kinds = {kind for kind, is_present in zip(tokens.kinds, present, strict=True) if is_present and not kind.startswith(NULL)}
    kinds |= {kind for kind, _, _ in tokens.record.targets} | set(tokens.record.used)
    if kinds:
        raise _refused(sorted(kinds), variant)


def conditions(told: Told, like: Volume, layout: Layout, variant: Variant) -> Conditions:
    """Return what the networks are told.

    Parameters
    ----------
    like : Volume
        In patient axes; its spacing is told.

    Raises
    ------
    RequestInvalid
        If the networks do not know the contrast, the regions or the labels, or cannot be told them.
    """
    name = told.contrast or layout.contrast
    classes = dict(variant.contrasts)
    if name not in classes:
        raise _refused([f"contrast {name}"], variant)
    mask = None if told.label_map is None else _require_labels(told.label_map, like, layout, variant)
    regions = _regions(told, mask, layout, variant)
    slice_mm, row_mm, column_mm = like.spacing_mm
    used = (f"contrast:{name}", "voxel-spacing", *(f"body-region:{region}" for region in regions))
    return Conditions(
        spacing=torch.tensor([[column_mm, row_mm, slice_mm]]) * _SCALE,
        contrast=None if layout.denoiser.classes is None else torch.tensor([classes[name]]),
        top=_one_hot(regions[0]) if regions else None,
        bottom=_one_hot(regions[-1]) if regions else None,
        mask=None if mask is None else label_bits(mask),
        record=ConditioningRecord((), used + (("label-map",) if mask is not None else ()), ()),
    )


def to_ras(array: NDArray[Value]) -> NDArray[Value]:
    """Return an array, (slice, row, column) in patient axes, along Right, Anterior, Superior."""
    return np.ascontiguousarray(array.transpose(2, 1, 0)[::-1, ::-1])


def from_ras(array: NDArray[Value]) -> NDArray[Value]:
    """Return an array along Right, Anterior, Superior as (slice, row, column)."""
    return np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0))


def label_bits(label_map: NDArray[np.uint8]) -> Tensor:
    """Return the bits of each label, lowest first, (1, 8, X, Y, Z), of a label map in patient axes."""
    bits = np.unpackbits(to_ras(label_map)[None], axis=0, count=LABEL_BITS, bitorder="little")
    return torch.from_numpy(bits).unsqueeze(0)


def _require_labels(label_map: NDArray[np.uint8], like: Volume, layout: Layout, variant: Variant) -> NDArray[np.uint8]:
    if not variant.takes_mask:
        raise _refused(["a label map"], variant)
    if layout.control_file is None:
        raise RequestInvalid(
            found=f"a label map for {variant.name}, of which no ControlNet is here",
            allowed="no label map",
            action="leave it out, or adopt the published ControlNet as well (docs/foundation.md)",
        )
    labels = np.unique(label_map)
    unknown = [int(label) for label in labels if label > _HIGHEST_LABEL and label != _BODY]
    if label_map.dtype != np.uint8 or label_map.shape != like.shape:
        found = f"a label map of type {label_map.dtype} and shape {label_map.shape}"
        allowed = f"uint8, {like.shape}: the series in patient axes"
    elif unknown:
        found, allowed = f"labels {unknown[:10]} in the label map", f"MAISI's: 0 to {_HIGHEST_LABEL}, and {_BODY} for the body"
    elif _BODY not in labels:
        found, allowed = f"a label map without label {_BODY}", f"label {_BODY} wherever the body has no label of its own"
    else:
        return label_map
    raise RequestInvalid(found=found, allowed=allowed, action="map your labels to MAISI's on the grid of the series")


def _regions(told: Told, mask: NDArray[np.uint8] | None, layout: Layout, variant: Variant) -> tuple[str, ...]:
    """Return the regions from top to bottom: as asked, else as the label map shows them, else as ``networks.json`` has them."""
    if not variant.takes_regions:
        if told.regions:
            raise _refused(["body regions"], variant)
        return ()
    shown = () if mask is None else tuple(name for name, labels in _REGION_LABELS.items() if np.isin(labels, mask).any())
    named = told.regions or shown or layout.regions
    if not named or not set(named) <= set(BODY_REGIONS):
        raise RequestInvalid(
            found="no body region, or one of another name",
            allowed=", ".join(BODY_REGIONS),
            action="say which of these the volume shows, or set regions in networks.json",
        )
    return tuple(name for name in BODY_REGIONS if name in named)


def _one_hot(region: str) -> Tensor:
    return torch.tensor([[_SCALE * (name == region) for name in BODY_REGIONS]])


def _refused(kinds: Sequence[str], variant: Variant) -> RequestInvalid:
    return RequestInvalid(
        found=f"a request that tells {variant.name} {', '.join(kinds)}",
        allowed=may_be_told(variant),
        action="leave it out, or use a model that was trained on it",
    )
