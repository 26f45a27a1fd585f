"""From label logits to a label map whose volumes are the requested ones.

A denoiser obeys a number roughly; a level set obeys it exactly. The logits of a label are raised or lowered as a whole until
it fills the requested number of voxels: its surface moves along the network's own logits, so the shape stays the
network's. What nobody asked for is left as the network drew it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_ROUNDS = 12
_FURTHEST = 30.0  # logits; a volume that needs more is not in the network's shape, and the gates see that it was missed


def labels_at_levels(logits: Tensor, wanted: Mapping[tuple[int, ...], int]) -> Tensor:
    """Return the label map, (D, H, W), int64, in which each wanted group of labels fills its number of voxels.

    Parameters
    ----------
    logits : tensor, (1 + L, D, H, W)
        Of the background first.
    wanted : mapping
        Groups of labels, no label in two of them, to voxels.

    References
    ----------
    Osher and Sethian, Fronts Propagating with Curvature-Dependent Speed, J. Comput. Phys. 79:12, 1988 (level sets).
    """
    exact = logits.double()
    shift = torch.zeros(len(logits), 1, 1, 1, dtype=torch.float64)
    labels = exact.max(0).indices  # thirty times as fast as argmax over this axis
    for _ in range(_ROUNDS):  # one group's level moves another's border, by less each round
        if all(_filled(labels, group) == voxels for group, voxels in wanted.items()):
            break
        for group, voxels in wanted.items():
            shift[list(group)] = (shift[list(group)] + _step(exact + shift, group, voxels)).clamp(-_FURTHEST, _FURTHEST)
        labels = (exact + shift).max(0).indices
    return labels


def wanted_voxels(
    targets: Sequence[tuple[str, float, str]], labels: Sequence[tuple[int, str]], voxel_mm3: float
) -> dict[tuple[int, ...], int]:
    """Return groups of labels and their voxels for requested volumes.

    Parameters
    ----------
    targets : sequence of (kind, value, unit)
        Only volumes in mm3 whose concept is a label's, or the sum of all labels' (``x-volume`` of ``x-anterior-volume``...).
    labels : sequence of (int, str)
        Label values with the concept whose volume each is, from the card.

    Notes
    -----
    Parts stand above the whole: of the whole and one part of two, the other part follows.
    """
    volumes = {kind: value / voxel_mm3 for kind, value, unit in targets if unit == "mm3"}
    parts: dict[tuple[int, ...], float] = {(label,): volumes[concept] for label, concept in labels if concept in volumes}
    missing = tuple(label for label, concept in labels if concept not in volumes)
    whole = next((voxels for kind, voxels in volumes.items() if _is_whole(kind, labels)), None)
    if whole is not None and missing:
        parts[missing] = whole - sum(parts.values())
    return {group: round(voxels) for group, voxels in parts.items() if voxels >= 1}


def _is_whole(kind: str, labels: Sequence[tuple[int, str]]) -> bool:
    prefix = kind.removesuffix("volume")
    concepts = [concept for _, concept in labels]
    return kind not in concepts and all(concept.startswith(prefix) and concept.endswith("-volume") for concept in concepts)


def _step(logits: Tensor, group: tuple[int, ...], voxels: int) -> Tensor:
    """Return what to add to the group's logits so that it wins in `voxels` voxels, the others being as they are."""
    others = [label for label in range(len(logits)) if label not in group]
    lead = (logits[list(group)].amax(0) - logits[others].amax(0)).flatten()
    voxels = min(max(voxels, 1), len(lead) - 1)
    return -lead.topk(voxels + 1).values[-2:].mean()


def _filled(labels: Tensor, group: tuple[int, ...]) -> int:
    return sum(int((labels == label).sum()) for label in group)
