"""Every kind of object that we publish at a real PACS: taken, kept, given back as it was, and still verified."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.calling.sending import store
from dicom_node.reading import read_volume
from dicom_node.writing import ImageForm, SummaryForm
from provenance.signing import SigningKey
from provenance.verification import verify_series
from tests.builders_objects import signed_objects, written_objects
from tests.peers.orthanc import Orthanc, running_orthanc

KEY = SigningKey.generate()
SETS = [
    ("MR", ImageForm.CLASSIC, SummaryForm.PDF),
    ("MR", ImageForm.ENHANCED, SummaryForm.SR),
    ("CT", ImageForm.CLASSIC, SummaryForm.SR),
    ("CT", ImageForm.ENHANCED, SummaryForm.PDF),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    folder: Path = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, dicom_port=free_port(), http_port=free_port(), node_port=free_port()) as running:
        yield running


@pytest.mark.requirement("DICOM-OBJ-009")
@pytest.mark.parametrize(("modality", "image", "summary"), SETS)
def test_orthanc_takes_and_gives_back_everything(
    orthanc: Orthanc, modality: str, image: ImageForm, summary: SummaryForm
) -> None:
    request_id = f"{modality}-{image.value}"
    sent = signed_objects(KEY, written_objects(modality, image, summary, request_id), request_id)
    assert store(orthanc.peer, sent) == len(sent)
    kept = _study(orthanc, str(sent[0].StudyInstanceUID))
    assert {ds.SOPInstanceUID for ds in kept} == {ds.SOPInstanceUID for ds in sent}
    assert {ds.Modality for ds in kept} == {modality, "SEG", {SummaryForm.PDF: "DOC", SummaryForm.SR: "SR"}[summary]}
    report = verify_series(kept, KEY.public_jwks())
    assert report.verdict, report.to_json()
    images = [ds for ds in kept if ds.Modality == modality]
    assert (read_volume(images).array == read_volume([ds for ds in sent if ds.Modality == modality]).array).all()


def _study(orthanc: Orthanc, study_uid: str) -> list[Dataset]:
    found = orthanc.post("/tools/find", {"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}})
    return [dcmread(io.BytesIO(orthanc.file(instance))) for instance in found]
