from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import torch

from domain.clinical import ClinicalContext, ClinicalFact, Coding
from domain.errors import GenerationError, RequestInvalid
from domain.model_card import ConceptInput, ModelCard, ValueRange
from multimodal.concepts import MEASUREMENT_SYSTEM
from multimodal.conditioning import MODALITIES
from multimodal.facts import MOST_OTHER_FACTS, Gathered, gather
from tests.builders_generators import card
from tests.unit.multimodal.fakes import BMI, LOINC, NIHSS, SNOMED, FakeSentences, context, fact

_CONCEPTS = ("age", "sex", "nihss", "prior-stroke")
_SCALES = {"age": (68.0, 14.0), "nihss": (8.0, 7.0), "bmi": (29.0, 6.0)}
_DIABETES = Coding(SNOMED, "73211009", "Diabetes mellitus")


def _card(*kinds: str) -> ModelCard:
    return card(concepts=tuple(ConceptInput(kind, ValueRange(0, 110, "1")) for kind in kinds))


def _gather(known: ClinicalContext, *asked: ClinicalFact, **changes: Any) -> Gathered:
    concepts = changes.pop("concepts", _CONCEPTS)
    given: dict[str, Any] = {
        "scales": _SCALES,
        "sentences": FakeSentences(),
        "prior_latent": None,
        "latent_shape": (2, 3, 4, 5),
        "takes_other_facts": True,
        "takes_report": True,
        "card": _card(*concepts),
    }
    return gather(known, asked, concepts=concepts, **{**given, **changes})


def _vector(text: str) -> torch.Tensor:
    return FakeSentences().embed([text])[0]


def _report(text: str, day: int = 3) -> ClinicalFact:
    return fact(text, text="CT head", day=day, reference=f"DiagnosticReport/{day}")


def test_numbers_are_standardised_in_the_concepts_unit_and_answers_are_embedded() -> None:
    history = fact(None, "", Coding(SNOMED, "275526006", "St. n. Schlaganfall"), day=None)
    told = _gather(context(fact(15.0, "{score}", NIHSS, day=9), history, birth_date="1950-01-10", sex="male"))
    given = told.given
    assert told.kinds == _CONCEPTS
    assert told.modalities == ("demographics", "demographics", "clinical-facts", "clinical-facts")
    assert given.number[0].tolist() == pytest.approx([(76.0 - 68) / 14, 0, 1.0, 0], abs=1e-3)
    assert given.number_present[0].tolist() == [True, False, True, False]
    assert given.answer_present[0].tolist() == [False, True, False, True]
    assert torch.equal(given.concept[0, 3], _vector("History of stroke")), "the same words whatever the code was called"
    assert torch.equal(given.answer[0, 1], _vector("male"))
    assert torch.equal(given.answer[0, 3], _vector("yes"))
    assert given.answer[0, 0].abs().sum() == 0
    assert [MODALITIES[index] for index in given.modality[0].tolist()] == list(told.modalities)
    assert [(kind, unit) for kind, _value, unit in told.record.targets] == [("age", "a"), ("nihss", "{score}")]


def test_time_before_imaging_is_told_in_years_where_a_fact_has_one() -> None:
    told = _gather(context(fact(15.0, "1", NIHSS, day=9), fact(None, "", _DIABETES, day=None), birth_date="1950-01-10"))
    assert told.given.time_present[0].tolist() == [False, False, True, False, False]
    assert told.given.years_before[0].tolist() == pytest.approx([0, 0, 1 / 365.25, 0, 0])


def test_what_is_missing_has_no_token_and_is_named() -> None:
    told = _gather(context())
    assert not told.given.present.any()
    assert not told.given.prior_present.any()
    assert told.given.prior.shape == (1, 2, 3, 4, 5)
    assert (told.record.targets, told.record.used) == ((), ())
    assert told.record.missing == (*_CONCEPTS, "other-facts", "report", "prior-image")


