"""What is known of one patient, for an encoder: facts of any code, report sentences and a prior image, as tensors.

What a model has learned (`multimodal.concepts`) is told by its number or its answer. Every other fact is told by the words of
its code, its coded answer and its time; its number is not, because nothing is known of its scale. What is missing has no token
and stands in the record: nothing is filled in. Whether something is so stands in the answer, as ``yes`` or ``no``: sentence
embeddings are blind to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import torch
from torch import Tensor

from domain.clinical import ClinicalContext, ClinicalFact
from domain.errors import GenerationError, RequestInvalid
from domain.generation import ConditioningRecord
from domain.model_card import ModelCard, require_in_trained_range
from multimodal.concepts import AGE, SEX, Aliases, kind_of
from multimodal.conditioning import MODALITIES, EncoderInput
from multimodal.picking import (
    NOT_THERE,
    YEAR,
    Picked,
    PickedValue,
    concept_of,
    known_by_then,
    latest,
    pick_values,
    years_before,
)
from multimodal.reports import is_report_text, report_sentences
from multimodal.sentences import Sentences
from multimodal.telling import Told, as_batch

MOST_OTHER_FACTS = 24

FACT, OTHER_FACTS, REPORT = "fact", "other-facts", "report"
_CLINICAL, _REPORT, _PRIOR = MODALITIES[1:]
_DEMOGRAPHICS = "demographics"


@dataclass(frozen=True, eq=False)
class Gathered:
    """A batch of one, and what it holds in words.

    Attributes
    ----------
    given : EncoderInput
        F facts of one patient: the concepts of the card first, present or not; then other facts; then report sentences.
    kinds, modalities : tuple of str
        For each of the F facts.
    record : ConditioningRecord
        Never holds a text of the patient.
    """

    given: EncoderInput
    kinds: tuple[str, ...]
    modalities: tuple[str, ...]
    record: ConditioningRecord


def gather(
    context: ClinicalContext,
    asked: Sequence[ClinicalFact],
    *,
    concepts: Sequence[str],
    scales: Mapping[str, tuple[float, float]],
    sentences: Sentences,
    prior_latent: Tensor | None,
    latent_shape: tuple[int, int, int, int],
    takes_other_facts: bool,
    takes_report: bool,
    card: ModelCard,
    aliases: Aliases | None = None,
) -> Gathered:
    """Return what an encoder is told of one patient.

    Parameters
    ----------
    context : ClinicalContext
        EHR snapshot as of the imaging time.
    asked : sequence of ClinicalFact
        Values that stand above the EHR's.
    concepts : sequence of str
        Kinds with a learned scale or learned answers, in the order of their tokens.
    scales : mapping of str to (float, float)
        Mean and standard deviation of each number in training, in the concept's unit.
    prior_latent : tensor, (C, d, h, w), or None
    latent_shape : tuple of int
        Shape of a latent; C is 0 where the model takes no prior image.

    Raises
    ------
    RequestInvalid
        If a value lies outside the trained range, or a request is faulty (see `multimodal.picking.pick_values`).
    GenerationError
        If the latent is not one of this model.
    """
    picked = pick_values(_with_demographics(context, aliases), asked, concepts, aliases)
    told, record = _concepts_told(picked, concepts, scales, card)
    if takes_other_facts:
        others, said = _others_told(context, concepts, aliases)
        told, record = [*told, *others], _joined(record, said)
    if takes_report:
        report = _report_told(context)
        told, record = [*told, *report], _joined(record, _counted(REPORT, len(report)))
    if latent_shape[0]:
        record = _joined(record, _used(_PRIOR) if prior_latent is not None else _missing(_PRIOR))
    prior = _prior(prior_latent, latent_shape, card)
    given = as_batch(told, sentences, prior, has_prior=prior_latent is not None)
    return Gathered(given, tuple(one.kind for one in told), tuple(one.modality for one in told), record)


def _with_demographics(context: ClinicalContext, aliases: Aliases | None) -> ClinicalContext:
    """Return a snapshot whose age at the imaging time and sex are facts; the Patient stands before what was once observed."""
    told: list[ClinicalFact] = []
    if context.birth_date is not None:
        age = (context.as_of.date() - date.fromisoformat(context.birth_date)) / YEAR
        told.append(ClinicalFact((AGE,), AGE.display, age, "a", context.as_of, context.patient_reference))
    if context.sex is not None:
        told.append(ClinicalFact((SEX,), SEX.display, context.sex, "", context.as_of, context.patient_reference))
    kinds = {kind_of(fact) for fact in told}
    return replace(context, facts=(*told, *(fact for fact in context.facts if kind_of(fact, aliases) not in kinds)))


def _concepts_told(
    picked: Picked, concepts: Sequence[str], scales: Mapping[str, tuple[float, float]], card: ModelCard
) -> tuple[list[Told], ConditioningRecord]:
    """Return a fact for each concept of the model, absent where nothing stands for it."""
    by_kind = {value.kind: value for value in picked.values}
    missing = [kind if reason == NOT_THERE else f"{kind}: {reason}" for kind, reason in picked.missing]
    told, targets = [], []
    for concept in map(concept_of, concepts):
        absent = Told(concept.kind, concept.modality, concept.display, present=False)
        value = by_kind.get(concept.kind)
        if value is None:
            told.append(absent)
        elif isinstance(value.value, str):
            told.append(replace(absent, answer=value.value, years_before=_time_of(value), present=True))
        elif not _has_scale(value, scales):
            told.append(absent)
            missing.append(f"{concept.kind}: no learned scale")
        else:
            mean, deviation = scales[concept.kind]
            number = (require_in_trained_range(concept.kind, value.value, card) - mean) / deviation
            told.append(replace(absent, number=number, years_before=_time_of(value), present=True))
            targets.append((concept.kind, value.value, concept.unit))
    used = tuple(one.kind for one in told if one.present)
    return told, ConditioningRecord(tuple(targets), used, tuple(missing))


def _has_scale(value: PickedValue, scales: Mapping[str, tuple[float, float]]) -> bool:
    if scales.get(value.kind, (0.0, 0.0))[1] > 0:
        return True
    if value.asked:
        raise RequestInvalid(
            found=f"a requested value for {value.kind}, for which the model has no learned scale",
            allowed=", ".join(kind for kind, (_mean, deviation) in scales.items() if deviation > 0),
            action="leave it out, or use another model",
        )
    return False


def _time_of(value: PickedValue) -> float | None:
    # Age and sex are those at the imaging time: they have no time of their own.
    return None if concept_of(value.kind).modality == _DEMOGRAPHICS else value.years_before


def _others_told(
    context: ClinicalContext, concepts: Sequence[str], aliases: Aliases | None
) -> tuple[list[Told], ConditioningRecord]:
    """Return the latest facts that are no concept of the model: of each code what was last said, unless that is yes and no."""
    by_code: dict[object, list[ClinicalFact]] = {}
    for fact in known_by_then(context):
        if kind_of(fact, aliases) not in concepts and not is_report_text(fact) and _has_words(fact):
            by_code.setdefault(_code_of(fact), []).append(fact)
    last = [{_answer(fact): fact for fact in latest(facts)} for facts in by_code.values()]
    agreeing = [fact for said in last if not {"no", "yes"} <= said.keys() for fact in said.values()]
    # Numbers come last: of these no more than that they were measured is told, and a day's laboratory fills all places.
    chosen = sorted(_latest_first(agreeing), key=_is_number)[:MOST_OTHER_FACTS]
    record = _counted(OTHER_FACTS, len(chosen))
    if numbers := sum(_is_number(fact) for fact in chosen):
        record = _joined(record, _missing(f"{OTHER_FACTS}: {numbers} without a learned scale"))
    return [_said(fact, FACT, _CLINICAL, _answer(fact), context) for fact in chosen], record


def _report_told(context: ClinicalContext) -> list[Told]:
    reports = _latest_first([fact for fact in known_by_then(context) if is_report_text(fact)])
    return [_said(fact, REPORT, _REPORT, sentence, context) for fact, sentence in report_sentences(reports)]


def _said(fact: ClinicalFact, kind: str, modality: str, answer: str, context: ClinicalContext) -> Told:
    return Told(kind, modality, fact.text, answer=answer, years_before=years_before(fact, context.as_of))


def _latest_first(facts: Sequence[ClinicalFact]) -> list[ClinicalFact]:
    """Return facts by time, those without one last; of one time in the order in which they stand."""
    return sorted(facts, key=lambda fact: -fact.effective_at.timestamp() if fact.effective_at else float("inf"))


def _has_words(fact: ClinicalFact) -> bool:
    """Tell whether a fact's concept has a text; a bare code has none, and embedding its digits says nothing."""
    return bool(fact.text) and fact.text not in {coding.code for coding in fact.codings if not coding.display}


