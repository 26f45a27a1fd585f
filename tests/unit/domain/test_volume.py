from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import RequestInvalid, UnsupportedSeries
from domain.grid import cut, normalised, placed
from domain.model_card import ConceptInput, SeriesLimits, ValueRange, require_in_trained_range, require_series_fits
from domain.volume import Volume, to_patient_axes
from tests.builders_generators import card

_ORDERS = list(itertools.permutations(range(3)))


@given(st.sampled_from(_ORDERS), st.tuples(*[st.sampled_from([1, -1])] * 3), st.floats(-20, 20))
def test_patient_axes_keep_every_voxel_at_its_place(order: tuple[int, ...], signs: tuple[int, ...], degrees: float) -> None:
    """However the axes were stored, a voxel stays at the same millimetres with the same value."""
    rng = np.random.default_rng(3)
    array = rng.random((3, 4, 5), np.float32)
    turn = np.array(
        [[np.cos(np.radians(degrees)), -np.sin(np.radians(degrees)), 0],
         [np.sin(np.radians(degrees)), np.cos(np.radians(degrees)), 0], [0, 0, 1]]
    )  # fmt: skip
    affine = np.eye(4)
    affine[:3, :3] = turn @ (np.eye(3)[:, list(order)] * signs * (1.0, 1.5, 2.0))
    affine[:3, 3] = (5, -7, 11)
    volume = Volume(array, affine, "1.2", "MR")
    turned = to_patient_axes(volume)
    assert np.diag(turned.affine_lps[[2, 1, 0], :3]).min() > 0, "slices to Superior, rows to Posterior, columns to Left"
    places = {}
    for index in np.ndindex(turned.shape):
        place = turned.affine_lps @ (*index, 1)
        places[tuple(place[:3].round(6))] = turned.array[index]
    for index in np.ndindex(volume.shape):
        place = volume.affine_lps @ (*index, 1)
        assert places[tuple(place[:3].round(6))] == array[index]
    assert turned.spacing_mm == pytest.approx(tuple(np.array((1.0, 1.5, 2.0))[_places_of(turned, volume)]))


def _places_of(turned: Volume, volume: Volume) -> list[int]:
    """Which axis of `volume` each axis of `turned` was."""
    strength = np.abs(turned.affine_lps[:3, :3].T @ volume.affine_lps[:3, :3])
    return [int(place) for place in strength.argmax(1)]


def test_cut_undoes_placing_and_padding_repeats_the_edge() -> None:
    array = np.arange(3 * 5 * 2, dtype=np.float32).reshape(3, 5, 2)
    on_grid = placed(array, (6, 8, 4))
    assert np.array_equal(cut(on_grid, (3, 5, 2)), array)
    assert on_grid[0, 0, 0] == array[0, 0, 0]
    assert on_grid[-1, -1, -1] == array[-1, -1, -1]


def test_constant_volume_is_refused() -> None:
    with pytest.raises(UnsupportedSeries, match="do not vary"):
        normalised(np.ones((3, 3, 3)))


@pytest.mark.parametrize(
    ("modality", "spacing", "shape", "named"),
    [
        ("CT", 1.0, (36, 50, 35), "modality CT"),
        ("MR", 1.3, (36, 50, 35), "spacing of 1.300 mm"),
        ("MR", 1.0, (36, 90, 35), "90.0 mm anterior-posterior"),
    ],
)
def test_series_that_the_model_was_not_trained_on_is_refused_by_name(
    modality: str, spacing: float, shape: tuple[int, int, int], named: str
) -> None:
    limits = SeriesLimits(
        "MR", ValueRange(0.9, 1.1, "mm"), (ValueRange(30, 48, "mm"), ValueRange(40, 60, "mm"), ValueRange(30, 43, "mm"))
    )
    volume = Volume(np.zeros(shape, np.float32), np.diag([spacing, spacing, spacing, 1.0])[[2, 1, 0, 3]], "1", modality)
    with pytest.raises(UnsupportedSeries, match=named):
        require_series_fits(volume, card(limits=limits))


def test_value_outside_the_trained_range_is_refused_and_not_repeated() -> None:
    known = card(concepts=(ConceptInput("hippocampus-volume", ValueRange(2000, 4000, "mm3")),))
    assert require_in_trained_range("hippocampus-volume", 2000.0, known) == 2000.0
    with pytest.raises(RequestInvalid, match="2000 to 4000 mm3") as refused:
        require_in_trained_range("hippocampus-volume", 4000.5, known)
    assert "4000.5" not in str(refused.value)
    with pytest.raises(RequestInvalid, match="hippocampus-volume"):
        require_in_trained_range("liver-volume", 1.0, known)
