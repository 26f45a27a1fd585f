from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from domain.clinical import ClinicalFact, Coding
from domain.errors import DeviceExhausted, JobError, NonFiniteOutput, RequestInvalid, UnsupportedSeries
from domain.generation import ConditioningRecord, GeneratedVolume
from domain.volume import Volume
from generators.cards import read_card
from generators.foundation.generator import MaisiGenerator, load_maisi
from generators.foundation.layout import Layout, read_layout
from generators.foundation.networks import Networks, load_networks
from generators.foundation.told import Told, conditions, from_ras, label_bits, to_ras, untold
from generators.foundation.variants import VARIANTS, Variant, limits_of, require_grid
from multimodal.conditioning import ConditioningTokens
from tests.builders_foundation import series, write_tiny_maisi

_SHAPE = (16, 8, 24)  # slices, rows, columns
_SPACING = (5.0, 3.0, 3.0)


def _small(variant: Variant) -> Variant:
    """Return the variant with one size that a test can afford; the published ones are tested by name."""
    return dataclasses.replace(variant, shapes=((24, 8, 16), (24, 8, 32)), least_plane_mm=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Loaded:
    """Parts of a tiny model, so that a test can put another in the place of one."""

    def __init__(self, folder: Path, name: str, **changes: Any) -> None:
        write_tiny_maisi(folder, name, **changes)
        self.variant = _small(VARIANTS[name])
        card = read_card(folder)
        self.layout: Layout = read_layout(folder, card)
        self.card = dataclasses.replace(card, limits=limits_of(self.variant))
        self.networks = load_networks(folder, self.layout, card, "cpu")

    def generator(self, networks: Networks | None = None, **changes: Any) -> MaisiGenerator:
        layout = dataclasses.replace(self.layout, **changes)
        return MaisiGenerator(self.card, networks or self.networks, layout, self.variant, tile=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, _Loaded]:
    return {name: _Loaded(tmp_path_factory.mktemp(name), name) for name in ("rflow-mr-brain", "rflow-ct", "ddpm-ct")}


def _nothing() -> ConditioningTokens:
    return untold((), VARIANTS["rflow-mr"])


def _generated(generator: MaisiGenerator, *, modality: str = "MR", **changes: Any) -> GeneratedVolume:
    asked: dict[str, Any] = {
        "like": series(_SHAPE, _SPACING, modality), "seed": 3, "guidance": 1.0, "sampler_steps": 2, "threads": 1,
    }  # fmt: skip
    return generator.generate(_nothing(), **{**asked, **changes})


def _labels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    labels = np.zeros(_SHAPE, np.uint8)
    labels[2:, 1:7, 2:10] = 200
    labels[4:8, 2:5, 3:6] = 28  # a lobe of the lung
    labels[9:12, 3:6, 5:8] = 1  # the liver
    return labels


def test_same_seed_gives_the_same_bits_on_the_grid_that_was_asked(models: dict[str, _Loaded]) -> None:
    generator = models["rflow-mr-brain"].generator()
    first, again, other = (_generated(generator, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.volume.array, again.volume.array)
    assert not np.array_equal(first.volume.array, other.volume.array)
    assert first.volume.shape == _SHAPE
    assert first.volume.spacing_mm == pytest.approx(_SPACING)
    assert (first.volume.modality, first.volume.unit, first.label_map) == ("MR", "1", None)
    centre = first.volume.affine_lps @ [*((n - 1) / 2 for n in _SHAPE), 1]
    np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-9)
    assert first.conditioning == ConditioningRecord((), ("contrast:mri", "voxel-spacing"), ())
    assert first.sampler == "rectified-flow-euler"
    assert ("precision", "float32") in first.environment.software


def test_contrast_spacing_and_guidance_each_change_the_volume(models: dict[str, _Loaded]) -> None:
    generator = models["rflow-mr-brain"].generator()
    flair = Told(contrast="mri_flair")
    volumes = [
        _generated(generator),
        _generated(generator, told=flair),
        _generated(generator, told=flair, guidance=8.0),
        _generated(generator, like=series(_SHAPE, (2.0, 3.0, 3.0))),
    ]
    for index, one in enumerate(volumes):
        for other in volumes[:index]:
            assert not np.array_equal(one.volume.array, other.volume.array)
    assert volumes[1].conditioning.used == ("contrast:mri_flair", "voxel-spacing")


def test_networks_json_decides_the_contrast_where_a_request_does_not(models: dict[str, _Loaded]) -> None:
    model = models["rflow-mr-brain"]
    by_default = _generated(model.generator(contrast="mri_flair"))
    told = _generated(model.generator(), told=Told(contrast="mri_flair"))
    assert np.array_equal(by_default.volume.array, told.volume.array)


def test_label_map_is_obeyed_and_kept_and_has_air_around_it(models: dict[str, _Loaded]) -> None:
    generator, labels = models["rflow-ct"].generator(), _labels()
    without = _generated(generator, modality="CT")
    told = _generated(generator, modality="CT", told=Told(label_map=labels))
    moved = _generated(generator, modality="CT", told=Told(label_map=np.roll(labels, 1, axis=2)))
    body = labels > 0
    assert not np.array_equal(told.volume.array[body], without.volume.array[body])
    assert not np.array_equal(told.volume.array[body], moved.volume.array[body])
    assert (told.volume.array[~body] == -1000).all()
    assert np.array_equal(told.label_map, labels)  # type: ignore[arg-type]
    assert told.conditioning.used == ("contrast:ct", "voxel-spacing", "label-map")
    assert told.volume.unit == "[hnsf'U]"


def test_body_regions_come_from_the_request_else_the_label_map_else_the_file(models: dict[str, _Loaded]) -> None:
    model = models["ddpm-ct"]
    like = series(_SHAPE, _SPACING, "CT")
    head = dataclasses.replace(model.layout, regions=("head",))
    asked = conditions(Told(regions=("pelvis", "chest"), label_map=_labels()), like, head, model.variant)
    shown = conditions(Told(label_map=_labels()), like, head, model.variant)
    default = conditions(Told(), like, head, model.variant)
    assert [given.top.tolist() for given in (asked, shown, default)] == [  # type: ignore[union-attr]
        [[0, 100, 0, 0]], [[0, 100, 0, 0]], [[100, 0, 0, 0]]
    ]  # fmt: skip
    assert [given.bottom.tolist() for given in (asked, shown, default)] == [  # type: ignore[union-attr]
        [[0, 0, 0, 100]], [[0, 0, 100, 0]], [[100, 0, 0, 0]]
    ]  # fmt: skip
    assert shown.record.used == (
        "contrast:ct", "voxel-spacing", "body-region:chest", "body-region:abdomen", "label-map"
    )  # fmt: skip
    with pytest.raises(RequestInvalid, match="no body region"):
        conditions(Told(), like, model.layout, model.variant)


def test_ddpm_draws_a_volume_that_its_regions_change(models: dict[str, _Loaded]) -> None:
    generator = models["ddpm-ct"].generator(regions=("chest",))
    chest = _generated(generator, modality="CT", sampler_steps=4)
    pelvis = _generated(generator, modality="CT", sampler_steps=4, told=Told(regions=("pelvis",)))
    assert not np.array_equal(chest.volume.array, pelvis.volume.array)
    assert chest.sampler == "ddim"


def test_spacing_is_told_a_hundredfold_along_right_anterior_superior(models: dict[str, _Loaded]) -> None:
    model = models["rflow-mr-brain"]
    given = conditions(Told(), series(_SHAPE, (5.0, 3.0, 2.0)), model.layout, model.variant)
    torch.testing.assert_close(given.spacing, torch.tensor([[200.0, 300.0, 500.0]]))


def test_publishers_axes_run_to_right_anterior_and_superior() -> None:
    array = np.zeros((3, 4, 5))  # slices to Superior, rows to Posterior, columns to Left
    array[2, 0, 0] = 1  # most superior, most anterior, rightmost
    assert to_ras(array)[4, 3, 2] == 1
    numbered = np.arange(60).reshape(3, 4, 5)
    assert np.array_equal(from_ras(to_ras(numbered)), numbered)


def test_each_label_is_told_as_the_bits_of_its_number() -> None:
    labels = np.array([[[0, 1, 2, 132, 200]]], np.uint8)
    bits = label_bits(labels)[0, :, :, 0, 0].T  # five labels, rightmost first in the publisher's axes
    numbers = (bits.long() * 2 ** torch.arange(8)).sum(1)
    assert numbers.flip(0).tolist() == [0, 1, 2, 132, 200]


def test_series_in_other_axes_is_turned_before_it_is_measured(models: dict[str, _Loaded]) -> None:
    like = series(_SHAPE, _SPACING)
    turned = Volume(like.array.transpose(2, 0, 1), like.affine_lps[:, [2, 0, 1, 3]], "", "MR")
    assert _generated(models["rflow-mr-brain"].generator(), like=turned).volume.shape == _SHAPE


def _tokens(**record: Any) -> ConditioningTokens:
    entries: dict[str, Any] = {"targets": (), "used": (), "missing": ()}
    return dataclasses.replace(_nothing(), record=ConditioningRecord(**{**entries, **record}))


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (_tokens(targets=(("hippocampus-volume", 3000.0, "mm3"),)), "hippocampus-volume"),
        (_tokens(used=("nihss",)), "nihss"),
        (
            ConditioningTokens(
                torch.zeros(1, 2, 4), torch.tensor([[True, True]]), ("prior-image", "null:report"),
                ("prior-image", "report"), ConditioningRecord((), (), ()),
            ),
            "prior-image",
        ),
    ],
)  # fmt: skip
def test_what_the_networks_cannot_be_told_is_refused_with_what_they_can(
    models: dict[str, _Loaded], tokens: ConditioningTokens, named: str
) -> None:
    generator = models["rflow-ct"].generator()
    with pytest.raises(RequestInvalid) as refused:
        generator.generate(tokens, like=series(_SHAPE, _SPACING, "CT"), seed=1, guidance=1.0, sampler_steps=2)
    assert refused.value.found == f"a request that tells rflow-ct {named}"
    for told in ("contrast (ct)", "voxel spacing", "label map"):
        assert told in refused.value.allowed


