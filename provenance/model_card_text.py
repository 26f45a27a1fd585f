"""A `ModelCard` as Markdown, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from domain.model_card import ModelCard

_AXES = ("inferior-superior", "anterior-posterior", "right-left")


def to_markdown(card: ModelCard) -> str:
    """Return the card as Markdown: what the model is for, what it takes, what it was made from, how it measured."""
    sections = [
        f"# {_inline(card.name)} {_inline(card.version)}",
        card.summary.strip(),
        f"## Intended use\n\n{card.intended_use.strip()}",
        f"## Out of scope\n\n{card.out_of_scope.strip()}",
        f"## Licence and attribution\n\nLicence: {card.licence.strip()}\n\n{card.attribution.strip()}",
        "## Made from\n\n" + "\n".join(f"- {source.strip()}" for source in card.data_sources),
        _input_section(card),
        _output_section(card),
        _measured_section(card),
        "## Training\n\n" + _table(("Setting", "Value"), card.training),
        f"## Identity\n\n- Family: {card.family}\n- Weights: `{card.weights_digest}`",
    ]
    return "\n\n".join(sections) + "\n"


def _input_section(card: ModelCard) -> str:
    limits = card.limits
    rows = [("Modality", limits.modality), ("Spacing of each axis", str(limits.spacing_mm))]
    rows += [(f"Field of view, {axis}", str(one)) for axis, one in zip(_AXES, limits.field_of_view_mm, strict=True)]
    rows += [(concept.kind, str(concept.trained)) for concept in card.concepts]
    return "## What it takes\n\n" + _table(("Input", "Trained range"), rows)


def _output_section(card: ModelCard) -> str:
    reference = card.reference
    rows = [
        ("Intensity", str(reference.intensity_range)),
        ("Mean", str(reference.mean)),
        ("Standard deviation", str(reference.standard_deviation)),
        ("Mean absolute gradient", str(reference.sharpness)),
        ("Correlation with the source", str(reference.source_similarity)),
        ("Difference from a requested volume", f"at most {reference.volume_tolerance:.0%}"),
    ]
    rows += [(f"Label {value}", concept) for value, concept in reference.labels]
    return "## What a real volume looks like, and what a generated one has to keep\n\n" + _table(("Measure", "Range"), rows)


def _measured_section(card: ModelCard) -> str:
    rows = [(m.name, f"{m.value:.4g} {m.unit}".strip(), str(m.n), m.split) for m in card.measured]
    return "## How it measured\n\n" + _table(("Figure", "Value", "Cases", "Split"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that stays in its cell: a bar or a line break would end it."""
    return " ".join(str(text).replace("|", "\\|").split())
