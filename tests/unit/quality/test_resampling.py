from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from quality.agreement import mean_absolute_error, pearson, slope, spearman, spread
from quality.resampling import estimate


def test_agreement_is_what_scipy_and_numpy_compute_also_with_ties() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 6, 50).astype(float)
    y = x + rng.normal(size=50)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y.round()) == pytest.approx(stats.spearmanr(x, y.round()).statistic)
    assert slope(x, y) == pytest.approx(np.polyfit(x, y, 1)[0])
    assert spread(y) == pytest.approx(np.std(y, ddof=1))
    assert mean_absolute_error(x, y) == pytest.approx(np.abs(x - y).mean())


def test_the_interval_of_a_mean_of_independent_people_is_the_textbook_one() -> None:
    values = np.random.default_rng(2).normal(10, 3, 200)
    found = estimate(lambda chosen: float(values[chosen].mean()), np.arange(200), draws=4000, seed=5)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert (found.n, found.people) == (200, 200)


def test_ten_volumes_of_each_person_make_nobody_surer_than_one() -> None:
    of_people = np.random.default_rng(3).normal(size=40)
    values, people = np.repeat(of_people, 10), np.repeat(np.arange(40), 10)
    one = estimate(lambda chosen: float(of_people[chosen].mean()), np.arange(40), seed=1)
    ten = estimate(lambda chosen: float(values[chosen].mean()), people, seed=1)
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    assert (ten.n, ten.people) == (400, 40)


def test_arms_are_resampled_together_so_that_what_both_share_falls_out_of_a_ratio() -> None:
    sizes = np.random.default_rng(4).lognormal(0, 1, 30)
    ours, theirs = 2 * sizes[::-1], sizes
    ratio = estimate(
        lambda a, b: float(ours[a].mean() / theirs[b].mean()), np.arange(30)[::-1], np.arange(30), draws=200, seed=2
    )
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))
    alone = estimate(lambda a: float(ours[a].mean() / 2), np.arange(30), draws=200, seed=2)
    assert alone.high / alone.low > 1.5


def test_a_pair_is_drawn_as_often_as_both_of_its_people_together() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    counts: list[np.ndarray] = []

    def watched(chosen: np.ndarray, singles: np.ndarray) -> float:
        times = np.bincount(singles, minlength=3)
        assert np.bincount(chosen, minlength=3).tolist() == times[pairs].prod(1).tolist()
        counts.append(times)
        return 0.0

    estimate(watched, pairs, np.arange(3), draws=50)
    assert len({tuple(times) for times in counts}) > 3


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    values = np.random.default_rng(6).normal(size=20)
    first, again, other = (
        estimate(lambda chosen: float(values[chosen].mean()), np.arange(20), draws=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.low != other.low
