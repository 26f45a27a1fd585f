"""Which facts of an EHR snapshot, or of a request, are the numbers that a model understands; each in the model's own unit.

Free text is matched by a closed vocabulary: one word that is not in it (``asymmetry``, ``percentile``, ``CA1``) and the text
speaks of something else. A volume that is guessed wrongly would be obeyed.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from domain.clinical import ClinicalContext, ClinicalFact, Coding
from domain.errors import RequestInvalid

MEASUREMENT_SYSTEM = "https://veraicon.dev/fhir/CodeSystem/measurement"
"""Our CodeSystem: its codes are the kinds of `CONCEPTS`. LOINC and SNOMED CT have no code for the volume of a hippocampus."""

_SNOMED = "http://snomed.info/sct"
# DICOM PS3.16 CID 244 Laterality.
_SIDE_CODES = {(_SNOMED, "7771000"): "left", (_SNOMED, "24028007"): "right"}
_SIDE_WORDS = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_SUM_TOLERANCE = 0.05
# Two systems may write one measurement in two units, and round it.
_SAME = 1e-6
# FHIR R4 observation-status and diagnostic-report-status: the value may still change.
_NOT_FINAL = frozenset({"preliminary", "partial"})

# The registry defines a unit when it first reads it, and two jobs of one worker may read the same one at once.
_ONE_AT_A_TIME = threading.Lock()

Aliases = Mapping[str, Sequence[Coding | str]]
"""What a site calls a concept: kind to codings (system and code decide) and texts (whole, case ignored)."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A number that a model can be told.

    Attributes
    ----------
    kind : str
        Name of the concept, and its code in `MEASUREMENT_SYSTEM`.
    unit : str
        UCUM unit of the model's scale.
    part_words : tuple of frozenset of str
        The words for a part of the organ that a text has to contain, as alternatives; an empty set for the whole.
    """

    kind: str
    display: str
    unit: str
    part_words: tuple[frozenset[str], ...]


CONCEPTS = (
    Concept(
        "hippocampus-anterior-volume",
        "Volume of the anterior hippocampus (head)",
        "mm3",
        (frozenset({"anterior"}), frozenset({"head"})),
    ),
    Concept(
        "hippocampus-posterior-volume",
        "Volume of the posterior hippocampus (body and tail)",
        "mm3",
        (frozenset({"posterior"}), frozenset({"body", "tail"})),  # the body alone, or the tail alone, is less than this
    ),
    Concept("hippocampus-volume", "Volume of one hippocampus", "mm3", (frozenset(),)),
)

_NEEDED_WORDS = (frozenset({"hippocampus", "hippocampal"}), frozenset({"volume", "vol"}))
# "total" is not here: total hippocampal volume often means both sides together.
_IDLE_WORDS = frozenset(
    {"of", "the", "and", "in", "mr", "mri", "t1", "whole", "part", "structure", "measured", "by", "mm3", "ml"}
)


@dataclass(frozen=True, slots=True)
class PickedValue:
    """A number for a concept, in the concept's unit, and where it came from."""

    kind: str
    value: float
    unit: str
    asked: bool
    source_reference: str


@dataclass(frozen=True, slots=True)
class Picked:
    """Numbers that were found, and (kind, reason) of those that were not."""

    values: tuple[PickedValue, ...]
    missing: tuple[tuple[str, str], ...]


def kind_of(fact: ClinicalFact, aliases: Aliases | None = None) -> str | None:
    """Return the concept that a fact speaks of, or None.

    Our code, or a site's alias, decides; the text is read only where neither is there.

    Examples
    --------
    >>> def named(text: str) -> str | None:
    ...     return kind_of(ClinicalFact((), text, 1.0, "mm3", None, ""))
    >>> named("Left hippocampal head volume"), named("Hippocampus, body and tail: volume")
    ('hippocampus-anterior-volume', 'hippocampus-posterior-volume')
    >>> named("Hippocampal volume asymmetry"), named("Hippocampal tail volume"), named("Parahippocampal volume")
    (None, None, None)
    """
    kinds = {concept.kind for concept in CONCEPTS}
    for coding in fact.codings:
        if coding.system == MEASUREMENT_SYSTEM and coding.code in kinds:
            return coding.code
    for kind, names in (aliases or {}).items():
        if any(_is_named(fact, name) for name in names):
            return kind
    return _kind_of_text(fact.text)