def _code_of(fact: ClinicalFact) -> object:
    return (fact.codings[0].system, fact.codings[0].code) if fact.codings else fact.text.casefold()


def _is_number(fact: ClinicalFact) -> bool:
    return isinstance(fact.value, int | float) and not isinstance(fact.value, bool)


def _answer(fact: ClinicalFact) -> str:
    """Return what is said of a concept, in words; empty for a number."""
    if fact.negated or fact.value is False:
        return "no"
    if fact.value is None or fact.value is True:
        return "yes"
    if isinstance(fact.value, str):
        return next((coding.display for coding in fact.value_codings if coding.display), fact.value)
    return ""


def _prior(latent: Tensor | None, shape: tuple[int, int, int, int], card: ModelCard) -> Tensor:
    if latent is None:
        return torch.zeros(1, *shape)
    if tuple(latent.shape) != shape:
        raise GenerationError(
            found="a latent of a prior image of another shape than the encoder takes",
            allowed=f"{shape} for {card.name}",
            action="encode the image with the generator of the same model",
        )
    return latent.unsqueeze(0).float()  # (1, C, d, h, w)


def _counted(kind: str, count: int) -> ConditioningRecord:
    return _used(f"{kind}: {count}") if count else _missing(kind)


def _used(kind: str) -> ConditioningRecord:
    return ConditioningRecord((), (kind,), ())


def _missing(kind: str) -> ConditioningRecord:
    return ConditioningRecord((), (), (kind,))


def _joined(one: ConditioningRecord, other: ConditioningRecord) -> ConditioningRecord:
    return ConditioningRecord(one.targets + other.targets, one.used + other.used, one.missing + other.missing)
