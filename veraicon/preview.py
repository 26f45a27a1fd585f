"""One picture of source and generated volume side by side, for people, with the marks that say so to programs.

The upper row is of a patient: the picture is kept, given and deleted as the source is.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from domain.grid import normalised
from domain.marking import Depicted
from domain.volume import FloatArray, Volume
from provenance.canonical import json_digest
from provenance.signatures.content_credentials import ContentCredentials, Origin
from provenance.statement import provenance_reference, to_claims
from veraicon.marking import mark_preview
from veraicon.publishing import STATEMENT

_PLANES = ("axial", "coronal", "sagittal")


def origin_of(request_id: str, job_folder: Path) -> Origin:
    """Return of what a picture is; with the digest of the statement once the job's series is written."""
    kept = job_folder / f"statement{STATEMENT.suffix}"
    digest = json_digest(to_claims(STATEMENT.read(kept))) if kept.exists() else ""
    return Origin(request_id, provenance_reference(request_id), digest)


def draw(
    source: Volume,
    generated: Volume,
    path: Path,
    *,
    caption: str,
    origin: Origin,
    credentials: ContentCredentials | None = None,
) -> Path:
    """Write a PNG with the middle slices of both volumes in three planes.

    Parameters
    ----------
    source, generated : Volume
        In patient axes (slices to Superior, rows to Posterior, columns to Left).
    path : Path
        Where the PNG goes.
    caption : str
        Stands under the picture; the generated row is marked synthetic in the picture itself.
    origin : Origin
        Of the generated volume, for the manifest.
    credentials : ContentCredentials or None
        Sign a C2PA manifest with these; None: XMP and text alone.
    """
    figure = Figure(figsize=(7.2, 5.4), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    rows = (("source (received): a patient", source, "white"), ("generated: SYNTHETIC, not a patient", generated, "#ffb347"))
    for row, (title, volume, colour) in enumerate(rows):
        for axis, plane, image in zip(axes[row], _PLANES, _middle_slices(volume), strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(f"{title}\n{plane}" if plane == "axial" else plane, color=colour, fontsize=8)
            axis.axis("off")
    figure.supxlabel(caption, color="white", fontsize=8)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=130, facecolor="black")
    path.write_bytes(mark_preview(drawn.getvalue(), origin, credentials, Depicted.BESIDE_SOURCE))
    return path


def _middle_slices(volume: Volume) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the middle slice of each plane as a viewer shows it: Superior up, Anterior up in the axial plane.

    Of a volume that is nearly all background, such as a lesion's mask, the fullest slice of each plane is shown.
    """
    array = volume.array
    if np.percentile(array, 99) > np.percentile(array, 1):
        array = normalised(array)
        slices, rows, columns = (length // 2 for length in array.shape)
    else:
        array = (array - array.min()) / max(float(np.ptp(array)), 1e-6)
        slices, rows, columns = (int(array.sum(axes).argmax()) for axes in ((1, 2), (0, 2), (0, 1)))
    return array[slices], np.flipud(array[:, rows]), np.flipud(array[:, :, columns])
