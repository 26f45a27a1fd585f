from __future__ import annotations

import pytest

from domain.clinical import ClinicalFact, Coding
from multimodal.answers import answer_of
from multimodal.concepts import CONCEPTS, MEASUREMENT_SYSTEM, YES_NO, kind_of, side_of
from multimodal.conditioning import MODALITIES
from multimodal.picking import concept_of
from tests.unit.multimodal.fakes import LOINC, SNOMED, fact

_KINDS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
_STROKE = Coding(SNOMED, "230690007", "Cerebrovascular accident")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Hippocampus anterior volume", _KINDS[0]),
        ("Left hippocampal head volume", _KINDS[0]),
        ("Volume of hippocampus, body and tail", _KINDS[1]),
        ("Hippocampal volume (left)", _KINDS[2]),
        ("Total hippocampal volume", None),
        ("Parahippocampal gyrus volume", None),
        ("Hippocampal sclerosis", None),
        ("Hippocampal volume percentile", None),
        ("Amygdala volume", None),
    ],
)
def test_a_text_names_a_volume_only_if_it_says_nothing_else(text: str, kind: str | None) -> None:
    assert kind_of(fact(1.0, text=text)) == kind


@pytest.mark.parametrize(
    ("system", "code", "kind"),
    [
        (LOINC, "30525-0", "age"),
        (LOINC, "46098-0", "sex"),
        (LOINC, "72089-6", "nihss"),
        (SNOMED, "450743008", "nihss"),
        (LOINC, "75859-9", "modified-rankin"),
        (LOINC, "39156-5", "bmi"),
        (SNOMED, "275526006", "prior-stroke"),
        (MEASUREMENT_SYSTEM, "arterial-territory", "arterial-territory"),
        ("", "72089-6", None),
    ],
)
def test_a_code_of_its_system_names_a_concept(system: str, code: str, kind: str | None) -> None:
    assert kind_of(fact(1.0, "", Coding("", "ours"), Coding(system, code))) == kind


def test_an_item_of_the_stroke_scale_is_not_its_total() -> None:
    """LOINC 70184-7 is item 1a, the level of consciousness: 0 to 3."""
    assert kind_of(fact(3.0, "{score}", Coding(LOINC, "70184-7", "Level of consciousness [NIH Stroke Scale]"))) is None


def test_a_text_names_no_clinical_concept_but_a_site_may_say_what_it_calls_one() -> None:
    named = fact(7.0, "1", text="NIHSS (ours)")
    assert kind_of(named) is None
    assert kind_of(named, {"nihss": ["nihss (OURS)"]}) == "nihss"
    assert kind_of(fact(7.0, "1", Coding("local", "4711")), {"nihss": [Coding("local", "4711")]}) == "nihss"


def test_a_stroke_is_a_prior_one_only_once_it_is_over() -> None:
    assert kind_of(fact(None, "", _STROKE)) is None, "it may be the one that is imaged"
    assert kind_of(fact("resolved", "", _STROKE)) == "prior-stroke"


def test_a_side_that_is_only_text_is_a_side() -> None:
    both = [fact(1.0, body_site=(Coding("", "", side),)) for side in ("Left hippocampus", "Right")]
    assert [side_of(one) for one in both] == ["left", "right"]
    assert side_of(fact(1.0, text="left and right")) is None


_YES = Coding(LOINC, "LA33-6", "Ja")
_MCA = Coding(SNOMED, "17232002", "Middle cerebral artery structure")


@pytest.mark.parametrize(
    ("kind", "given", "answer"),
    [
        ("sex", fact("female"), "female"),
        ("sex", fact("Frau", value_codings=(Coding(SNOMED, "248152002", "Weiblich"),)), "female"),
        ("sex", fact("other"), None),
        ("sex", fact("male", negated=True), None),
        ("sex", fact("male", value_codings=(Coding(LOINC, "LA3-6"),)), None),
        ("prior-stroke", fact(None), "yes"),
        ("prior-stroke", fact(True), "yes"),
        ("prior-stroke", fact("resolved"), "yes"),
        ("prior-stroke", fact(False, negated=True), "no"),
        ("prior-stroke", fact("No", negated=True), "no"),
        ("prior-stroke", fact("Ja", value_codings=(_YES,)), "yes"),
        ("prior-stroke", fact("provisional"), None),
        ("prior-stroke", fact(2.0, "1"), None),
        ("arterial-territory", fact("Territory of the right posterior cerebral artery"), "right posterior cerebral artery"),
        ("arterial-territory", fact("MCA", value_codings=(_MCA,), body_site=(Coding(SNOMED, "7771000"),)), "left middle cerebral artery"),
        ("arterial-territory", fact("MCA", value_codings=(_MCA,)), None),
        ("arterial-territory", fact("not the left middle cerebral artery"), None),
    ],
)  # fmt: skip
def test_an_answer_is_one_of_the_concept_or_none(kind: str, given: ClinicalFact, answer: str | None) -> None:
    assert answer_of(given, concept_of(kind)) == answer


def test_every_concept_is_a_number_with_a_unit_or_has_answers() -> None:
    assert len({concept.kind for concept in CONCEPTS}) == len({concept.display for concept in CONCEPTS}) == len(CONCEPTS)
    codes = [(coding.system, coding.code) for concept in CONCEPTS for coding in (*concept.codings, *concept.past_codings)]
    assert len(set(codes)) == len(codes)
    for concept in CONCEPTS:
        assert bool(concept.unit) != bool(concept.answers)
        assert concept.modality in MODALITIES
        assert not concept.past_codings or concept.answers == YES_NO
