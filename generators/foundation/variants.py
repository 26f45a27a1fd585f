"""What each published set of MAISI networks is, takes and answers, as far as its publishers say. No torch here.

References
----------
Guo et al., MAISI: Medical AI for Synthetic Imaging, WACV 2025 (``ddpm-ct``).
Zhao et al., MAISI-v2, AAAI 2026 (``rflow-ct``, ``rflow-mr``, ``rflow-mr-brain``).
"""

from __future__ import annotations

from dataclasses import dataclass

from domain.errors import UnsupportedSeries, WeightsRejected
from domain.grid import Shape
from domain.model_card import SeriesLimits, ValueRange
from domain.volume import Volume

RECTIFIED_FLOW, DDPM = "rectified-flow", "ddpm"

BODY_REGIONS = ("head", "chest", "abdomen", "pelvis")
"""From top to bottom: the order of the networks' inputs."""

NO_CONTRAST = 0
"""Class of a volume of which the contrast is not told: the unconditional input of guidance."""

_PLANE, _AXIS = (256, 384, 512), (128, 256, 384, 512, 640, 768)
_CT_SHAPES: tuple[Shape, ...] = tuple((n, n, slices) for n in _PLANE for slices in _AXIS)
_MR_SHAPES: tuple[Shape, ...] = (
    *((n, n, 128) for n in (128, 256, 384, 512)),
    (128, 256, 256),
    (256, 128, 256),
    (256, 256, 256),
)
_OPEN = "NVIDIA Open Model License"
_NON_COMMERCIAL = "NVIDIA License, non-commercial: research and evaluation only"


@dataclass(frozen=True, slots=True)
class Variant:
    """One published set of networks.

    Attributes
    ----------
    contrasts : tuple of (str, int)
        What the image may be, with the class number in the network; the network of ``ddpm-ct`` has no classes.
    takes_regions, takes_mask : bool
        Whether body regions may be told, and whether there is a ControlNet for a label map.
    shapes : tuple of (int, int, int)
        Numbers of voxels along Right, Anterior and Superior.
    plane_mm, axis_mm : ValueRange
        Voxel spacing in the axial plane and along the body.
    square_plane : bool
        Whether both spacings of the axial plane have to be equal.
    least_plane_mm : float
        Smallest extent of the axial plane, mm.
    intensity : ValueRange
        What 0 and 1 of the autoencoder stand for.
    bright : float
        Highest intensity that is believed: an MR image has no upper end.
    licence, repository : str
        Of the denoiser, as its publisher states it, and where it is.
    guidance, steps : str
        What the publisher uses, in our terms (a guidance of 1 is none).
    """

    name: str
    modality: str
    sampling: str
    contrasts: tuple[tuple[str, int], ...]
    takes_regions: bool
    takes_mask: bool
    shapes: tuple[Shape, ...]
    plane_mm: ValueRange
    axis_mm: ValueRange
    square_plane: bool
    least_plane_mm: float
    intensity: ValueRange
    bright: float
    licence: str
    repository: str
    guidance: str
    steps: str


def _ct(name: str, sampling: str, *, takes_regions: bool, steps: str) -> Variant:
    return Variant(
        name=name,
        modality="CT",
        sampling=sampling,
        contrasts=(("ct", 1),),
        takes_regions=takes_regions,
        takes_mask=True,
        shapes=_CT_SHAPES,
        plane_mm=ValueRange(0.5, 3.0, "mm"),
        axis_mm=ValueRange(0.5, 5.0, "mm"),
        square_plane=True,
        least_plane_mm=256.0,
        intensity=ValueRange(-1000, 1000, "[hnsf'U]"),
        bright=1000,
        licence=_OPEN,
        repository="nvidia/NV-Generate-CT",
        guidance="1",
        steps=steps,
    )


def _mr(
    name: str, contrasts: tuple[tuple[str, int], ...], shapes: tuple[Shape, ...], licence: str, repository: str, guidance: str
) -> Variant:
    return Variant(
        name=name,
        modality="MR",
        sampling=RECTIFIED_FLOW,
        contrasts=contrasts,
        takes_regions=False,
        takes_mask=False,
        shapes=shapes,
        plane_mm=ValueRange(0.4, 5.0, "mm"),
        axis_mm=ValueRange(0.4, 5.0, "mm"),
        square_plane=False,
        least_plane_mm=0.0,
        intensity=ValueRange(0, 1000, "1"),
        bright=4000,  # 1000 is the 99.5th percentile of a training image; vessels and fat lie above
        licence=licence,
        repository=repository,
        guidance=guidance,
        steps="30",
    )


