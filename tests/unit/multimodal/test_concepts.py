from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clinical import ClinicalContext, ClinicalFact, Coding
from domain.errors import RequestInvalid
from multimodal.concepts import MEASUREMENT_SYSTEM, kind_of, pick_values, side_of

_KINDS = ("hippocampus-anterior-volume", "hippocampus-posterior-volume", "hippocampus-volume")
_DAY = datetime(2026, 1, 10, tzinfo=UTC)


def _fact(value: object, unit: str = "mm3", *, text: str = "", kind: str = "", day: int = 1) -> ClinicalFact:
    codings = (Coding(MEASUREMENT_SYSTEM, kind),) if kind else ()
    return ClinicalFact(codings, text or kind, value, unit, datetime(2026, 1, day, tzinfo=UTC), "Observation/x")  # type: ignore[arg-type]


def _context(*facts: ClinicalFact) -> ClinicalContext:
    return ClinicalContext("Patient/x", None, None, _DAY, facts, "sha256:0")


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
def test_a_text_names_a_concept_only_if_it_says_nothing_else(text: str, kind: str | None) -> None:
    assert kind_of(_fact(1.0, text=text)) == kind


@settings(deadline=None)  # the first example loads the registry of units
@given(st.floats(1000, 4000), st.sampled_from([("mm3", 1.0), ("cm3", 1e-3), ("mL", 1e-3), ("uL", 1.0)]))
def test_any_volume_unit_means_the_same_volume(volume_mm3: float, unit: tuple[str, float]) -> None:
    picked = pick_values(_context(_fact(volume_mm3 * unit[1], unit[0], kind=_KINDS[2])), (), _KINDS)
    assert [(one.kind, one.unit) for one in picked.values] == [(_KINDS[2], "mm3")]
    assert picked.values[0].value == pytest.approx(volume_mm3, rel=1e-9)


def test_latest_value_wins_and_an_asked_one_stands_above_it() -> None:
    context = _context(_fact(3000.0, kind=_KINDS[2], day=2), _fact(3100.0, kind=_KINDS[2], day=5))
    assert [one.value for one in pick_values(context, (), _KINDS).values] == [3100.0]
    asked = (_fact(2.9, "cm3", kind=_KINDS[2]),)
    assert [round(one.value, 6) for one in pick_values(context, asked, _KINDS).values] == [2900.0]


def test_left_and_right_without_a_way_to_choose_is_missing_with_its_reason() -> None:
    both = (_fact(3000.0, text="Left hippocampal volume"), _fact(3300.0, text="Right hippocampal volume"))
    picked = pick_values(_context(*both), (), _KINDS)
    assert picked.values == ()
    assert "side" in dict(picked.missing)[_KINDS[2]]


@pytest.mark.parametrize(
    ("value", "unit"), [(3.0, "kg"), (3.0, "furlongs"), ("large", "mm3"), (float("nan"), "mm3"), (True, "mm3")]
)
def test_a_wrong_unit_or_value_is_missing_from_the_ehr_and_refused_when_asked(value: object, unit: str) -> None:
    wrong = _fact(value, unit, kind=_KINDS[2])
    picked = pick_values(_context(wrong), (), _KINDS)
    assert picked.values == ()
    assert dict(picked.missing)[_KINDS[2]] != "not in the snapshot"
    with pytest.raises(RequestInvalid):
        pick_values(_context(), (wrong,), _KINDS)


def test_asking_for_an_unknown_concept_is_refused() -> None:
    with pytest.raises(RequestInvalid):
        pick_values(_context(), (_fact(3.0, kind="liver-volume"),), _KINDS)


def test_a_negated_number_of_the_ehr_is_not_obeyed() -> None:
    denied = replace(_fact(1500.0, kind=_KINDS[2]), negated=True)
    picked = pick_values(_context(denied), (), [_KINDS[2]])
    assert (picked.values, picked.missing) == ((), ((_KINDS[2], "not in the snapshot"),))


def test_an_order_or_a_study_of_the_same_name_does_not_stand_before_the_measured_number() -> None:
    ordered = _fact("requested", "", kind=_KINDS[2], day=9)
    picked = pick_values(_context(_fact(1500.0, kind=_KINDS[2], day=2), ordered), (), [_KINDS[2]])
    assert [one.value for one in picked.values] == [1500.0]


def test_a_final_number_stands_before_a_preliminary_one_of_its_time_and_two_final_ones_that_differ_are_none() -> None:
    final = replace(_fact(3.0, "cm3", kind=_KINDS[2]), verification="final", source_reference="Observation/a")
    preliminary = replace(_fact(2500.0, kind=_KINDS[2]), verification="preliminary", source_reference="Observation/z")
    assert [one.value for one in pick_values(_context(final, preliminary), (), [_KINDS[2]]).values] == [pytest.approx(3000.0)]
    same = replace(preliminary, value=3000.0, verification="amended")
    assert [one.value for one in pick_values(_context(final, same), (), [_KINDS[2]]).values] == [pytest.approx(3000.0)]
    other = replace(preliminary, verification="amended")
    assert pick_values(_context(final, other), (), [_KINDS[2]]).missing == ((_KINDS[2], "contradictory values of one time"),)


def test_a_side_that_is_only_text_is_a_side() -> None:
    both = [replace(_fact(1.0, kind=_KINDS[2]), body_site=(Coding("", "", side),)) for side in ("Left hippocampus", "Right")]
    assert [side_of(fact) for fact in both] == ["left", "right"]
    assert pick_values(_context(*both), (), [_KINDS[2]]).missing == ((_KINDS[2], "ambiguous side"),)
