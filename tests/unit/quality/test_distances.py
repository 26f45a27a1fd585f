from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.fid import FIDMetric
from scipy.linalg import sqrtm

from quality.distances import frechet, kernel
from quality.halves import beside_real
from quality.support import support


def _two(n: int = 60, m: int = 50, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, width)), rng.normal(0.5, 1.5, size=(m, width)) @ rng.normal(size=(width, width))


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")  # of MONAI's call of scipy
def test_the_frechet_distance_is_the_one_of_monai_and_of_the_formula() -> None:
    a, b = _two()
    assert frechet(a, b) == pytest.approx(float(FIDMetric()(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-6)
    one, other = np.cov(a.T), np.cov(b.T)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    assert frechet(a, b) == pytest.approx(shift + np.trace(one + other - 2 * sqrtm(one @ other).real), rel=1e-6)


def test_the_frechet_distance_holds_with_fewer_volumes_than_features() -> None:
    a, b = _two(8, 9, 30)
    assert frechet(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2) == pytest.approx(4 * 30)
    roots = np.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)  # most of them are zero
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    assert frechet(a, b) == pytest.approx(shift + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * np.sqrt(roots).sum(), rel=1e-5)


def test_the_kernel_distance_is_the_sum_over_pairs_that_the_paper_writes() -> None:
    a, b = _two(7, 9, 4)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    within_a = np.mean([k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_the_kernel_distance_of_two_samples_of_one_thing_is_zero_on_average() -> None:
    rng = np.random.default_rng(1)
    found = [kernel(rng.normal(size=(20, 5)), rng.normal(size=(20, 5))) for _ in range(200)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


def test_support_is_what_counting_ball_by_ball_gives() -> None:
    real, made = _two(14, 11, 3)
    k = 3

    def radius(points: np.ndarray, i: int) -> float:
        return float(sorted(np.linalg.norm(points - points[i], axis=1))[k])

    inside = [[np.linalg.norm(x - y) < radius(real, i) for y in made] for i, x in enumerate(real)]
    reached = [any(np.linalg.norm(x - y) < radius(made, j) for j, y in enumerate(made)) for x in real]
    found = support(real, made, neighbours=k)
    assert found.precision == pytest.approx(np.mean([any(row[j] for row in inside) for j in range(11)]))
    assert found.recall == pytest.approx(np.mean(reached))
    assert found.density == pytest.approx(np.sum(inside) / (k * 11))
    assert found.coverage == pytest.approx(np.mean([any(row) for row in inside]))


def test_one_volume_made_again_and_again_is_precise_and_covers_nothing() -> None:
    real = np.random.default_rng(2).normal(size=(40, 3))
    stuck = np.repeat(real[:1], 40, axis=0) + np.random.default_rng(3).normal(size=(40, 3)) * 1e-3
    found = support(real, stuck)
    assert found.precision == 1
    assert found.recall < 0.1
    assert found.coverage < 0.5


def test_volumes_like_the_real_ones_stand_at_one_beside_them_and_shifted_ones_above() -> None:
    rng = np.random.default_rng(4)
    people = np.repeat(np.arange(20), 2)
    made_for = np.repeat(np.arange(40), 3)
    real = rng.normal(size=(40, 5))
    alike = beside_real(frechet, real, people, rng.normal(size=(120, 5)), made_for, splits=60)
    assert 0.8 < alike.ratio.value < 1.3
    assert alike.generated.n == alike.real.n == 20
    assert alike.real.people == 20
    shifted = beside_real(frechet, real, people, rng.normal(2, 1, size=(120, 5)), made_for, splits=60)
    assert shifted.ratio.low > 3
    assert shifted.real == alike.real


def test_no_person_of_the_reference_stands_against_it_and_both_sides_are_as_many() -> None:
    people = np.repeat(np.arange(8), 2)
    real, made_for = np.arange(16.0)[:, None], np.repeat(np.arange(16), 2)
    generated = 100 + made_for[:, None].astype(float)
    seen: list[list[np.ndarray]] = []

    def watched(reference: np.ndarray, other: np.ndarray) -> float:
        seen.append([reference[:, 0], other[:, 0]])
        return 1.0

    beside_real(watched, real, people, generated, made_for, splits=10)
    for (reference, made), (same, theirs) in zip(seen[::2], seen[1::2], strict=True):
        assert (reference == same).all()
        assert sorted(made - 100) == sorted(theirs)
        assert not set(reference // 2) & set(theirs // 2)
        assert len(reference) == len(theirs) == 8
