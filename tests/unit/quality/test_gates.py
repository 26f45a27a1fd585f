from __future__ import annotations

import numpy as np
import pytest

from domain.findings import Outcome
from domain.volume import Volume
from quality.gates import check
from tests.builders_quality import (
    ANTERIOR,
    BOX_MM3,
    POSTERIOR,
    WHOLE,
    blob,
    make_card,
    make_generated,
    make_labels,
    make_source,
    make_volume,
    with_targets,
)


def _outcomes(generated: object, source: Volume | None = None) -> dict[str, Outcome]:
    report = check(generated, source or make_source(), make_card())  # type: ignore[arg-type]
    worst = {}
    for finding in report.findings:
        if worst.get(finding.check) is not Outcome.FAILED:
            worst[finding.check] = finding.outcome
    assert report.passed == (Outcome.FAILED not in worst.values())
    return worst


def test_a_good_volume_passes_every_check() -> None:
    assert set(_outcomes(make_generated()).values()) == {Outcome.PASSED}


@pytest.mark.parametrize(
    ("harm", "check_name"),
    [
        (lambda array: np.where(array > 0.9, np.nan, array), "finite"),
        (lambda array: np.where(array > 0.9, np.inf, array), "finite"),
        (lambda array: np.full_like(array, 0.3), "contrast"),
        (lambda array: array * 1.5, "intensity"),
        (lambda array: array * 0.05, "mean"),
        (lambda array: np.clip(array * 0.2 + 0.3, 0, 1), "standard-deviation"),
        (lambda array: np.indices(array.shape).sum(0) % 2 * 0.9, "sharpness"),
    ],
    ids=["nan", "infinite", "constant", "out of range", "dark", "flat", "checkerboard"],
)
def test_a_broken_image_fails_the_check_that_is_about_it(harm: object, check_name: str) -> None:
    broken = make_volume(harm(blob(texture=0.05)))  # type: ignore[operator]
    assert _outcomes(make_generated(volume=broken))[check_name] is Outcome.FAILED


def test_of_a_label_map_alone_contrast_and_copying_are_not_asked_and_everything_else_is() -> None:
    labels = make_labels()
    mask = _outcomes(make_generated(volume=make_volume(labels.astype(np.float32)), label_map=labels))
    image = _outcomes(make_generated(volume=make_volume(labels.astype(np.float32) / 2), label_map=labels))
    excused = {name for name, outcome in mask.items() if outcome is Outcome.NOT_APPLICABLE}
    assert excused == {"contrast", "not-a-copy"}
    assert Outcome.NOT_APPLICABLE not in image.values()
    assert mask["intensity"] is Outcome.FAILED  # two labels, and a card of images from 0 to 1


def test_another_size_than_the_source_fails() -> None:
    small = make_volume(blob((20, 24, 12)))
    labels = make_labels()[:, :, 2:14]
    assert _outcomes(make_generated(volume=small, label_map=labels))["extent"] is Outcome.FAILED


@pytest.mark.parametrize("offset", [0.0, 37.5])
def test_a_copy_of_the_source_fails_wherever_it_lies_and_however_it_is_scaled(offset: float) -> None:
    source = make_source()
    copied = (source.array - source.array.min()) / np.ptp(source.array)
    generated = make_generated(volume=make_volume(copied, origin_mm=(offset, -offset, 2 * offset)))
    assert _outcomes(generated, source)["not-a-copy"] is Outcome.FAILED


def test_a_copy_check_does_not_apply_without_a_source_and_nothing_else_is_excused() -> None:
    report = check(make_generated(), None, make_card())
    outcomes = {finding.check: finding.outcome for finding in report.findings}
    assert outcomes["not-a-copy"] is outcomes["extent"] is Outcome.NOT_APPLICABLE
    assert report.passed


@pytest.mark.parametrize(
    ("wanted", "outcome"),
    [
        ((ANTERIOR, BOX_MM3 * 1.1, "mm3"), Outcome.PASSED),
        ((ANTERIOR, BOX_MM3 * 1.3, "mm3"), Outcome.FAILED),
        ((POSTERIOR, BOX_MM3 * 0.8, "mm3"), Outcome.FAILED),
        ((WHOLE, BOX_MM3 * 2, "mm3"), Outcome.PASSED),
        ((WHOLE, BOX_MM3, "mm3"), Outcome.FAILED),
        (("liver-volume", 5.0, "mm3"), Outcome.NOT_APPLICABLE),
    ],
)
def test_a_requested_volume_has_to_be_there(wanted: tuple[str, float, str], outcome: Outcome) -> None:
    generated = make_generated(conditioning=with_targets(wanted))
    assert _outcomes(generated)["requested-volume"] is outcome


def test_no_sentence_repeats_a_requested_value() -> None:
    generated = make_generated(conditioning=with_targets((ANTERIOR, 314.159, "mm3")))
    report = check(generated, make_source(), make_card())
    assert "314" not in "".join(finding.statement + finding.allowed for finding in report.findings)


def test_an_unknown_label_and_an_empty_one_fail() -> None:
    unknown, empty = make_labels(), make_labels()
    unknown[0, 0, 0] = 9
    empty[empty == 2] = 0
    for labels in (unknown, empty):
        assert _outcomes(make_generated(label_map=labels))["labels"] is Outcome.FAILED