def test_asked_value_is_refused_before_anything_is_encoded() -> None:
    fact = ClinicalFact((Coding("http://loinc.org", "70184-7"),), "nihss", 12.0, "{score}", datetime.now(UTC), "request")
    with pytest.raises(RequestInvalid, match="rflow-mr-brain nihss"):
        untold((fact,), VARIANTS["rflow-mr-brain"])


@pytest.mark.parametrize(
    ("name", "told", "named"),
    [
        ("rflow-mr-brain", Told(contrast="mri_dwi"), "contrast mri_dwi"),
        ("rflow-mr-brain", Told(regions=("head",)), "body regions"),
        ("rflow-mr-brain", Told(label_map=_labels()), "a label map"),
        ("rflow-ct", Told(label_map=_labels()[1:]), "shape"),
        ("rflow-ct", Told(label_map=np.where(_labels() == 1, 150, _labels()).astype(np.uint8)), r"labels \[150\]"),
        ("rflow-ct", Told(label_map=np.minimum(_labels(), 28)), "without label 200"),
        ("ddpm-ct", Told(regions=("knee",)), "of another name"),
    ],
)
def test_told_values_that_are_unknown_are_refused_by_name(
    models: dict[str, _Loaded], name: str, told: Told, named: str
) -> None:
    modality = VARIANTS[name].modality
    with pytest.raises(RequestInvalid, match=named):
        _generated(models[name].generator(), modality=modality, told=told, sampler_steps=4)


