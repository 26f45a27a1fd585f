"""File-sets: listed in a DICOMDIR that others read, with the bytes of the files as they were."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.holding.files import to_part10
from dicom_node.objects.file_set import UNFINISHED, write_file_set
from dicom_node.writing import ImageForm, SummaryForm
from domain.errors import RequestInvalid, UnreadableInstance
from tests.builders_dicom import part10_series, series_datasets
from tests.builders_objects import written_objects


def save(folder: Path, contents: list[bytes]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(content)
    return paths


@pytest.mark.requirement("DICOM-MEDIA-001")
@pytest.mark.parametrize("image", ImageForm)
@pytest.mark.parametrize("summary", SummaryForm)
def test_everything_that_a_request_publishes_is_listed_with_its_bytes(
    tmp_path: Path, image: ImageForm, summary: SummaryForm
) -> None:
    contents = [to_part10(ds) for instances in written_objects("MR", image, summary).values() for ds in instances]
    assert write_file_set(save(tmp_path / "in", contents), tmp_path / "out") == len(contents)
    records = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
    listed = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
    assert {(tmp_path / "out").joinpath(*parts).read_bytes() for parts in listed} == set(contents)
    assert all(len(part) <= 8 and part.isalnum() and part.isupper() for parts in listed for part in parts)
    kinds = [record.DirectoryRecordType for record in records]
    assert kinds.count("SERIES") == 3
    assert set(kinds) == {"PATIENT", "STUDY", "SERIES", "IMAGE", {"pdf": "ENCAP DOC", "sr": "SR DOCUMENT"}[summary.value]}


@pytest.mark.requirement("DICOM-MEDIA-001")
def test_the_same_files_in_any_order_make_the_same_file_set(tmp_path: Path) -> None:
    paths = save(tmp_path / "in", part10_series(5) + part10_series(3, name="other"))
    write_file_set(paths, tmp_path / "one")
    write_file_set(reversed([*paths, paths[0]]), tmp_path / "two")
    made = [
        {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (tmp_path / "one", tmp_path / "two")
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 9


def test_a_number_that_is_missing_is_made_up_in_the_directory_alone(tmp_path: Path) -> None:
    paths = save(tmp_path / "in", part10_series(2))
    assert "StudyID" not in dcmread(paths[0])
    write_file_set(paths, tmp_path / "out")
    records = dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
    assert next(record for record in records if record.DirectoryRecordType == "STUDY").StudyID == "0"
    assert {path.read_bytes() for path in (tmp_path / "out").rglob("IM*")} == {path.read_bytes() for path in paths}


@pytest.mark.requirement("DICOM-MEDIA-001")
def test_what_cannot_be_listed_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    datasets = series_datasets(2)
    del datasets[1].StudyDate
    paths = save(tmp_path / "in", [to_part10(ds) for ds in datasets])
    with pytest.raises(UnreadableInstance, match="without StudyDate"):
        write_file_set(paths, tmp_path / "out")
    paths[1].write_bytes(b"no DICOM")
    with pytest.raises(UnreadableInstance, match="does not parse"):
        write_file_set(paths, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_refuses_a_folder_in_use_and_nothing_to_write(tmp_path: Path) -> None:
    paths = save(tmp_path / "in", part10_series(2))
    with pytest.raises(RequestInvalid, match="not empty"):
        write_file_set(paths, tmp_path / "in")
    with pytest.raises(RequestInvalid, match="no instance"):
        write_file_set([], tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert write_file_set(paths, tmp_path / "out") == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from dicom_node.objects import file_set
copy = file_set.shutil.copyfile
def dies(source, target):
    copy(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
file_set.shutil.copyfile = dies
file_set.write_file_set(sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]))
"""


@pytest.mark.requirement("DICOM-MEDIA-001")
def test_what_a_killed_process_left_is_gone_after_the_next_try(tmp_path: Path) -> None:
    paths = save(tmp_path / "in", part10_series(2))
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "in"), str(tmp_path / "out")], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = [path for path in tmp_path.iterdir() if path.name != "in"]
    assert left.name.startswith(UNFINISHED)
    assert list(left.rglob("IM*")), "it was killed in the middle"
    (left / "torn").touch()
    write_file_set(paths, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert not (tmp_path / "out" / "torn").exists()


def test_a_second_process_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    paths = save(tmp_path / "in", part10_series(2))
    first = tmp_path / f"{UNFINISHED}out"
    first.mkdir()
    (first / "kept").touch()
    lock = os.open(first, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(RequestInvalid, match="under way"):
        write_file_set(paths, tmp_path / "out")
    assert (first / "kept").exists()
    os.close(lock)
