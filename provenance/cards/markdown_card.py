"""A `ModelCard` as Markdown, for people. What the card does not say is said to be not known; nothing is made up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from domain.model_card import Measurement, ModelCard, with_unit

AXES = ("inferior-superior", "anterior-posterior", "right-left")
NOT_KNOWN = "Not known: the model card does not say."

# Facts of a training run that a reader looks for; an older card may lack them.
EXPECTED_FACTS = ("split", "seed", "data set digest")


def to_markdown(card: ModelCard) -> str:
    """Return the card as Markdown: what the model is for, takes and was made from, how it measured, where it fails."""
    sections = [
        f"# {_inline(card.name)} {_inline(card.version)}",
        card.summary.strip(),
        f"## Intended use\n\n{card.intended_use.strip()}",
        f"## Out of scope\n\n{card.out_of_scope.strip()}",
        f"## Licence and attribution\n\nLicence: {card.licence.strip()}\n\n{card.attribution.strip()}",
        "## Made from\n\n" + bullets(card.data_sources),
        "## What it takes\n\n" + _table(("Input", "Trained range"), input_rows(card)),
        _output_section(card),
        _measured_section(card),
        "## Known failures\n\n" + bullets(card.known_failures),
        "## Training\n\n" + _table(("Setting", "Value"), training_rows(card)),
        "## Not known\n\nThe card holds nothing on bias across groups of people, clinical risk, regulatory approval, funding "
        "or maintenance.",
        f"## Identity\n\n- Family: {card.family}\n- Weights: `{card.weights_digest}`",
    ]
    return "\n\n".join(sections) + "\n"


def bullets(sentences: Sequence[str]) -> str:
    """Return a list in Markdown, or that nothing is known."""
    return "\n".join(f"- {sentence.strip()}" for sentence in sentences) or NOT_KNOWN


def input_rows(card: ModelCard) -> list[tuple[str, str]]:
    """Return what the model was trained to take, a name and a range each."""
    limits = card.limits
    rows = [("Modality", limits.modality), ("Spacing of each axis", str(limits.spacing_mm))]
    rows += [(f"Field of view, {axis}", str(one)) for axis, one in zip(AXES, limits.field_of_view_mm, strict=True)]
    return rows + [(concept.kind, concept.allowed) for concept in card.concepts]


def output_rows(card: ModelCard) -> list[tuple[str, str]]:
    """Return what an accepted output keeps to, a name and a range each."""
    reference = card.reference
    rows = [
        ("Intensity", str(reference.intensity_range)),
        ("Mean", str(reference.mean)),
        ("Standard deviation", str(reference.standard_deviation)),
        ("Mean absolute gradient", str(reference.sharpness)),
        ("Correlation with the source", str(reference.source_similarity)),
        ("Difference from a requested volume", f"at most {reference.volume_tolerance:.0%}"),
        ("Largest piece of each label", f"at least {reference.main_piece:.0%} of it"),
    ]
    return rows + [(f"Label {value}", concept) for value, concept in reference.labels]


def training_rows(card: ModelCard) -> list[tuple[str, str]]:
    """Return the facts of the training run, and those that a reader looks for and the card lacks as not known."""
    known = {name for name, _ in card.training}
    return [*card.training, *((name, NOT_KNOWN) for name in EXPECTED_FACTS if name not in known)]


def _output_section(card: ModelCard) -> str:
    title = "## What a real volume looks like, and what a generated one has to keep\n\n"
    return title + _table(("Measure", "Range"), output_rows(card))


def _measured_section(card: ModelCard) -> str:
    rows = [(m.name, with_unit(f"{m.value:.4g}", m.unit), _interval_text(m), str(m.n), m.split) for m in card.measured]
    if not rows:
        return f"## How it measured\n\n{NOT_KNOWN}"
    return "## How it measured\n\n" + _table(("Figure", "Value", "Interval", "Cases", "Split"), rows)


def _interval_text(figure: Measurement) -> str:
    if figure.interval is None:
        return "none estimated"
    return f"{figure.interval.low:.4g} to {figure.interval.high:.4g} ({figure.interval.level:g}%)"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines)


def _inline(text: str) -> str:
    """Text that stays in its cell: a bar or a line break would end it."""
    return " ".join(str(text).replace("|", "\\|").split())
