from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from domain.errors import ConfigurationError
from generators.augmentation import bent
from generators.mirroring import with_mirrored
from generators.recipes import STROKE_LESION
from generators.stroke_data import COLUMNS, GRID, PRIOR_STROKE, SEXES, SPACING_MM, TERRITORIES, halved, read_lesions
from generators.training_set import TrainingSet
from multimodal.picking import concept_of
from veraicon.training_texts import OTHER_FACTS, ways_to_say

_SHAPE = (21, 24, 18)  # left to right, back to front, bottom to top: the axes of the real files
_AFFINE = np.array([[-1.0, 0, 0, 10], [0, 1, 0, -12], [0, 0, 1, -9], [0, 0, 0, 1]])
_HEADINGS = [
    "participant_id",
    "sex",
    "age",
    "race",
    "acuteischaemicstroke",
    "priorstroke",
    "bmi",
    "nihss",
    "gs_rankin_6isdeath",
]
_PEOPLE = 10


def _write(path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, _AFFINE), path)


def _mask(number: int) -> np.ndarray:
    """Return a lesion of `number` + 1 voxels in the right half (of the patient: low first index), at the front."""
    mask = np.zeros(_SHAPE, np.uint8)
    mask[1, 20, 2 : 3 + number] = 1
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "NIfTI").mkdir()
    atlas = np.zeros(_SHAPE, np.int16)
    atlas[:10], atlas[10:], atlas[:, :6] = 8, 7, 31  # frontal pars of the middle cerebral artery by side; a ventricle behind
    _write(tmp_path / "ArterialAtlas136.nii.gz", atlas)
    names = "7|MCAFL|frontal pars left|3\n8|MCAFR|frontal pars right|4\n31|LVL|ventricle left|9\n"
    (tmp_path / "ArterialAtlas136.txt").write_text(names)
    rows = [_HEADINGS]
    for number in range(_PEOPLE):
        _write(tmp_path / "NIfTI" / f"bwsrsub-{number}_lesion.nii.gz", _mask(number))
        rows.append([f"sub-{number}", "F", str(40.0 + number), "w", "1.0", "1.0", "n/a", f"{number}.0", "n/a"])
    _write_table(tmp_path, rows)
    return tmp_path


