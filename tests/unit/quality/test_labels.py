from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as nps

from domain.findings import Finding, Outcome
from quality.labels import check_labels, check_requested_volumes, main_piece_share
from tests.builders_quality import ANTERIOR, BOX_MM3, make_card, make_generated, make_labels, with_targets


def _named(findings: tuple[Finding, ...], name: str) -> Finding:
    return next(finding for finding in findings if finding.check == name)


def _largest_by_flooding(mask: np.ndarray) -> int:
    """The same question answered the slow and obvious way."""
    left, largest = {tuple(map(int, place)) for place in np.argwhere(mask)}, 0
    while left:
        front, size = [left.pop()], 0
        while front:
            z, y, x = front.pop()
            size += 1
            for near in ((z - 1, y, x), (z + 1, y, x), (z, y - 1, x), (z, y + 1, x), (z, y, x - 1), (z, y, x + 1)):
                if near in left:
                    left.remove(near)
                    front.append(near)
        largest = max(largest, size)
    return largest


@settings(max_examples=60, deadline=None)
@given(nps.arrays(bool, nps.array_shapes(min_dims=3, max_dims=3, max_side=7)))
def test_the_largest_piece_is_the_one_that_flooding_finds(mask: np.ndarray) -> None:
    share = main_piece_share(mask)
    if not mask.any():
        assert math.isnan(share)
    else:
        assert share == _largest_by_flooding(mask) / mask.sum()


def test_a_label_in_crumbs_fails_and_one_crumb_does_not() -> None:
    crumb, crumbs = make_labels(), make_labels()
    crumb[0, 0, 0] = 1
    crumbs[::2, ::2, ::2][crumbs[::2, ::2, ::2] == 0] = 2
    assert _named(check_labels(make_generated(label_map=crumb), make_card()), "label-pieces").outcome is Outcome.PASSED
    assert _named(check_labels(make_generated(label_map=crumbs), make_card()), "label-pieces").outcome is Outcome.FAILED


def test_how_much_of_a_label_is_in_one_piece_says_the_card() -> None:
    halves, card = make_labels(), make_card()
    halves[9:11][halves[9:11] == 1] = 0
    for least, outcome in ((0.9, Outcome.FAILED), (0.4, Outcome.PASSED)):
        told = replace(card, reference=replace(card.reference, main_piece=least))
        assert _named(check_labels(make_generated(label_map=halves), told), "label-pieces").outcome is outcome


def test_labels_on_another_grid_or_none_where_the_card_promises_them_fail() -> None:
    for label_map in (None, make_labels((20, 24, 15))):
        (finding,) = check_labels(make_generated(label_map=label_map), make_card())
        assert finding.outcome is Outcome.FAILED


def test_a_model_without_labels_needs_none_and_its_requests_cannot_be_measured() -> None:
    card = replace(make_card(), reference=replace(make_card().reference, labels=()))
    generated = make_generated(label_map=None)
    assert [finding.outcome for finding in check_labels(generated, card)] == [Outcome.NOT_APPLICABLE]
    assert [finding.outcome for finding in check_requested_volumes(generated, card)] == [Outcome.NOT_APPLICABLE]


@pytest.mark.parametrize(
    ("value", "unit", "outcome"),
    [
        (BOX_MM3 / 1000, "mL", Outcome.PASSED),
        (BOX_MM3 / 1000, "cm3", Outcome.PASSED),
        (BOX_MM3, "mL", Outcome.FAILED),
        (BOX_MM3, "a", Outcome.FAILED),
        (float("nan"), "mm3", Outcome.FAILED),
        (float("inf"), "mm3", Outcome.FAILED),
        (0.0, "mm3", Outcome.FAILED),
    ],
)
def test_a_request_is_read_in_its_unit_and_nonsense_fails(value: float, unit: str, outcome: Outcome) -> None:
    generated = make_generated(conditioning=with_targets((ANTERIOR, value, unit)))
    assert [finding.outcome for finding in check_requested_volumes(generated, make_card())] == [outcome]


def test_the_difference_is_told_too_coarsely_to_compute_the_requested_value_from_it() -> None:
    told = set()
    for asked in (BOX_MM3 * 1.043, BOX_MM3 * 1.046, BOX_MM3 * 1.05):
        (finding,) = check_requested_volumes(make_generated(conditioning=with_targets((ANTERIOR, asked, "mm3"))), make_card())
        told.add((finding.measured, finding.statement))
    assert len(told) == 1


def test_a_difference_just_beyond_the_tolerance_is_not_told_as_within_it() -> None:
    asked = BOX_MM3 / 1.1504
    (finding,) = check_requested_volumes(make_generated(conditioning=with_targets((ANTERIOR, asked, "mm3"))), make_card())
    assert finding.outcome is Outcome.FAILED
    assert finding.measured == 0.16
