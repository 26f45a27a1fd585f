"""The word SYNTHETIC in pixels: an own small font, because a font of a library may change with its release.

The same image size and content give the same pixels on every machine, as a replay needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import UnsupportedSeries

WORD = "SYNTHETIC"
# The word with its margin never covers more of an image than this.
MAX_SHARE = 0.20

# Five rows a letter; the narrowest form in which the word can still be read.
_GLYPHS = {
    "S": ("###", "#..", "###", "..#", "###"),
    "Y": ("#.#", "#.#", ".#.", ".#.", ".#."),
    "N": ("#..#", "##.#", "#.##", "#..#", "#..#"),
    "T": ("###", ".#.", ".#.", ".#.", ".#."),
    "H": ("#.#", "#.#", "###", "#.#", "#.#"),
    "E": ("###", "#..", "##.", "#..", "###"),
    "I": ("#", "#", "#", "#", "#"),
    "C": ("###", "#..", "#..", "#..", "###"),
}
_GLYPH_ROWS = 5
# From the widest to the narrowest; the first that costs least is taken.
_LAYOUTS = ((WORD,), ("SYNTH", "ETIC"), ("SYN", "THE", "TIC"))
# One more pixel a stroke for each so many pixels of the shorter side: the word keeps its size to the eye.
_PIXELS_PER_STROKE = 100


@dataclass(frozen=True, slots=True, eq=False)
class Lettering:
    """The word at its place.

    Attributes
    ----------
    row, column : int
        Of the first pixel, from 0.
    strokes : array, (row, column), bool
        True where a letter is; the rest of the box is its ground.
    """

    row: int
    column: int
    strokes: NDArray[np.bool_]

    @property
    def box(self) -> tuple[slice, slice]:
        """Index of the box in an image of (row, column)."""
        rows, columns = self.strokes.shape
        return slice(self.row, self.row + rows), slice(self.column, self.column + columns)


def strokes_of(lines: tuple[str, ...], stroke: int) -> NDArray[np.bool_]:
    """Return lines of text with a margin of one stroke around them, each stroke so many pixels wide."""
    drawn = [_line(line) for line in lines]
    width = max(line.shape[1] for line in drawn)
    rows = [np.zeros((1, width), bool)]
    for line in drawn:
        rows += [np.pad(line, ((0, 0), (0, width - line.shape[1]))), np.zeros((1, width), bool)]
    small = np.pad(np.concatenate(rows), ((0, 0), (1, 1)))
    return np.kron(small, np.ones((stroke, stroke), bool)).astype(bool)


def place(images: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> Lettering:
    """Return the word in the corner where it hides least, the same in every slice.

    Parameters
    ----------
    images : array, (slice, row, column)
        What is seen; a corner of the least value in all slices is background.
    keep : array, (slice, row, column), bool, or None
        Voxels to leave uncovered where any corner allows it, such as those with a label.

    Raises
    ------
    UnsupportedSeries
        If the word does not fit, or would cover more than `MAX_SHARE` of an image.
    """
    rows, columns = images.shape[1:]
    content = (images.astype(np.float64) - float(images.min())).sum(axis=0)
    kept = np.zeros((rows, columns)) if keep is None else keep.sum(axis=0)

    def cost(lettering: Lettering) -> tuple[float, float]:
        return float(kept[lettering.box].sum()), float(content[lettering.box].sum())

    candidates = list(_candidates(rows, columns))
    if not candidates:
        raise UnsupportedSeries(
            found=f"images of {rows} x {columns} pixels, in which the word {WORD} covers more than {MAX_SHARE:.0%}",
            allowed="larger images for a burned-in or overlay mark",
            action='set publication.visible_mark to "none", or use a model with a larger field of view',
        )
    return min(candidates, key=cost)


def _candidates(rows: int, columns: int) -> Iterator[Lettering]:
    stroke = max(1, min(rows, columns) // _PIXELS_PER_STROKE)
    for lines in _LAYOUTS:
        strokes = strokes_of(lines, stroke)
        height, width = strokes.shape
        if height > rows or width > columns or strokes.size > MAX_SHARE * rows * columns:
            continue
        for row in (0, rows - height):
            for column in (0, columns - width):
                yield Lettering(row, column, strokes)


def _line(text: str) -> NDArray[np.bool_]:
    parts: list[NDArray[np.bool_]] = []
    for letter in text:
        glyph = np.array([[pixel == "#" for pixel in row] for row in _GLYPHS[letter]])
        parts += [glyph, np.zeros((_GLYPH_ROWS, 1), bool)]
    return np.concatenate(parts[:-1], axis=1)