def test_a_model_that_takes_no_more_than_concepts_misses_no_more() -> None:
    rest = {"takes_other_facts": False, "takes_report": False, "latent_shape": (0, 0, 0, 0)}
    told = _gather(context(fact(None, "", _DIABETES), _report("Infarct.")), **rest)
    assert (told.kinds, told.record.missing) == (_CONCEPTS, _CONCEPTS)
    assert told.given.prior.shape == (1, 0, 0, 0, 0)


def test_the_patients_birth_date_stands_before_an_age_that_was_once_observed() -> None:
    observed = fact(70.0, "a", Coding(LOINC, "30525-0", "Age"), day=10)
    (_kind, age, _unit), = _gather(context(observed, birth_date="1950-07-10")).record.targets  # fmt: skip
    assert age == pytest.approx(75.5, abs=0.01)
    (_kind, age, _unit), = _gather(context(observed)).record.targets  # fmt: skip
    assert age == 70.0
    assert _gather(context(sex="other")).record.missing[1] == "sex: a value that is none of the answers"


def test_a_value_outside_the_trained_range_is_refused_with_the_range_and_never_repeated() -> None:
    asked = fact(222.0, "1", Coding(MEASUREMENT_SYSTEM, "nihss"), day=None)
    for known, wanted in ((context(), (asked,)), (context(fact(222.0, "1", NIHSS)), ())):
        with pytest.raises(RequestInvalid, match="0 to 110") as refused:
            _gather(known, *wanted)
        assert "222" not in str(refused.value)


def test_a_number_without_a_learned_scale_is_not_told_and_refused_when_asked() -> None:
    for scales in ({}, {"nihss": (8.0, 0.0)}):
        told = _gather(context(fact(15.0, "1", NIHSS)), scales=scales)
        assert not told.given.present[0, 2]
        assert (told.record.targets, told.record.missing[3]) == ((), "nihss: no learned scale")
        with pytest.raises(RequestInvalid, match="no learned scale"):
            _gather(context(), fact(15.0, "1", NIHSS, day=None), scales=scales)


def test_a_fact_of_an_unseen_code_is_told_by_its_text_and_answer_but_not_by_its_number() -> None:
    smoker = fact("raucht", "", Coding("local", "9", "Smoking"), day=2, value_codings=(Coding("local", "8", "current smoker"),))
    told = _gather(context(smoker, fact(7.1, "mmol/L", text="Glucose", day=3), fact(None, "", _DIABETES, day=4)))
    given = told.given
    assert told.kinds[4:] == ("fact", "fact", "fact")
    assert torch.equal(given.concept[0, 4:], FakeSentences().embed(["Diabetes mellitus", "Smoking", "Glucose"]))
    assert torch.equal(given.answer[0, 4:6], FakeSentences().embed(["yes", "current smoker"]))
    assert given.answer_present[0, 4:].tolist() == [True, True, False]
    assert not given.number_present[0, 4:].any()
    assert given.present[0, 4:].all()
    assert told.record.used == ("other-facts: 3",)
    assert "other-facts: 1 without a learned scale" in told.record.missing


def test_a_denied_fact_is_told_as_no_and_one_that_is_both_is_not_told() -> None:
    denied = fact(False, "", _DIABETES, negated=True, reference="Observation/a")
    told = _gather(context(denied))
    assert torch.equal(told.given.answer[0, 4], _vector("no"))
    assert _gather(context(denied, fact(None, "", _DIABETES, reference="Condition/b"))).kinds == _CONCEPTS


def test_the_latest_facts_are_told_one_of_each_code() -> None:
    many = [fact(None, "", Coding("local", f"{number}", f"Finding {number}"), day=1 + number % 9) for number in range(40)]
    again = [replace(one, effective_at=datetime(2020, 1, 1, tzinfo=UTC)) for one in many]
    told = _gather(context(*again, *many))
    assert len(told.kinds) == len(_CONCEPTS) + MOST_OTHER_FACTS == 28
    years = told.given.years_before[0, 4:]
    assert torch.equal(years, years.sort().values)
    assert years.max() < 0.02, "the older one of a code is not told"
    assert told.record.used == ("other-facts: 24",)


