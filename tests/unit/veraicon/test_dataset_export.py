from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.objects.file_set import UNFINISHED
from dicom_node.objects.label_map import read_label_map
from dicom_node.reading import read_volume
from dicom_node.writing import ImageForm
from domain.errors import ConfigurationError, RequestInvalid, StorageExhausted, UnreadableInstance, UnsupportedSeries
from domain.volume import Volume
from tests.builders_dataset import make_manifest, make_member
from tests.builders_objects import labelled_phantom, written_objects
from veraicon.datasets.as_bids import BidsWriter
from veraicon.datasets.layout import listed_files
from veraicon.datasets.nifti import image_to_nifti, labels_to_nifti
from veraicon.datasets.staging import staged

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _read(content: bytes, folder: Path) -> nibabel.Nifti1Image:
    path = folder / "read.nii.gz"
    path.write_bytes(content)
    return nibabel.load(path)


def _same_places(image: nibabel.Nifti1Image, volume: Volume) -> None:
    """Every voxel has the value and the millimetres that DICOM gives it."""
    data = np.asarray(image.dataobj)
    assert np.array_equal(data.transpose(2, 1, 0), volume.array)
    for slice_, row, column in ((0, 0, 0), (1, 2, 1), tuple(n - 1 for n in volume.shape)):
        lps = volume.affine_lps @ (slice_, row, column, 1)
        ras = image.affine @ (column, row, slice_, 1)
        assert _LPS_FROM_RAS @ ras == pytest.approx(lps, abs=1e-4)


@pytest.mark.requirement("PROV-EXPORT-001")
@pytest.mark.parametrize("form", list(ImageForm))
def test_nifti_keeps_the_oblique_geometry_of_dicom_and_its_labels(form: ImageForm, tmp_path: Path) -> None:
    written = written_objects(image=form)
    volume = read_volume(written["images"])
    image = _read(image_to_nifti(volume, "SYNTHETIC"), tmp_path)
    _same_places(image, volume)
    assert image.header["descrip"].tobytes().startswith(b"SYNTHETIC")
    assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
    assert image.get_qform() == pytest.approx(image.affine, abs=1e-4)
    labels, named = read_label_map(written["segmentation"][0], volume)
    assert named == ((1, "hippocampus anterior"), (2, "hippocampus posterior"))
    assert np.array_equal(labels, labelled_phantom().label_map)
    again = _read(labels_to_nifti(labels, volume.affine_lps, "SYNTHETIC"), tmp_path)
    assert np.array_equal(np.asarray(again.dataobj).transpose(2, 1, 0), labels)
    assert again.affine == pytest.approx(image.affine)


@pytest.mark.requirement("PROV-EXPORT-001")
@settings(max_examples=40, deadline=None)
@given(st.floats(-60, 60), st.floats(-60, 60), st.permutations([0, 1, 2]), st.tuples(*[st.floats(0.3, 3)] * 3), st.booleans())
def test_nifti_keeps_any_orientation(tmp_path_factory, first, second, order, spacing, mirrored) -> None:
    turns = []
    for axis, degrees in ((0, first), (2, second)):
        turn = np.eye(3)
        a, b = [one for one in range(3) if one != axis]
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        turns.append(turn)
    affine = np.eye(4)
    affine[:3, :3] = turns[0] @ turns[1] @ np.eye(3)[:, order] * spacing
    affine[:3, 0] *= -1 if mirrored else 1
    affine[:3, 3] = (10.5, -20.25, 30)
    volume = Volume(np.random.default_rng(1).random((3, 4, 5), np.float32), affine, "1.2", "MR")
    _same_places(_read(image_to_nifti(volume, "x"), tmp_path_factory.getbasetemp()), volume)


def test_the_same_volume_gives_the_same_bytes_and_whole_numbers_stay_small() -> None:
    volume = read_volume(written_objects()["images"])
    assert image_to_nifti(volume, "x") == image_to_nifti(volume, "x")
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(__import__("gzip").decompress(image_to_nifti(volume, "x"))))
    assert header.get_data_dtype() in (np.int16, np.float32)
    whole = Volume(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4), "1.2", "MR")
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(__import__("gzip").decompress(image_to_nifti(whole, "x"))))
    assert header.get_data_dtype() == np.int16


