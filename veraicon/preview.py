"""One picture of source and generated volume side by side, for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from domain.grid import normalised
from domain.volume import FloatArray, Volume

_PLANES = ("axial", "coronal", "sagittal")


def draw(source: Volume, generated: Volume, path: Path, *, caption: str) -> Path:
    """Write a PNG with the middle slices of both volumes in three planes.

    Parameters
    ----------
    source, generated : Volume
        In patient axes (slices to Superior, rows to Posterior, columns to Left).
    path : Path
        Where the PNG goes.
    caption : str
        Stands under the picture; the generated row is marked synthetic in the picture itself.
    """
    figure = Figure(figsize=(7.2, 5.4), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    rows = (("source (received)", source, "white"), ("generated: SYNTHETIC, not a patient", generated, "#ffb347"))
    for row, (title, volume, colour) in enumerate(rows):
        for axis, plane, image in zip(axes[row], _PLANES, _middle_slices(volume), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(f"{title}\n{plane}" if plane == "axial" else plane, color=colour, fontsize=8)
            axis.axis("off")
    figure.supxlabel(caption, color="white", fontsize=8)
    figure.savefig(path, dpi=130, facecolor="black", metadata={"Description": "Synthetic image made by Veraicon"})
    return path


def _middle_slices(volume: Volume) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the middle slice of each plane as a viewer shows it: Superior up, Anterior up in the axial plane."""
    array = normalised(volume.array)
    slices, rows, columns = (length // 2 for length in array.shape)
    return array[slices], np.flipud(array[:, rows]), np.flipud(array[:, :, columns])
