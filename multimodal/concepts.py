"""The closed table of what models can be told with a learned scale or a learned answer, and which facts speak of it.

A code decides. Free text is read for volumes alone, by a closed vocabulary: one word that is not in it (``asymmetry``,
``percentile``, ``CA1``) and the text speaks of something else. A volume that is guessed wrongly would be obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.clinical import ClinicalFact, Coding

MEASUREMENT_SYSTEM = "https://veraicon.dev/fhir/CodeSystem/measurement"
"""Our CodeSystem: its codes are the kinds of `CONCEPTS`. LOINC and SNOMED CT have no code for the volume of a hippocampus."""

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"

AGE, SEX = Coding(LOINC, "30525-0", "Age"), Coding(LOINC, "46098-0", "Sex")
"""By these the demographics of a Patient are facts like any other."""

PAST = frozenset({"inactive", "remission", "resolved"})
"""FHIR R4 Condition.clinicalStatus of what is over; it is then the value of the fact."""

SIDES = ("left", "right")
ARTERIES = ("anterior cerebral artery", "middle cerebral artery", "posterior cerebral artery", "vertebrobasilar arteries")
"""Territories of level 2 of the arterial atlas of Liu et al., Sci Data 10:74 (2023), without the ventricles."""

YES_NO = ("no", "yes")

# DICOM PS3.16 CID 244 Laterality.
_SIDE_CODES = {(SNOMED, "7771000"): "left", (SNOMED, "24028007"): "right"}
_SIDE_WORDS = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}

Aliases = Mapping[str, Sequence[Coding | str]]
"""What a site calls a concept: kind to codings (system and code decide) and texts (whole, case ignored)."""


@dataclass(frozen=True, slots=True)
class Concept:
    """What a model can be told: a number on a learned scale, or one of a few answers.

    Attributes
    ----------
    kind : str
        Name of the concept, and its code in `MEASUREMENT_SYSTEM`.
    display : str
        What is embedded: the same words for every code and text by which the concept is recognised.
    unit : str
        UCUM unit of the model's scale; empty where the value is an answer.
    modality : str
        One of `multimodal.conditioning.MODALITIES`.
    codings : tuple of Coding
        Codes of other systems.
    answers : tuple of str
        Texts that the value can be; empty where it is a number. With `YES_NO` the presence of a fact is an answer too.
    part_words : tuple of frozenset of str
        For the volume of an organ: the words for a part of it that a text has to contain, as alternatives; an empty set for
        the whole. Such a volume has a side.
    past_codings : tuple of Coding
        Codes of what answers with yes once it is over: while it is active, it is what is imaged.
    stands_years : float or None
        For how long before imaging a value stands; None where it does not age.
    """

    kind: str
    display: str
    unit: str
    modality: str = "clinical-facts"
    codings: tuple[Coding, ...] = ()
    answers: tuple[str, ...] = ()
    part_words: tuple[frozenset[str], ...] = ()
    past_codings: tuple[Coding, ...] = ()
    stands_years: float | None = None


# A score of another stroke, months ago, says nothing about this one.
_ONE_EPISODE_YEARS = 30 / 365.25

CONCEPTS = (
    Concept(
        "hippocampus-anterior-volume",
        "Volume of the anterior hippocampus (head)",
        "mm3",
        part_words=(frozenset({"anterior"}), frozenset({"head"})),
    ),
    Concept(
        "hippocampus-posterior-volume",
        "Volume of the posterior hippocampus (body and tail)",
        "mm3",
        part_words=(frozenset({"posterior"}), frozenset({"body", "tail"})),  # body or tail alone is less than this
    ),
    Concept("hippocampus-volume", "Volume of one hippocampus", "mm3", part_words=(frozenset(),)),
    Concept("age", "Age", "a", "demographics", (AGE,), stands_years=1.0),
    Concept("sex", "Sex", "", "demographics", (SEX,), ("female", "male")),
    Concept(
        "nihss",
        "NIH stroke scale total score",
        "{score}",
        # Not 70184-7: that is item 1a of the scale, the level of consciousness.
        codings=(Coding(LOINC, "72089-6", "Total score [NIH Stroke Scale]"), Coding(SNOMED, "450743008")),
        stands_years=_ONE_EPISODE_YEARS,
    ),
    Concept(
        "modified-rankin",
        "Modified Rankin scale score",
        "{score}",
        codings=(Coding(LOINC, "75859-9", "Modified rankin scale"), Coding(SNOMED, "1255866005")),
        stands_years=_ONE_EPISODE_YEARS,
    ),
    Concept("bmi", "Body mass index", "kg/m2", codings=(Coding(LOINC, "39156-5", "Body mass index (BMI) [Ratio]"),)),
    Concept(
        "prior-stroke",
        "History of stroke",
        "",
        codings=(Coding(SNOMED, "275526006", "History of cerebrovascular accident"),),
        answers=YES_NO,
        past_codings=(Coding(SNOMED, "230690007", "Cerebrovascular accident"), Coding(SNOMED, "422504002", "Ischemic stroke")),
    ),
    Concept(
        "arterial-territory",
        "Arterial territory of the stroke",
        "",
        answers=tuple(f"{side} {artery}" for artery in ARTERIES for side in SIDES),
        stands_years=_ONE_EPISODE_YEARS,
    ),
    Concept("stroke-lesion-volume", "Volume of the stroke lesion", "mm3", stands_years=_ONE_EPISODE_YEARS),
)

_BY_CODE = {(coding.system, coding.code): concept.kind for concept in CONCEPTS for coding in concept.codings} | {
    (MEASUREMENT_SYSTEM, concept.kind): concept.kind for concept in CONCEPTS
}
_BY_PAST_CODE = {(coding.system, coding.code): concept.kind for concept in CONCEPTS for coding in concept.past_codings}

_NEEDED_WORDS = (frozenset({"hippocampus", "hippocampal"}), frozenset({"volume", "vol"}))
# "total" is not here: total hippocampal volume often means both sides together.
_IDLE_WORDS = frozenset(
    {"of", "the", "and", "in", "mr", "mri", "t1", "whole", "part", "structure", "measured", "by", "mm3", "ml"}
)


def kind_of(fact: ClinicalFact, aliases: Aliases | None = None) -> str | None:
    """Return the concept that a fact speaks of, or None.

    A code, or a site's alias, decides; the text is read only where neither is there.

    Examples
    --------
    >>> def named(text: str) -> str | None:
    ...     return kind_of(ClinicalFact((), text, 1.0, "mm3", None, ""))
    >>> named("Left hippocampal head volume"), named("Hippocampus, body and tail: volume")
    ('hippocampus-anterior-volume', 'hippocampus-posterior-volume')
    >>> named("Hippocampal volume asymmetry"), named("Hippocampal tail volume"), named("Parahippocampal volume")
    (None, None, None)
    """
    keys = _keys(fact.codings)
    if fact.value in PAST and (once := next((_BY_PAST_CODE[key] for key in keys if key in _BY_PAST_CODE), None)):
        return once
    if coded := next((_BY_CODE[key] for key in keys if key in _BY_CODE), None):
        return coded
    for kind, names in (aliases or {}).items():
        if any(_is_named(fact, name) for name in names):
            return kind
    return _kind_of_text(fact.text)


def side_of(fact: ClinicalFact) -> str | None:
    """Return ``left`` or ``right`` where body site, coded value or text say so; None where they do not, or say both."""
    places = (*fact.body_site, *fact.value_codings)
    sides = {_SIDE_CODES[key] for key in _keys(places) if key in _SIDE_CODES}
    words = words_of(" ".join([fact.text, *(place.display for place in places)]))
    sides |= {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    return sides.pop() if len(sides) == 1 else None


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, case ignored."""
    return frozenset(re.findall(r"[^\W_]+", text.casefold()))


def _kind_of_text(text: str) -> str | None:
    words = words_of(text) - _SIDE_WORDS.keys()
    if not all(words & needed for needed in _NEEDED_WORDS):
        return None
    part = words - _IDLE_WORDS - frozenset().union(*_NEEDED_WORDS)
    return next((concept.kind for concept in CONCEPTS if part in concept.part_words), None)


def _is_named(fact: ClinicalFact, name: Coding | str) -> bool:
    if isinstance(name, str):
        return fact.text.casefold() == name.casefold()
    return (name.system, name.code) in _keys(fact.codings)


def _keys(codings: Sequence[Coding]) -> tuple[tuple[str, str], ...]:
    return tuple((coding.system, coding.code) for coding in codings)
