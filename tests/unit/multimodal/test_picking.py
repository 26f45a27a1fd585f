from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clinical import ClinicalFact, Coding
from domain.errors import RequestInvalid
from multimodal.concepts import MEASUREMENT_SYSTEM
from multimodal.picking import pick_values
from tests.unit.multimodal.fakes import NIHSS, SNOMED, context, fact

_KINDS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
_HISTORY = Coding(SNOMED, "275526006", "History of cerebrovascular accident")


def _volume(value: object, unit: str = "mm3", *, kind: str = _KINDS[2], day: int = 1) -> ClinicalFact:
    return fact(value, unit, Coding(MEASUREMENT_SYSTEM, kind), text=kind, day=day)


@settings(deadline=None)  # the first example loads the registry of units
@given(st.floats(1000, 4000), st.sampled_from([("mm3", 1.0), ("cm3", 1e-3), ("mL", 1e-3), ("uL", 1.0)]))
def test_any_volume_unit_means_the_same_volume(volume_mm3: float, unit: tuple[str, float]) -> None:
    picked = pick_values(context(_volume(volume_mm3 * unit[1], unit[0])), (), _KINDS)
    assert [(one.kind, one.unit) for one in picked.values] == [(_KINDS[2], "mm3")]
    assert picked.values[0].value == pytest.approx(volume_mm3, rel=1e-9)


@pytest.mark.parametrize("unit", ["1", "{score}", "{points}"])
def test_a_score_may_be_counted_in_any_annotation(unit: str) -> None:
    picked = pick_values(context(fact(12.0, unit, NIHSS)), (), ["nihss"])
    assert [(one.value, one.unit) for one in picked.values] == [(12.0, "{score}")]
    assert pick_values(context(fact(12.0, "kg", NIHSS)), (), ["nihss"]).values == ()


def test_latest_value_wins_and_an_asked_one_stands_above_it() -> None:
    known = context(_volume(3000.0, day=2), _volume(3100.0, day=5))
    picked = pick_values(known, (), _KINDS).values
    assert [one.value for one in picked] == [3100.0]
    assert picked[0].years_before == pytest.approx(5 / 365.25)
    asked = pick_values(known, (_volume(2.9, "cm3"),), _KINDS).values
    assert [(round(float(one.value), 6), one.years_before) for one in asked] == [(2900.0, None)]


def test_what_became_true_after_the_imaging_is_not_used() -> None:
    assert pick_values(context(_volume(3000.0, day=11)), (), [_KINDS[2]]).missing == ((_KINDS[2], "not in the snapshot"),)


def test_left_and_right_without_a_way_to_choose_is_missing_with_its_reason() -> None:
    both = (fact(3000.0, "mm3", text="Left hippocampal volume"), fact(3300.0, "mm3", text="Right hippocampal volume"))
    picked = pick_values(context(*both), (), _KINDS)
    assert picked.values == ()
    assert dict(picked.missing)[_KINDS[2]] == "ambiguous side"
    sites = [replace(_volume(1.0), body_site=(Coding("", "", side),)) for side in ("Left hippocampus", "Right")]
    assert pick_values(context(*sites), (), [_KINDS[2]]).missing == ((_KINDS[2], "ambiguous side"),)


@pytest.mark.parametrize(
    ("value", "unit"), [(3.0, "kg"), (3.0, "furlongs"), ("large", "mm3"), (float("nan"), "mm3"), (True, "mm3")]
)
def test_a_wrong_unit_or_value_is_missing_from_the_ehr_and_refused_when_asked(value: object, unit: str) -> None:
    wrong = _volume(value, unit)
    picked = pick_values(context(wrong), (), _KINDS)
    assert picked.values == ()
    assert dict(picked.missing)[_KINDS[2]] != "not in the snapshot"
    with pytest.raises(RequestInvalid):
        pick_values(context(), (wrong,), _KINDS)