_MR_CONTRASTS = (("mri", 8), ("mri_t1", 9), ("mri_t2", 10), ("mri_flair", 11))
_BRAIN_CONTRASTS = (
    *_MR_CONTRASTS,
    ("mri_mra", 16),
    ("mri_swi", 20),
    ("mri_t1_skull_stripped", 29),
    ("mri_t2_skull_stripped", 30),
    ("mri_flair_skull_stripped", 31),
    ("mri_swi_skull_stripped", 32),
    ("mri_mra_skull_stripped", 33),
)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        _ct("rflow-ct", RECTIFIED_FLOW, takes_regions=False, steps="30"),
        _ct("ddpm-ct", DDPM, takes_regions=True, steps="1000"),
        _mr("rflow-mr", _MR_CONTRASTS, _MR_SHAPES, _NON_COMMERCIAL, "nvidia/NV-Generate-MR", "10"),
        _mr(
            "rflow-mr-brain",
            _BRAIN_CONTRASTS,
            (*_MR_SHAPES, (512, 512, 256)),
            _OPEN,
            "nvidia/NV-Generate-MR-Brain",
            "10",
        ),
    )
}


def variant_of(name: str) -> Variant:
    """Return a published variant by its name.

    Raises
    ------
    WeightsRejected
        If there is none of this name.
    """
    if name not in VARIANTS:
        raise WeightsRejected(
            found=f"networks of the unknown variant {name!r}",
            allowed=", ".join(VARIANTS),
            action="name one of these in networks.json",
        )
    return VARIANTS[name]


def may_be_told(variant: Variant) -> str:
    """Return in words what a variant's networks can be told."""
    parts = [f"contrast ({', '.join(name for name, _ in variant.contrasts)})", "voxel spacing (that of the series)"]
    parts += [f"body regions ({', '.join(BODY_REGIONS)})"] if variant.takes_regions else []
    parts += ["a label map in MAISI's labels"] if variant.takes_mask else []
    return "; ".join(parts)


def sizes_of(variant: Variant) -> str:
    """Return in words the numbers of voxels that a variant's networks take: slices, rows, columns in patient axes."""
    return ", ".join(f"{z} x {y} x {x}" for x, y, z in variant.shapes)


def limits_of(variant: Variant) -> SeriesLimits:
    """Return what the card says of the series that fit; `require_grid` is stricter."""
    low, high = min(variant.plane_mm.low, variant.axis_mm.low), max(variant.plane_mm.high, variant.axis_mm.high)
    lengths = [[shape[axis] for shape in variant.shapes] for axis in (2, 1, 0)]  # Superior, Posterior, Left
    spacings = (variant.axis_mm, variant.plane_mm, variant.plane_mm)
    least = (0.0, variant.least_plane_mm, variant.least_plane_mm)
    superior, posterior, left = (
        ValueRange(max(min(n) * mm.low, floor), max(n) * mm.high, "mm")
        for n, mm, floor in zip(lengths, spacings, least, strict=True)
    )
    return SeriesLimits(variant.modality, ValueRange(low, high, "mm"), (superior, posterior, left))


def require_grid(like: Volume, variant: Variant) -> Volume:
    """Return `like` (in patient axes) if the networks take its number of voxels and its spacing.

    Raises
    ------
    UnsupportedSeries
        With the sizes or spacings that they take.
    """
    slices, rows, columns = like.shape
    if (columns, rows, slices) not in variant.shapes:
        raise _unsupported(f"{slices} x {rows} x {columns} voxels (slices, rows, columns)", sizes_of(variant), variant)
    slice_mm, row_mm, column_mm = like.spacing_mm
    if slice_mm not in variant.axis_mm or row_mm not in variant.plane_mm or column_mm not in variant.plane_mm:
        taken = f"{variant.plane_mm} in the axial plane, {variant.axis_mm} along the body"
        raise _unsupported(f"a spacing of {slice_mm:.3f} x {row_mm:.3f} x {column_mm:.3f} mm", taken, variant)
    if variant.square_plane and abs(row_mm - column_mm) > 1e-3:
        raise _unsupported(f"voxels of {row_mm:.3f} x {column_mm:.3f} mm in the axial plane", "square ones", variant)
    if min(rows * row_mm, columns * column_mm) < variant.least_plane_mm - 1e-3:
        extent = f"an axial field of view of {rows * row_mm:.1f} x {columns * column_mm:.1f} mm"
        raise _unsupported(extent, f"at least {variant.least_plane_mm:g} mm each way", variant)
    return like


def _unsupported(found: str, allowed: str, variant: Variant) -> UnsupportedSeries:
    return UnsupportedSeries(
        found=found, allowed=f"{allowed} ({variant.name})", action="resample the series to these, or configure another model"
    )