def side_of(fact: ClinicalFact) -> str | None:
    """Return ``left`` or ``right`` where body site or text say so; None where they do not, or say both."""
    sides = {_SIDE_CODES[key] for site in fact.body_site if (key := (site.system, site.code)) in _SIDE_CODES}
    words = _words(" ".join([fact.text, *(site.display for site in fact.body_site)]))
    sides |= {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    return sides.pop() if len(sides) == 1 else None


def in_unit(fact: ClinicalFact, unit: str) -> float:
    """Return the fact's number in a UCUM unit.

    Raises
    ------
    RequestInvalid
        If the fact holds no finite number, or a unit that is unknown or of another dimension. The value is not repeated.
    """
    if isinstance(fact.value, bool) or not isinstance(fact.value, int | float) or not math.isfinite(fact.value):
        raise _refused("a value that is no finite number", unit)
    if not fact.unit:
        raise _refused("a number without a unit", unit)
    import pint  # imported late: the registry costs a second, and not every process converts
    from lark.exceptions import LarkError

    try:
        with _ONE_AT_A_TIME:
            registry = _registry()
            return float(registry.Quantity(fact.value, registry.from_ucum(fact.unit)).to(registry.from_ucum(unit)).magnitude)
    except (LarkError, pint.PintError) as error:
        raise _refused("a unit that is not known or measures something else", unit) from error


def pick_values(
    context: ClinicalContext, asked: Sequence[ClinicalFact], kinds: Sequence[str], aliases: Aliases | None = None
) -> Picked:
    """Return one number for each kind that has one: what was asked stands above the EHR, and there the latest stands.

    Parameters
    ----------
    kinds : sequence of str
        What the model understands, in its order.

    Raises
    ------
    RequestInvalid
        If someone asks for what the model does not understand, twice for the same concept, in a wrong unit, or for parts that
        do not add up to the whole. A fault in an EHR fact only makes its concept missing, with the reason.
    """
    chosen: list[PickedValue] = []
    missing: list[tuple[str, str]] = []
    by_kind = _asked_by_kind(asked, kinds, aliases)
    for concept in (_concept(kind) for kind in kinds):
        if concept.kind in by_kind:
            fact = by_kind[concept.kind]
            value = in_unit(fact, concept.unit)
            chosen.append(PickedValue(concept.kind, value, concept.unit, True, fact.source_reference))
            continue
        facts = [fact for fact in context.facts if _was_true(fact, context) and kind_of(fact, aliases) == concept.kind]
        found = _pick_from_ehr(concept, facts)
        if isinstance(found, PickedValue):
            chosen.append(found)
        else:
            missing.append((concept.kind, found))
    return _without_contradiction(chosen, missing)


def _pick_from_ehr(concept: Concept, facts: Sequence[ClinicalFact]) -> PickedValue | str:
    """Return the latest value, or why there is none."""
    if not facts:
        return "not in the snapshot"
    # An order, a study or a report may have the name of what was measured: it stands for the number only where there is none.
    facts = [fact for fact in facts if isinstance(fact.value, int | float) and not isinstance(fact.value, bool)] or facts
    if {"left", "right"} <= {side_of(fact) for fact in facts}:
        return "ambiguous side"
    latest = _latest(facts)
    try:
        values = [in_unit(fact, concept.unit) for fact in latest]
    except RequestInvalid as error:
        return error.found
    if not all(math.isclose(value, values[-1], rel_tol=_SAME) for value in values):
        return "contradictory values of one time"
    return PickedValue(concept.kind, values[-1], concept.unit, False, latest[-1].source_reference)


def _latest(facts: Sequence[ClinicalFact]) -> list[ClinicalFact]:
    """Return the facts of the latest time, by reference; what is final stands before what is still preliminary."""
    at = max(fact.effective_at or _EARLIEST for fact in facts)
    last = sorted((fact for fact in facts if (fact.effective_at or _EARLIEST) == at), key=lambda fact: fact.source_reference)
    return [fact for fact in last if fact.verification not in _NOT_FINAL] or last


def _asked_by_kind(asked: Iterable[ClinicalFact], kinds: Sequence[str], aliases: Aliases | None) -> dict[str, ClinicalFact]:
    by_kind: dict[str, ClinicalFact] = {}
    for fact in asked:
        kind = kind_of(fact, aliases)
        if kind is None or kind not in kinds:
            raise RequestInvalid(
                found="a requested value for something that the model does not understand",
                allowed=", ".join(kinds),
                action=f"name one of these by its code in {MEASUREMENT_SYSTEM}, or leave it out",
            )
        if kind in by_kind:
            raise RequestInvalid(found=f"two requested values for {kind}", allowed="one", action="leave one of them out")
        by_kind[kind] = fact
    return by_kind


def _without_contradiction(chosen: list[PickedValue], missing: list[tuple[str, str]]) -> Picked:
    """Drop what the EHR says where parts and whole disagree: the model would have to disobey one of them."""
    by_kind = {picked.kind: picked for picked in chosen}
    if len(by_kind) < 3:
        return Picked(tuple(chosen), tuple(missing))
    *parts, whole = (by_kind[concept.kind] for concept in CONCEPTS)
    total = sum(part.value for part in parts)
    if abs(total - whole.value) <= _SUM_TOLERANCE * whole.value:
        return Picked(tuple(chosen), tuple(missing))
    if all(picked.asked for picked in chosen):
        raise RequestInvalid(
            found="requested volumes of the parts that do not add up to the requested whole",
            allowed=f"a sum within {_SUM_TOLERANCE:.0%} of the whole",
            action="ask for the parts or for the whole",
        )
    dropped = parts if whole.asked else [whole]
    if whole.asked and any(part.asked for part in parts):
        dropped = [part for part in parts if not part.asked]
    kept = tuple(picked for picked in chosen if picked not in dropped)
    return Picked(kept, (*missing, *((picked.kind, "parts and whole disagree") for picked in dropped)))


def _kind_of_text(text: str) -> str | None:
    words = _words(text) - _SIDE_WORDS.keys()
    if not all(words & needed for needed in _NEEDED_WORDS):
        return None
    part = words - _IDLE_WORDS - frozenset().union(*_NEEDED_WORDS)
    for concept in CONCEPTS:
        if part in concept.part_words:
            return concept.kind
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))


def _is_named(fact: ClinicalFact, name: Coding | str) -> bool:
    if isinstance(name, str):
        return fact.text.casefold() == name.casefold()
    return any((coding.system, coding.code) == (name.system, name.code) for coding in fact.codings)


def _was_true(fact: ClinicalFact, context: ClinicalContext) -> bool:
    return not fact.negated and (fact.effective_at is None or fact.effective_at <= context.as_of)


def _concept(kind: str) -> Concept:
    for concept in CONCEPTS:
        if concept.kind == kind:
            return concept
    known = ", ".join(concept.kind for concept in CONCEPTS)
    raise RequestInvalid(found=f"a model that is told {kind}", allowed=known, action="use a model of these concepts")


def _refused(found: str, unit: str) -> RequestInvalid:
    return RequestInvalid(
        found=found, allowed=f"a number in a UCUM unit that converts to {unit}", action="correct the value or its unit"
    )


@lru_cache(maxsize=1)
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()