def _write_table(folder: Path, rows: list[list[str]]) -> None:
    (folder / "participants.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def _change_row(folder: Path, number: int, **entries: str) -> None:
    rows = [line.split("\t") for line in (folder / "participants.tsv").read_text().splitlines()]
    for heading, entry in entries.items():
        rows[number + 1][_HEADINGS.index(heading)] = entry
    _write_table(folder, rows)


def _told(cases: TrainingSet, index: int) -> dict[str, float | str]:
    facts = cases.facts
    numbers = {kind: float(n) for kind, n in zip(facts.kinds, facts.numbers[index], strict=True) if not n.isnan()}
    answers = {kind: facts.texts[a] for kind, a in zip(facts.kinds, facts.answers[index].tolist(), strict=True) if a >= 0}
    assert not numbers.keys() & answers.keys()
    return numbers | answers


def _all_told(parts: dict[str, TrainingSet]) -> dict[float, dict[str, float | str]]:
    told = [_told(part, index) for part in parts.values() for index in range(len(part))]
    return {float(one.get("nihss", -1)): one for one in told}


def test_people_are_split_the_same_way_each_time_and_nobody_is_in_two_parts(folder: Path) -> None:
    def people(seed: int) -> list[list[float]]:
        parts = read_lesions(folder, seed=seed)
        return [part.facts.numbers[:, part.facts.kinds.index("nihss")].tolist() for part in parts.values()]

    assert [len(part) for part in people(4)] == [7, 1, 2]
    assert sorted(number for part in people(4) for number in part) == list(range(_PEOPLE))
    assert people(4) == people(4) != people(5)


def test_what_the_table_says_is_told_and_what_it_does_not_say_stays_unknown(folder: Path) -> None:
    _change_row(folder, 3, sex="M", age="89+", priorstroke="0.0", bmi="31.5", gs_rankin_6isdeath="6.0")
    told = _all_told(read_lesions(folder))
    measured = {"arterial-territory": "right middle cerebral artery", "stroke-lesion-volume": 8}
    assert told[2] == {"age": 42, "sex": "female", "nihss": 2, "prior-stroke": "yes"} | measured
    assert (
        told[3]
        == {
            "age": 89,
            "sex": "male",
            "nihss": 3,
            "modified-rankin": 6,
            "bmi": 31.5,
            "prior-stroke": "no",
        }
        | measured
    )


def test_a_person_without_a_row_trains_with_what_is_measured_alone(folder: Path) -> None:
    lines = (folder / "participants.tsv").read_text().splitlines(keepends=True)
    (folder / "participants.tsv").write_text("".join(lines[:1] + lines[2:]))
    assert _all_told(read_lesions(folder))[-1] == {
        "arterial-territory": "right middle cerebral artery",
        "stroke-lesion-volume": 8,
    }


def test_the_territory_is_where_most_of_the_lesion_lies_and_ventricles_are_none(folder: Path) -> None:
    most_left = np.zeros(_SHAPE, np.uint8)
    most_left[8:14, 10, 10] = 1  # two voxels on the right, four on the left
    _write(folder / "NIfTI" / "bwsrsub-0_lesion.nii.gz", most_left)
    ventricle = np.zeros(_SHAPE, np.uint8)
    ventricle[5, 2, 2] = 1
    _write(folder / "NIfTI" / "bwsrsub-1_lesion.nii.gz", ventricle)
    told = _all_told(read_lesions(folder))
    assert told[0]["arterial-territory"] == "left middle cerebral artery"
    assert "arterial-territory" not in told[1]


def test_lesions_lie_centred_on_the_grid_in_patient_axes(folder: Path) -> None:
    part = read_lesions(folder)["test"]
    assert part.labels.shape == (2, *GRID)
    assert part.labels.dtype == torch.uint8
    assert part.images is None
    assert part.extents.tolist() == [[9, 12, 11]] * 2
    assert part.partner.tolist() == [-1, -1]
    # The lesion is at the right front, low down: few columns, few rows, few slices, counted from the crop's corner.
    slices, rows, columns = (index.min().item() for index in part.labels[0].nonzero(as_tuple=True))
    corner = [(n - have) // 2 for n, have in zip(GRID, (9, 12, 11), strict=True)]
    assert (slices - corner[0], rows - corner[1], columns - corner[2]) == (1, 1, 0)


@pytest.mark.parametrize("voxels", [1, 3, 8, 100, 999])
def test_halving_keeps_volume_and_loses_no_lesion(voxels: int) -> None:
    rng = np.random.default_rng(voxels)
    mask = np.zeros((13, 14, 15), np.uint8)
    mask.flat[rng.permutation(mask.size)[:voxels]] = 1  # scattered: no new voxel is half full
    half = halved(mask)
    assert half.shape == (7, 7, 8)
    assert half.sum() == max(1, round(voxels / 8))


def test_halving_leaves_a_block_where_it_was() -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:6, 4:8, 0:2] = 1
    assert np.array_equal(np.argwhere(halved(mask)), np.argwhere(mask[::2, ::2, ::2]))


def test_a_bent_lesion_keeps_its_volume_even_where_it_is_small() -> None:
    labels = torch.zeros(16, 24, 16, dtype=torch.uint8)
    labels[8, 12, 8:11] = 1
    rng = torch.Generator().manual_seed(0)
    forms = [bent(torch.zeros(1, *labels.shape), labels, torch.tensor([15, 23, 16]), rng)[1] for _ in range(20)]
    assert {int(form.sum()) for form in forms} == {3}
    assert len({tuple(form.flatten().nonzero().flatten().tolist()) for form in forms}) > 5
    assert not torch.stack(forms)[:, 15].any()  # outside its own extent there is nothing


def test_mirrored_cases_follow_with_the_other_side_in_lesion_and_words(folder: Path) -> None:
    part = read_lesions(folder)["train"]
    both = with_mirrored(part)
    count, odd = len(part), 11
    start = (GRID[2] - odd) // 2
    crop = both.labels[..., start : start + odd]
    assert torch.equal(crop[count:], crop[:count].flip(-1))
    assert int(both.labels[count:].sum()) == int(part.labels.sum())
    one, other = _told(both, 0), _told(both, count)
    assert one == _told(part, 0)
    assert other == one | {"arterial-territory": "left middle cerebral artery"}
    assert torch.equal(with_mirrored(both).labels[3 * count :], part.labels)


def test_mirrored_images_and_partners_go_with_their_labels(folder: Path) -> None:
    part = read_lesions(folder)["test"]
    part = replace(part, images=part.labels.unsqueeze(1).float(), partner=torch.tensor([1, -1]))
    both = with_mirrored(part)
    assert both.images is not None
    assert torch.equal(both.images[:, 0], both.labels.float())
    assert both.partner.tolist() == [1, -1, 3, -1]


@pytest.mark.parametrize(
    ("entries", "named"), [({"sex": "X"}, "sex"), ({"nihss": "many"}, "nihss"), ({"age": "60+"}, "age")], ids=str
)
def test_an_entry_that_cannot_be_read_is_refused_by_its_column(folder: Path, entries: dict[str, str], named: str) -> None:
    _change_row(folder, 5, **entries)
    with pytest.raises(ConfigurationError, match=named):
        read_lesions(folder)


@pytest.mark.parametrize("name", ["participants.tsv", "ArterialAtlas136.nii.gz", "ArterialAtlas136.txt"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigurationError, match=name):
        read_lesions(folder)


@pytest.mark.parametrize("shape", [_SHAPE, (20, 24, 18)], ids=["empty", "other space"])
def test_a_mask_that_is_empty_or_in_another_space_is_refused(folder: Path, shape: tuple[int, int, int]) -> None:
    _write(folder / "NIfTI" / "bwsrsub-4_lesion.nii.gz", np.full(shape, shape != _SHAPE, np.uint8))
    with pytest.raises(ConfigurationError, match="bwsrsub-4"):
        read_lesions(folder)


def test_columns_are_concepts_of_the_encoder_in_its_words_and_units() -> None:
    for column, unit in zip(COLUMNS, STROKE_LESION.units, strict=True):
        concept = concept_of(column.kind)
        assert (concept.modality, concept.unit) == (column.modality, unit)
        assert set(column.answers.values() if column.answers else ()) == set(concept.answers)
    assert (STROKE_LESION.grid, STROKE_LESION.spacing_mm) == (GRID, SPACING_MM)
    assert len({*SEXES.values(), *PRIOR_STROKE.values(), *TERRITORIES}) == 12


def test_every_concept_has_several_wordings_and_none_is_an_unrelated_fact() -> None:
    said = [text for column in COLUMNS for text in ways_to_say(column.kind)]
    assert all(len(ways_to_say(column.kind)) >= 3 for column in COLUMNS)
    assert all(ways_to_say(column.kind)[0] == concept_of(column.kind).display for column in COLUMNS)
    assert len(set(said)) == len(said)
    assert not set(said) & set(OTHER_FACTS)


def test_real_lesions_are_read_whole(data_folder: Callable[[str], Path], tmp_path: Path) -> None:
    real = data_folder("imaging/soop_lesions")
    (tmp_path / "NIfTI").mkdir()
    for name in ("participants.tsv", "ArterialAtlas136.nii.gz", "ArterialAtlas136.txt"):
        (tmp_path / name).symlink_to(real / name)
    for path in sorted((real / "NIfTI").glob("*.nii.gz"))[:20]:
        (tmp_path / "NIfTI" / path.name).symlink_to(path)
    parts = read_lesions(tmp_path)
    assert [len(part) for part in parts.values()] == [14, 2, 4]
    for part in parts.values():
        assert part.extents.tolist() == [[68, 95, 79]] * len(part)
        left = part.labels[..., GRID[2] // 2 :].sum((1, 2, 3)) > part.labels.sum((1, 2, 3)) / 2  # columns run to the left
        assert left.any() or len(part) < 5
        for index in range(len(part)):
            told = _told(part, index)
            assert told.keys() >= {"age", "sex", "nihss", "arterial-territory"}
            assert str(told["arterial-territory"]).startswith("left") == bool(left[index])