def test_label_map_without_a_control_network_is_refused(tmp_path: Path) -> None:
    model = _Loaded(tmp_path, "rflow-ct", control_file=None)
    with pytest.raises(RequestInvalid, match="no ControlNet"):
        _generated(model.generator(), modality="CT", told=Told(label_map=_labels()))


@pytest.mark.parametrize(
    ("name", "guidance", "steps"),
    [
        ("rflow-mr-brain", 0.5, 2),
        ("rflow-mr-brain", 99.0, 2),
        ("rflow-mr-brain", {"report": 2.0}, 2),
        ("rflow-mr-brain", 1.0, 0),
        ("rflow-mr-brain", 1.0, 1001),
        ("ddpm-ct", 2.0, 4),
        ("ddpm-ct", 1.0, 30),
    ],
)
def test_impossible_sampling_is_refused(models: dict[str, _Loaded], name: str, guidance: Any, steps: int) -> None:
    model = models[name]
    with pytest.raises(RequestInvalid):
        _generated(
            model.generator(), modality=model.variant.modality, guidance=guidance, sampler_steps=steps,
            told=Told(regions=("chest",) if name == "ddpm-ct" else ()),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "named"),
    [
        ("rflow-ct", (137, 512, 512), (2.5, 0.8, 0.8), "128 x 512 x 512"),
        ("rflow-ct", (128, 512, 384), (2.5, 0.8, 0.8), "128 x 384 x 384"),
        ("rflow-ct", (128, 512, 512), (2.5, 0.8, 0.9), "square"),
        ("rflow-ct", (128, 512, 512), (6.0, 0.8, 0.8), "0.5 to 5 mm along the body"),
        ("rflow-ct", (128, 512, 512), (2.0, 4.0, 4.0), "0.5 to 3 mm in the axial plane"),
        ("rflow-ct", (128, 256, 256), (2.0, 0.6, 0.6), "at least 256 mm"),
        ("rflow-mr", (256, 512, 512), (1.0, 0.5, 0.5), "128 x 512 x 512"),
        ("rflow-mr", (128, 256, 256), (1.0, 0.3, 0.5), "0.4 to 5 mm"),
    ],
)
def test_size_that_the_networks_do_not_take_is_refused_with_those_they_do(
    name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float], named: str
) -> None:
    like = Volume(np.broadcast_to(np.float32(0), shape), series((1, 1, 1), spacing).affine_lps, "", VARIANTS[name].modality)
    with pytest.raises(UnsupportedSeries) as refused:
        require_grid(like, VARIANTS[name])
    assert named in refused.value.allowed


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_that_the_publisher_recommends_are_taken(name: str) -> None:
    recommended = {
        "rflow-ct": [((128, 512, 512), (2.981, 0.781, 0.781)), ((512, 512, 512), (1.0, 1.0, 1.0))],
        "ddpm-ct": [((128, 512, 512), (2.422, 0.684, 0.684)), ((256, 256, 256), (1.5, 1.5, 1.5))],
        "rflow-mr": [((256, 256, 128), (1.0, 1.0, 1.25)), ((128, 256, 256), (0.703, 0.664, 0.664))],
        "rflow-mr-brain": [((128, 256, 256), (1.36, 0.94, 0.94)), ((256, 512, 512), (0.7, 0.47, 0.47))],
    }
    for shape, spacing in recommended[name]:
        like = Volume(np.broadcast_to(np.float32(0), shape), series((1, 1, 1), spacing).affine_lps, "", VARIANTS[name].modality)
        assert require_grid(like, VARIANTS[name]) is like
        limits = limits_of(VARIANTS[name])
        assert all(mm in limits.spacing_mm for mm in spacing)
        assert all(extent in span for extent, span in zip(like.field_of_view_mm, limits.field_of_view_mm, strict=True))


