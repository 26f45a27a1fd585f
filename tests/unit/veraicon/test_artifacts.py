from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from domain.generation import ConditioningRecord, ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.volume import Volume
from veraicon.artifacts import BYTES, GENERATED_VOLUME, ArtifactFolder, save


@pytest.fixture
def generated() -> GeneratedVolume:
    rng = np.random.default_rng(7)
    affine = np.eye(4)
    affine[:3, 3] = (1.5, -2.25, 3.125)
    return GeneratedVolume(
        volume=Volume(rng.random((3, 4, 5), np.float32), affine, "2.25.1", "MR"),
        label_map=rng.integers(0, 3, (3, 4, 5)).astype(np.uint8),
        model=ModelIdentity("m", "1", "sha256:a", "sha256:b", "CC0"),
        seed=7,
        sampler="euler",
        sampler_steps=8,
        guidance=2.0,
        conditioning=ConditioningRecord((("hippocampus-volume", 3100.5, "mm3"),), ("hippocampus-volume",), ("prior-image",)),
        environment=ExecutionEnvironment((("torch", "2"),), "cpu", 2, "AVX2"),
        generated_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Volume | GeneratedVolume):
        return all(_same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_kept_volume_comes_back_bit_for_bit(generated: GeneratedVolume, tmp_path: Path, with_labels: bool) -> None:
    kept = generated if with_labels else replace(generated, label_map=None, guidance={"prior-image": 2.5})
    path = tmp_path / "generated.npz"
    save(path, GENERATED_VOLUME, kept)
    assert _same(GENERATED_VOLUME.read(path), kept)


def test_what_is_kept_once_is_not_made_again(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path / "job")
    assert folder.once("result", BYTES, lambda: b"first") == b"first"
    assert folder.once("result", BYTES, lambda: b"second") == b"first"
    assert (tmp_path / "job").stat().st_mode & 0o077 == 0


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path / "job")

    def die() -> bytes:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        folder.once("result", BYTES, die)
    with pytest.raises(TypeError):
        folder.once("result", BYTES, lambda: "no bytes")  # type: ignore[arg-type, return-value]
    assert list((tmp_path / "job").iterdir()) == []
