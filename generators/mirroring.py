"""Mirrors cases left to right, and what is said of their sides with them: twice the shapes from the same people."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from generators.training_set import Facts, TrainingSet

_OTHER = {"left": "right", "right": "left"}


def with_mirrored(cases: TrainingSet) -> TrainingSet:
    """Return the cases, then each of them mirrored: of training people only, since a mirrored person is nobody new.

    Labels may name no side of their own. What a side does to other facts is blurred by this: a stroke on the left scores higher
    on the NIH stroke scale than one on the right.

    References
    ----------
    Woo et al., Does the National Institutes of Health Stroke Scale favor left hemisphere strokes?, Stroke 30:2355, 1999.
    """
    count = len(cases)
    labels = torch.cat([cases.labels, cases.labels])
    images = None if cases.images is None else torch.cat([cases.images, cases.images])
    for index, extent in enumerate(cases.extents.tolist()):
        source = _mirrored_columns(labels.shape[-1], extent[-1])
        labels[count + index] = cases.labels[index].index_select(-1, source)
        if images is not None and cases.images is not None:
            images[count + index] = cases.images[index].index_select(-1, source)
    return replace(
        cases,
        labels=labels,
        images=images,
        extents=torch.cat([cases.extents, cases.extents]),
        partner=torch.cat([cases.partner, torch.where(cases.partner < 0, -1, cases.partner + count)]),
        facts=_with_other_sides(cases.facts),
    )


def _mirrored_columns(n: int, length: int) -> Tensor:
    """Return for each column of a grid the one that it mirrors: the centred crop within itself, what is outside as it is."""
    start = (n - length) // 2
    columns = torch.arange(n)
    columns[start : start + length] = columns[start : start + length].flip(0)
    return columns


def _with_other_sides(facts: Facts) -> Facts:
    """Return the facts twice, the second time with left and right exchanged in the answers."""
    mirrored = [_other_side(text) for text in facts.texts]
    texts = tuple(dict.fromkeys((*facts.texts, *mirrored)))
    index = torch.tensor([*(texts.index(text) for text in mirrored), -1])  # the last is what -1, unknown, becomes
    return replace(
        facts,
        numbers=torch.cat([facts.numbers, facts.numbers]),
        answers=torch.cat([facts.answers, index[facts.answers]]),
        texts=texts,
    )


def _other_side(text: str) -> str:
    return " ".join(_OTHER.get(word, word) for word in text.split(" "))