def test_labels_on_another_grid_are_refused() -> None:
    written = written_objects()
    volume = read_volume(written["images"])
    moved = volume.affine_lps.copy()
    moved[0, 3] += 0.4
    with pytest.raises(UnsupportedSeries, match="does not fit"):
        read_label_map(written["segmentation"][0], Volume(volume.array, moved, volume.frame_of_reference_uid, "MR"))


@pytest.mark.requirement("PROV-EXPORT-003")
def test_an_interrupted_export_goes_on_and_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target, made = tmp_path / "out", []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode()

    def interrupted() -> None:
        with staged(target, "sha") as staging:
            staging.once("a/one", lambda: make("one"))
            (staging.folder / "a" / ".unfinished-half").write_bytes(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not target.exists()
    with staged(target, "sha") as staging:
        for name in ("one", "two"):
            staging.once(f"a/{name}", lambda name=name: make(name))
    assert made == ["one", "two"]
    assert sorted(path.name for path in target.rglob("*")) == ["a", "one", "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.requirement("PROV-EXPORT-003")
def test_a_name_that_is_taken_a_full_disk_and_a_second_process_are_named(tmp_path: Path, monkeypatch) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(RequestInvalid, match="not empty"), staged(taken, "sha"):
        pass
    with staged(tmp_path / "out", "sha"), pytest.raises(RequestInvalid, match="under way"), staged(tmp_path / "out", "sha"):
        pass

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageExhausted, match="full"), staged(tmp_path / "other", "sha") as staging:
        staging.once("one", lambda: b"1")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"), staged(tmp_path / "file" / "below", "sha"):
        pass


@pytest.mark.requirement("PROV-EXPORT-001")
def test_what_a_killed_process_left_in_the_folder_is_not_handed_over(tmp_path: Path) -> None:
    target = tmp_path / "out"
    left = tmp_path / ".out.identity.part" / f"{UNFINISHED}of-a-file-set" / "PT000000"
    left.mkdir(parents=True)
    (left / "IM000000").write_bytes(b"half")
    assert not listed_files(left.parent.parent), "nor is it listed as exported"
    with staged(target, "identity") as staging:
        staging.once("whole", lambda: b"whole")
    assert [path.name for path in target.rglob("*")] == ["whole"]


@pytest.mark.requirement("PROV-EXPORT-003")
def test_what_cannot_be_read_is_not_told_as_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    with pytest.raises(UnreadableInstance, match="cannot be read"), staged(tmp_path / "one", "sha") as staging:
        staging.once("image", lost.read_bytes)
    with pytest.raises(UnreadableInstance, match="cannot be read"), staged(tmp_path / "two", "sha"):
        shutil.copyfile(lost, tmp_path / "copied")
    with pytest.raises(ConfigurationError, match="cannot be written"), staged(tmp_path / "three", "sha") as staging:
        (staging.folder / "no-such" / "file").write_bytes(b"")
    with pytest.raises(StorageExhausted, match="full"), staged(tmp_path / "four", "sha"):
        raise OSError(errno.ENOSPC, "no space", str(lost))


@pytest.mark.requirement("PROV-EXPORT-001")
def test_a_folder_with_images_of_people_is_not_called_synthetic(tmp_path: Path) -> None:
    members = make_manifest([make_member("a", 1), make_member("a", 0, source=True)]).members
    writer = BidsWriter(make_manifest(members), None, "T1w")  # type: ignore[arg-type]  # nothing is read
    told = {}
    for count in (1, 2):
        chosen = sorted(members, key=lambda one: one.kind.value)[:count]
        about = writer._description("set", "raw", chosen)
        told[about["SyntheticData"]] = about["GeneratedBy"][0]["Description"]
    assert told[True].startswith("SYNTHETIC")
    assert told[False].startswith("1 of 2 volumes are synthetic")
