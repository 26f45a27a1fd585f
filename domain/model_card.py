"""The card of a set of weights: what the network may be given, what it answers, what it was made from, how it measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from domain.errors import RequestInvalid, UnsupportedSeries
from domain.volume import Volume


@dataclass(frozen=True, slots=True)
class ValueRange:
    """A closed interval with its UCUM unit."""

    low: float
    high: float
    unit: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return with_unit(f"{self.low:g} to {self.high:g}", self.unit)


def with_unit(figure: str, unit: str) -> str:
    """Return a figure with its unit as people write it: UCUM's 1, of a pure number, is left out."""
    return figure if unit in {"", "1"} else f"{figure} {unit}"


@dataclass(frozen=True, slots=True)
class SeriesLimits:
    """The series that a model was trained to take.

    Attributes
    ----------
    modality : str
        Defined term of (0008,0060).
    spacing_mm : ValueRange
        For each of the three axes.
    field_of_view_mm : tuple of ValueRange
        Along patient axes (Superior, Posterior, Left), see `domain.volume.to_patient_axes`.
    """

    modality: str
    spacing_mm: ValueRange
    field_of_view_mm: tuple[ValueRange, ValueRange, ValueRange]

    @property
    def voxel_mm(self) -> float:
        """Edge of the voxels that the model writes, mm: the middle of the spacings that it takes."""
        return (self.spacing_mm.low + self.spacing_mm.high) / 2


@dataclass(frozen=True, slots=True)
class ConceptInput:
    """A clinical fact that the model obeys.

    Attributes
    ----------
    kind : str
        Name of the concept (``hippocampus-anterior-volume``).
    trained : ValueRange or None
        Range of a number in training; outside it a request is refused. None for a coded fact.
    answers : tuple of str
        What a coded fact can be; empty for a number.
    """

    kind: str
    trained: ValueRange | None
    answers: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What may be told, in words."""
        return str(self.trained) if self.trained is not None else ", ".join(self.answers)


@dataclass(frozen=True, slots=True)
class OutputReference:
    """What real volumes look like in the model's own intensity scale, measured on validation subjects.

    Attributes
    ----------
    intensity_range : ValueRange
        Range of the output scale.
    mean, standard_deviation, sharpness : ValueRange
        Accepted ranges of the volume's mean, standard deviation and mean absolute gradient (per mm).
    source_similarity : ValueRange
        Accepted normalised cross-correlation with the source image; above it the volume counts as a copy.
    volume_tolerance : float
        Accepted relative difference between a requested and a generated label volume.
    labels : tuple of (int, str)
        Label value and the concept whose volume it is.
    main_piece : float
        Share of each label that its largest piece has to hold at least: a structure of the body is one piece, a lesion may be
        many.
    """

    intensity_range: ValueRange
    mean: ValueRange
    standard_deviation: ValueRange
    sharpness: ValueRange
    source_similarity: ValueRange
    volume_tolerance: float
    labels: tuple[tuple[int, str], ...]
    main_piece: float = 0.9


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a figure; `level` in percent."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured figure, with the number of cases behind it and the split it was measured on.

    Attributes
    ----------
    interval : Interval or None
        None where nobody has estimated one.
    """

    name: str
    value: float
    unit: str
    n: int
    split: str
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything a person or a gate has to know about a set of weights.

    Attributes
    ----------
    training : tuple of (str, str)
        Facts of the training run by name; see `generators.run_facts` for those that an export writes.
    known_failures : tuple of str
        Where the model is known to fall short, a sentence each.
    """

    name: str
    version: str
    family: str
    summary: str
    intended_use: str
    out_of_scope: str
    licence: str
    attribution: str
    data_sources: tuple[str, ...]
    weights_digest: str
    limits: SeriesLimits
    concepts: tuple[ConceptInput, ...]
    reference: OutputReference
    measured: tuple[Measurement, ...]
    training: tuple[tuple[str, str], ...]
    known_failures: tuple[str, ...] = ()


def card_content(card: ModelCard) -> dict[str, Any]:
    """Return the entries of ``card.json``: what every card says, and what only some say where this one does.

    An entry that came with a later version and is empty is left out, so that the bytes and the digest of an older card stay.
    """
    content = asdict(card)
    content["concepts"] = [_without_unset(concept, "answers") for concept in content["concepts"]]
    content["measured"] = [_without_unset(figure, "interval") for figure in content["measured"]]
    return _without_unset(content, "known_failures")


def _without_unset(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key != name or value}


def require_series_fits(volume: Volume, card: ModelCard) -> Volume:
    """Return `volume` (in patient axes) if the model was trained to take it.

    Raises
    ------
    UnsupportedSeries
        Naming the modality, the spacing or the field of view that does not fit, with the allowed range.
    """
    limits = card.limits
    if volume.modality != limits.modality:
        raise _unsupported(card, f"modality {volume.modality}", limits.modality)
    for axis, spacing in zip(("slice", "row", "column"), volume.spacing_mm, strict=True):
        if spacing not in limits.spacing_mm:
            raise _unsupported(card, f"a {axis} spacing of {spacing:.3f} mm", str(limits.spacing_mm))
    axes = ("inferior-superior", "anterior-posterior", "right-left")
    for axis, extent, allowed in zip(axes, volume.field_of_view_mm, limits.field_of_view_mm, strict=True):
        if extent not in allowed:
            raise _unsupported(card, f"a field of view of {extent:.1f} mm {axis}", str(allowed))
    return volume


def require_in_trained_range(kind: str, value: float, card: ModelCard) -> float:
    """Return `value` if the concept was trained at it.

    Raises
    ------
    RequestInvalid
        If the model does not know the concept, or not at this value; the value itself is not repeated.
    """
    for concept in card.concepts:
        if concept.kind == kind:
            if concept.trained is not None and value in concept.trained:
                return value
            raise RequestInvalid(
                found=f"a value of {kind} outside the range that {card.name} was trained on",
                allowed=concept.allowed,
                action="ask for a value in this range, or use another model",
            )
    known = ", ".join(concept.kind for concept in card.concepts)
    raise RequestInvalid(found=f"a value for {kind}", allowed=known, action=f"{card.name} cannot be told this: leave it out")


def _unsupported(card: ModelCard, found: str, allowed: str) -> UnsupportedSeries:
    return UnsupportedSeries(
        found=found, allowed=f"{allowed} (model {card.name})", action="send a series that fits, or configure another model"
    )
