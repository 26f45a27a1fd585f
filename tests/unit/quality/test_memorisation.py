from __future__ import annotations

import numpy as np
import pytest

from quality.diversity import likeness, likeness_of_pairs, pairs_of
from quality.memorisation import common_shape, copied_share, nearest_distances


def _volumes(count: int, seed: int, shape: tuple[int, int, int] = (20, 22, 18)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(shape).astype(np.float32) for _ in range(count)]


def test_a_copy_in_another_brightness_has_no_distance_and_the_nearest_counts() -> None:
    training = _volumes(5, 0)
    near, far = nearest_distances([0.3 * training[3] + 0.2, _volumes(1, 9)[0]], training, (20, 22, 18))
    assert near == pytest.approx(0, abs=1e-6)
    correlations = [np.corrcoef(_volumes(1, 9)[0].ravel(), one.ravel())[0, 1] for one in training]
    assert far == pytest.approx(1 - max(correlations), abs=1e-6)


def test_crops_of_two_sizes_are_compared_centre_on_centre_and_a_constant_one_is_like_nothing() -> None:
    training = _volumes(3, 1)
    inner = training[1][2:-2, 4:-4, 2:-2]
    shape = common_shape([*training, inner])
    assert shape == (16, 14, 14)
    found = nearest_distances([inner, np.ones((16, 14, 14), np.float32)], training, shape)
    assert found == pytest.approx([0, 1], abs=1e-6)


def test_the_share_of_copies_is_a_twentieth_of_what_is_as_new_as_held_out_people() -> None:
    held_out = np.random.default_rng(2).random(400)
    assert copied_share(held_out, held_out) == pytest.approx(0.05, abs=0.003)
    assert copied_share(held_out / 100, held_out) > 0.95
    assert copied_share(held_out, held_out, np.flatnonzero(held_out < 0.01)) == 1


def test_a_volume_is_like_itself_and_less_so_the_more_it_is_changed() -> None:
    (volume,) = _volumes(1, 3, (34, 44, 33))
    noise = _volumes(1, 4, (34, 44, 33))[0]
    little, much = (likeness(volume, (1 - share) * volume + share * noise) for share in (0.1, 0.6))
    assert likeness(volume, volume) == pytest.approx(1)
    assert 1 > little > much > 0
    assert likeness(volume, volume[2:-2]) == pytest.approx(1), "centre on centre, whatever the shapes"


def test_pairs_are_of_different_people_each_pair_once() -> None:
    people = [1, 1, 2, 2, 3]
    pairs = pairs_of(people, count=100)
    assert len(pairs) == 8
    assert len({tuple(pair) for pair in pairs.tolist()}) == 8
    assert all(people[a] != people[b] for a, b in pairs.tolist())
    assert len(pairs_of(people, count=3)) == 3


def test_pairs_of_one_volume_are_more_alike_than_pairs_of_many() -> None:
    many, pairs = _volumes(4, 5), pairs_of([1, 2, 3, 4], count=6)
    stuck = [many[0] + 0.01 * one for one in many]
    assert likeness_of_pairs(stuck, pairs).min() > likeness_of_pairs(many, pairs).max()