def test_asking_for_an_unknown_concept_or_twice_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="does not understand"):
        pick_values(context(), (fact(3.0, "mm3", Coding(MEASUREMENT_SYSTEM, "liver-volume")),), _KINDS)
    with pytest.raises(RequestInvalid, match="two requested values"):
        pick_values(context(), (_volume(3000.0), _volume(3100.0)), _KINDS)


def test_a_negated_number_of_the_ehr_is_not_obeyed() -> None:
    picked = pick_values(context(replace(_volume(1500.0), negated=True)), (), [_KINDS[2]])
    assert (picked.values, picked.missing) == ((), ((_KINDS[2], "not in the snapshot"),))


def test_an_order_or_a_study_of_the_same_name_does_not_stand_before_the_measured_number() -> None:
    picked = pick_values(context(_volume(1500.0, day=2), _volume("requested", "", day=9)), (), [_KINDS[2]])
    assert [one.value for one in picked.values] == [1500.0]


def test_a_final_number_stands_before_a_preliminary_one_of_its_time_and_two_final_ones_that_differ_are_none() -> None:
    final = replace(_volume(3.0, "cm3"), verification="final", source_reference="Observation/a")
    preliminary = replace(_volume(2500.0), verification="preliminary", source_reference="Observation/z")
    assert [one.value for one in pick_values(context(final, preliminary), (), [_KINDS[2]]).values] == [pytest.approx(3000.0)]
    same = replace(preliminary, value=3000.0, verification="amended")
    assert [one.value for one in pick_values(context(final, same), (), [_KINDS[2]]).values] == [pytest.approx(3000.0)]
    other = replace(preliminary, verification="amended")
    assert pick_values(context(final, other), (), [_KINDS[2]]).missing == ((_KINDS[2], "contradictory values of one time"),)


def test_parts_and_whole_that_disagree_are_not_told_together() -> None:
    parts = [_volume(1500.0, kind=kind) for kind in _KINDS[:2]]
    assert len(pick_values(context(*parts, _volume(3030.0)), (), _KINDS).values) == 3
    picked = pick_values(context(*parts, _volume(4000.0)), (), _KINDS)
    assert picked.missing == ((_KINDS[2], "parts and whole disagree"),)
    picked = pick_values(context(*parts), (_volume(3100.0),), ("age", *_KINDS))
    assert [one.kind for one in picked.values] == [_KINDS[2]]
    with pytest.raises(RequestInvalid, match="do not add up"):
        pick_values(context(), (*parts, _volume(4000.0)), _KINDS)


def test_the_latest_answer_stands_be_it_a_denial() -> None:
    yes = fact(None, "", _HISTORY, day=2, reference="Condition/a")
    no = fact(False, "", _HISTORY, day=5, negated=True)
    assert [one.value for one in pick_values(context(yes, no), (), ["prior-stroke"]).values] == ["no"]
    assert [one.value for one in pick_values(context(yes), (), ["prior-stroke"]).values] == ["yes"]
    assert pick_values(context(), (), ["prior-stroke"]).missing == (("prior-stroke", "not in the snapshot"),)
    at_once = replace(no, effective_at=yes.effective_at)
    assert pick_values(context(yes, at_once), (), ["prior-stroke"]).missing == (
        ("prior-stroke", "contradictory values of one time"),
    )


def test_an_asked_answer_is_one_of_the_concept_or_refused_with_those_it_has() -> None:
    asked = fact("Female", "", Coding(MEASUREMENT_SYSTEM, "sex"), day=None)
    assert [one.value for one in pick_values(context(), (asked,), ["sex"]).values] == ["female"]
    with pytest.raises(RequestInvalid, match="female, male"):
        pick_values(context(), (replace(asked, value="unsure"),), ["sex"])


def test_a_score_of_an_earlier_stroke_does_not_stand_for_this_one() -> None:
    recent = fact(7.0, "1", NIHSS)
    long_ago = replace(recent, effective_at=recent.effective_at.replace(year=2021))  # type: ignore[union-attr]
    assert pick_values(context(long_ago), (), ["nihss"]).missing == (("nihss", "stated too long before the imaging"),)
    assert [one.value for one in pick_values(context(long_ago, recent), (), ["nihss"]).values] == [7.0]