def test_a_days_laboratory_does_not_push_a_diagnosis_out() -> None:
    laboratory = [fact(1.0, "g/L", text=f"Substance {number}", day=9) for number in range(30)]
    told = _gather(context(*laboratory, fact(None, "", _DIABETES, day=1)))
    assert torch.equal(told.given.concept[0, 4], _vector("Diabetes mellitus"))
    assert "other-facts: 23 without a learned scale" in told.record.missing


def test_a_bare_code_says_nothing_and_is_not_told() -> None:
    assert _gather(context(fact(None, "", Coding("local", "x9"), text="x9"))).kinds == _CONCEPTS
    assert _gather(context(fact(None, "", Coding("local", "x9"), text="Gout"))).kinds == (*_CONCEPTS, "fact")


def test_several_coded_conclusions_of_one_report_are_all_told() -> None:
    codes = [Coding("s", "1", "Infarct"), Coding("s", "2", "Atrophy")]
    coded = [fact(one.display, text="CT head", reference="DiagnosticReport/3", value_codings=(one,)) for one in codes]
    told = _gather(context(*coded))
    assert torch.equal(told.given.answer[0, 4:], FakeSentences().embed(["Infarct", "Atrophy"]))


def test_a_concept_of_the_model_is_never_told_as_another_fact() -> None:
    stale = replace(fact(15.0, "1", NIHSS), effective_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert _gather(context(stale)).kinds == _CONCEPTS
    assert _gather(context(fact(31.0, "kg/m2", BMI))).kinds == (*_CONCEPTS, "fact")
    assert _gather(context(fact(31.0, "kg/m2", BMI)), concepts=("bmi",)).kinds == ("bmi",)


def test_sentences_of_the_latest_report_come_last_as_they_are_written() -> None:
    told = _gather(
        context(_report("Old finding.", 2), _report("No bleeding. Left insular infarct.", 5), fact(None, "", _DIABETES))
    )
    assert told.kinds[4:] == ("fact", "report", "report", "report")
    assert told.modalities[4:] == ("clinical-facts", "report", "report", "report")
    sentences = ["No bleeding.", "Left insular infarct.", "Old finding."]
    assert torch.equal(told.given.answer[0, 5:], FakeSentences().embed(sentences))
    assert torch.equal(told.given.concept[0, 5], _vector("CT head"))
    assert told.given.years_before[0, 5:].tolist() == pytest.approx([5 / 365.25, 5 / 365.25, 8 / 365.25])
    assert told.record.used == ("other-facts: 1", "report: 3")


def test_no_text_of_the_patient_stands_in_the_record() -> None:
    canary = "CANARY"
    known = [
        fact(canary, text=canary),
        fact(None, "", Coding("local", "1", canary)),
        _report(f"{canary}."),
        fact(canary, "", NIHSS),
    ]
    assert canary not in str(_gather(context(*known)).record)


def test_a_prior_image_is_told_and_a_latent_of_another_model_is_refused() -> None:
    latent = torch.arange(120.0).reshape(2, 3, 4, 5)
    told = _gather(context(), prior_latent=latent)
    assert torch.equal(told.given.prior, latent.unsqueeze(0))
    assert told.given.prior_present.tolist() == [True]
    assert told.record.used == ("prior-image",)
    assert "prior-image" not in told.record.missing
    for shape in ((2, 3, 4, 6), (0, 0, 0, 0)):
        with pytest.raises(GenerationError, match="another shape"):
            _gather(context(), prior_latent=latent, latent_shape=shape)


def test_order_of_the_facts_in_a_snapshot_does_not_change_what_is_told() -> None:
    facts = [fact(None, "", Coding("local", f"{number}", f"Finding {number}"), day=1 + number) for number in range(6)]
    facts += [fact(15.0, "1", NIHSS), _report("Infarct.")]
    one, other = (_gather(context(*order)) for order in (facts, facts[::-1]))
    for name, tensor in vars(one.given).items():
        assert torch.equal(tensor, getattr(other.given, name)), name
    assert one.record == other.record


def test_nothing_to_tell_is_a_batch_of_no_facts() -> None:
    told = _gather(context(), concepts=())
    assert told.given.concept.shape == (1, 0, 384)
    assert told.given.present.shape == told.given.modality.shape == (1, 0)