def test_series_of_another_modality_is_refused(models: dict[str, _Loaded]) -> None:
    with pytest.raises(UnsupportedSeries, match="modality CT"):
        _generated(models["rflow-mr-brain"].generator(), modality="CT")


class _Answering(nn.Module):
    """An autoencoder that decodes everything to one pattern along Right."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def decode(self, z: Tensor) -> Tensor:
        right, anterior, superior = (4 * n for n in z.shape[2:])
        pattern = torch.tensor(self.values).repeat(right)[:right]
        return pattern.view(1, 1, right, 1, 1).expand(1, 1, right, anterior, superior)


def _answer(model: _Loaded, *values: float) -> GeneratedVolume:
    networks = dataclasses.replace(model.networks, autoencoder=_Answering(*values))
    generator = MaisiGenerator(model.card, networks, model.layout, model.variant)
    return _generated(generator, modality=model.variant.modality)


def test_hounsfield_units_are_the_published_window(models: dict[str, _Loaded]) -> None:
    right_to_left = _answer(models["rflow-ct"], 0.0, 0.5, 1.0, 1.7).volume.array[0, 0]
    assert right_to_left[::-1][:4].tolist() == [-1000, 0, 1000, 1000]
    magnetic = _answer(models["rflow-mr-brain"], -0.2, 0.5, 1.0, 1.7).volume.array[0, 0]
    assert magnetic[::-1][:4].tolist() == pytest.approx([0, 500, 1000, 1700])


@pytest.mark.parametrize("values", [(0.5, float("nan")), (0.5, float("inf")), (0.5,), (-1.0, -2.0)])
def test_nan_infinity_and_constant_volumes_are_never_returned(models: dict[str, _Loaded], values: tuple[float, ...]) -> None:
    with pytest.raises(NonFiniteOutput):
        _answer(models["rflow-ct"], *values)


def test_cancelling_stops_between_two_steps(models: dict[str, _Loaded]) -> None:
    for name, told in (("rflow-mr-brain", Told()), ("ddpm-ct", Told(regions=("chest",)))):
        done: list[int] = []
        with pytest.raises(JobError, match="cancelled"):
            _generated(
                models[name].generator(), modality=models[name].variant.modality, sampler_steps=8, told=told,
                cancelled=lambda done=done: len(done) == 2, progress=lambda step, _steps, done=done: done.append(step),
            )  # fmt: skip
        assert done == [1, 2]


class _Greedy(nn.Module):
    """An autoencoder that wants more memory than there is."""

    def decode(self, z: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_that_runs_out_is_said_by_name(models: dict[str, _Loaded]) -> None:
    model = models["rflow-mr-brain"]
    with pytest.raises(DeviceExhausted, match="too little memory on cpu"):
        _generated(model.generator(dataclasses.replace(model.networks, autoencoder=_Greedy())))


def test_smallest_published_size_runs_from_folder_to_volume(tmp_path: Path) -> None:
    generator = load_maisi(write_tiny_maisi(tmp_path, "rflow-mr", contrast="mri_t2"))
    made = _generated(generator, like=series((128, 128, 128), (1.0, 1.0, 1.0)), sampler_steps=1, guidance=2.0)
    assert made.volume.shape == (128, 128, 128)
    assert made.model.licence == generator.card.licence
    assert made.conditioning.used == ("contrast:mri_t2", "voxel-spacing")
    assert generator.image_latent(made.volume) is None
    assert generator.through_autoencoder(made.volume) is None
