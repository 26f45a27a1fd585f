"""Which value of a snapshot, or of a request, stands for each concept that a model is told; else why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.clinical import ClinicalContext, ClinicalFact
from domain.errors import RequestInvalid
from multimodal.answers import answer_of
from multimodal.concepts import CONCEPTS, MEASUREMENT_SYSTEM, YES_NO, Aliases, Concept, kind_of, side_of
from multimodal.units import in_unit

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_SUM_TOLERANCE = 0.015  # less than what the gates accept of each of them
# Two systems may write one measurement in two units, and round it.
_SAME = 1e-6
# FHIR R4 observation-status and diagnostic-report-status: the value may still change.
_NOT_FINAL = frozenset({"preliminary", "partial"})
_WHOLE = "hippocampus-volume"
_PARTS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume")

NOT_THERE = "not in the snapshot"
YEAR = timedelta(days=365.25)
"""UCUM ``a`` is the Julian year."""


@dataclass(frozen=True, slots=True)
class PickedValue:
    """What stands for a concept, and where it came from.

    Attributes
    ----------
    value : float or str
        Number in `unit`, or one of the concept's answers.
    years_before : float or None
        Time between its truth and the imaging; None where no time is stated.
    """

    kind: str
    value: float | str
    unit: str
    asked: bool
    source_reference: str
    years_before: float | None = None


@dataclass(frozen=True, slots=True)
class Picked:
    """Values that were found, and (kind, reason) of those that were not."""

    values: tuple[PickedValue, ...]
    missing: tuple[tuple[str, str], ...]


def pick_values(
    context: ClinicalContext, asked: Sequence[ClinicalFact], kinds: Sequence[str], aliases: Aliases | None = None
) -> Picked:
    """Return one value for each kind that has one: what was asked stands above the EHR, and there the latest stands.

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
    known: dict[str | None, list[ClinicalFact]] = {}
    for fact in known_by_then(context):
        known.setdefault(kind_of(fact, aliases), []).append(fact)
    for concept in (concept_of(kind) for kind in kinds):
        if concept.kind in by_kind:
            fact = by_kind[concept.kind]
            value = _value(fact, concept)
            chosen.append(PickedValue(concept.kind, value, concept.unit, True, fact.source_reference))
            continue
        found = _pick_from_ehr(concept, known.get(concept.kind, []), context.as_of)
        if isinstance(found, PickedValue):
            chosen.append(found)
        else:
            missing.append((concept.kind, found))
    return _without_contradiction(chosen, missing)


def concept_of(kind: str) -> Concept:
    """Return a concept of the table.

    Raises
    ------
    RequestInvalid
        If there is none of this kind.
    """
    for concept in CONCEPTS:
        if concept.kind == kind:
            return concept
    known = ", ".join(concept.kind for concept in CONCEPTS)
    raise RequestInvalid(found=f"a model that is told {kind}", allowed=known, action="use a model of these concepts")


def known_by_then(context: ClinicalContext) -> list[ClinicalFact]:
    """Return the facts that were true by the imaging time, or that state no time."""
    return [fact for fact in context.facts if fact.effective_at is None or fact.effective_at <= context.as_of]


def latest(facts: Sequence[ClinicalFact]) -> list[ClinicalFact]:
    """Return the facts of the latest time, by reference; what is final stands before what is still preliminary."""
    at = max(fact.effective_at or _EARLIEST for fact in facts)
    last = sorted((fact for fact in facts if (fact.effective_at or _EARLIEST) == at), key=lambda fact: fact.source_reference)
    return [fact for fact in last if fact.verification not in _NOT_FINAL] or last


def years_before(fact: ClinicalFact, as_of: datetime) -> float | None:
    """Return the years between a fact and the imaging time; None where it states no time."""
    return None if fact.effective_at is None else (as_of - fact.effective_at) / YEAR


def _value(fact: ClinicalFact, concept: Concept) -> float | str:
    if not concept.answers:
        return in_unit(fact, concept.unit)
    answer = answer_of(fact, concept)
    if answer is None:
        raise RequestInvalid(
            found="a value that is none of the answers", allowed=", ".join(concept.answers), action="give one of the answers"
        )
    return answer


def _pick_from_ehr(concept: Concept, facts: Sequence[ClinicalFact], as_of: datetime) -> PickedValue | str:
    """Return the latest value, or why there is none."""
    # A denial says yes or no to a question, and of a number only that it is not so.
    facts = [fact for fact in facts if not fact.negated or concept.answers == YES_NO]
    if not facts:
        return NOT_THERE
    # An order, a study or a report may have the name of what was measured: it stands for the value only where there is none.
    facts = [fact for fact in facts if _says_something(fact, concept)] or facts
    if concept.part_words and {"left", "right"} <= {side_of(fact) for fact in facts}:
        return "ambiguous side"
    last = latest(facts)
    try:
        values = [_value(fact, concept) for fact in last]
    except RequestInvalid as error:
        return error.found
    if not all(_is_same(value, values[-1]) for value in values):
        return "contradictory values of one time"
    years = years_before(last[-1], as_of)
    if concept.stands_years is not None and years is not None and years > concept.stands_years:
        return "stated too long before the imaging"
    return PickedValue(concept.kind, values[-1], concept.unit, False, last[-1].source_reference, years)


def _says_something(fact: ClinicalFact, concept: Concept) -> bool:
    if concept.answers:
        return answer_of(fact, concept) is not None
    return isinstance(fact.value, int | float) and not isinstance(fact.value, bool)


def _is_same(one: float | str, other: float | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=_SAME)


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
    whole = next((picked for picked in chosen if picked.kind == _WHOLE), None)
    parts = [picked for picked in chosen if picked.kind in _PARTS]
    if whole is None or len(parts) < len(_PARTS) or _add_up(parts, whole):
        return Picked(tuple(chosen), tuple(missing))
    if whole.asked and all(part.asked for part in parts):
        raise RequestInvalid(
            found="requested volumes of the parts that do not add up to the requested whole",
            allowed=f"a sum within {_SUM_TOLERANCE:.1%} of the whole",
            action="ask for the parts or for the whole",
        )
    dropped = parts if whole.asked else [whole]
    if whole.asked and any(part.asked for part in parts):
        dropped = [part for part in parts if not part.asked]
    kept = tuple(picked for picked in chosen if picked not in dropped)
    return Picked(kept, (*missing, *((picked.kind, "parts and whole disagree") for picked in dropped)))


def _add_up(parts: Sequence[PickedValue], whole: PickedValue) -> bool:
    numbers = [float(picked.value) for picked in (*parts, whole)]
    return abs(sum(numbers[:-1]) - numbers[-1]) <= _SUM_TOLERANCE * numbers[-1]
