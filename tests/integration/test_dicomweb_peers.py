"""Our DICOMweb client and server against Orthanc's DICOMweb plugin, each calling the other."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.web.multipart import PartBegan, PartData
from dicom_node.web.peer import WebPeer, probe, retrieve_series, search, store
from dicom_node.writing import write_series
from domain.errors import PeerAnswerInvalid, PeerError, PeerRefused, PeerUnreachable, PublicationError
from tests.builders_dicom import generated_phantom, part10_series, series_datasets, series_identity, source_series
from tests.peers.http_stub import answering, stub
from tests.peers.orthanc import Orthanc, running_dicomweb_orthanc
from tests.peers.web_server import serving
from veraicon.destinations import DicomWebDestination
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site


@pytest.fixture
def orthanc(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    with running_dicomweb_orthanc(tmp_path / "orthanc", free_port) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    token = {"token": "letmein"}
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1}, http=token)) as opened:
        yield opened


def _peer(orthanc: Orthanc) -> WebPeer:
    return WebPeer("orthanc", f"{orthanc.url}/dicom-web/", timeout_s=20.0)


def _retrieved(peer: WebPeer, study: str, series: str) -> list[bytes]:
    parts: list[bytes] = []
    for event in retrieve_series(peer, study, series):
        if isinstance(event, PartBegan):
            parts.append(b"")
        elif isinstance(event, PartData):
            parts[-1] += event.data
    return parts


@pytest.mark.requirement("DICOM-WEB-011")
def test_a_series_is_stored_found_and_fetched_at_orthanc(orthanc: Orthanc, data_folder: Callable[[str], Path]) -> None:
    peer = _peer(orthanc)
    probe(peer)
    paths = sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm"))
    datasets = [dcmread(path) for path in paths]
    assert store(peer, datasets) == len(datasets)
    assert store(peer, datasets) == len(datasets), "a repeat is harmless"
    series = str(datasets[0].SeriesInstanceUID)
    study = str(datasets[0].StudyInstanceUID)
    found = search(peer, "SERIES", {"SeriesInstanceUID": series}, study_uid=study, fields=["SeriesDescription"])
    assert [one.SeriesInstanceUID for one in found] == [series]
    assert len(search(peer, "IMAGE", {}, study_uid=study, series_uid=series)) == found[0].NumberOfSeriesRelatedInstances
    sent = {str(ds.SOPInstanceUID): ds for ds in datasets if ds.SeriesInstanceUID == series}
    for data in _retrieved(peer, study, series):
        ds = dcmread(io.BytesIO(data))
        original = sent.pop(str(ds.SOPInstanceUID))
        assert ds.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert ds.PixelData == original.PixelData
    assert not sent
    with pytest.raises(PeerRefused, match="404"):
        _retrieved(peer, study, "1.2.3.4")


@pytest.mark.requirement("DICOM-WEB-011")
def test_a_generated_series_is_published_to_a_pacs_that_speaks_only_dicomweb(orthanc: Orthanc) -> None:
    instances = write_series(generated_phantom(), series_identity(), source=source_series())
    receipt = DicomWebDestination(_peer(orthanc)).accept(instances)
    assert (receipt.destination, receipt.protocol, receipt.instances) == ("orthanc", "dicomweb", len(instances))
    held = [dcmread(io.BytesIO(orthanc.file(one))) for one in orthanc.get("/instances")]
    assert {ds.PixelData for ds in held} == {ds.PixelData for ds in instances}


@pytest.mark.requirement("DICOM-WEB-010")
def test_orthanc_stores_to_us_searches_us_and_retrieves_from_us(
    orthanc: Orthanc, site: Site, data_folder: Callable[[str], Path], free_port: Callable[[], int]
) -> None:
    paths = sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm"))
    for path in paths[:5]:
        httpx.post(f"{orthanc.url}/instances", content=path.read_bytes(), timeout=20).raise_for_status()
    for data in part10_series(3, name="ours"):
        site.archive.land(data, source="PACS")
    ours = series_datasets(1, name="ours")[0]
    with serving(site, free_port()) as url:
        server = {"Url": f"{url}/", "HttpHeaders": {"Authorization": "Bearer letmein"}}
        httpx.put(f"{orthanc.url}/dicom-web/servers/veraicon", json=server, timeout=20).raise_for_status()
        calls = "/dicom-web/servers/veraicon"
        sent = orthanc.post(f"{calls}/stow", {"Resources": orthanc.get("/instances"), "Synchronous": True})
        assert int(sent["InstancesCount"]) == 5
        for path in paths[:5]:
            ds = dcmread(path)
            (reference,) = site.archive.references({"SOPInstanceUID": [str(ds.SOPInstanceUID)]})
            assert site.archive.read(reference).PixelData == ds.PixelData
        listed = orthanc.post(f"{calls}/qido", {"Uri": "/studies", "Arguments": {"PatientID": "P-1"}})
        assert len(listed) == 1
        orthanc.post(f"{calls}/retrieve", {"Resources": [{"Study": str(ours.StudyInstanceUID)}], "Synchronous": True})
    fetched = [dcmread(io.BytesIO(orthanc.file(one))) for one in orthanc.get("/instances")]
    pixels = {ds.PixelData for ds in fetched if ds.SeriesInstanceUID == ours.SeriesInstanceUID}
    assert pixels == {ds.PixelData for ds in series_datasets(3, name="ours")}


@pytest.mark.requirement("DICOM-WEB-013")
def test_our_client_and_our_server_understand_each_other_and_the_token_is_needed(
    site: Site, free_port: Callable[[], int]
) -> None:
    datasets = series_datasets(3)
    study, series = str(datasets[0].StudyInstanceUID), str(datasets[0].SeriesInstanceUID)
    with serving(site, free_port()) as url:
        with pytest.raises(PeerRefused, match="401"):
            probe(WebPeer("us", url))
        peer = WebPeer("us", url, token="letmein")
        assert "letmein" not in repr(peer)
        assert store(peer, datasets) == 3
        assert sorted(_retrieved(peer, study, series)) == sorted(to_part10(ds) for ds in datasets)
        changed = series_datasets(3)
        changed[1].PatientName = "Other^Bytes"
        with pytest.raises(PublicationError, match="2 of 3 instances stored by us: 1 with 0x0111"):
            store(peer, changed)


@pytest.mark.requirement("DICOM-WEB-012")
@pytest.mark.parametrize(
    ("status", "content_type", "body", "error"),
    [
        (503, "text/plain", b"", PeerUnreachable),
        (403, "text/plain", b"", PeerRefused),
        (200, "text/html", b"<html>", PeerAnswerInvalid),
        (200, "application/dicom+json", b"{", PeerAnswerInvalid),
        (200, "application/dicom+json; charset=utf-8", b"{}", PeerAnswerInvalid),
    ],
)
def test_a_peer_that_answers_something_else_is_told_by_kind(
    status: int, content_type: str, body: bytes, error: type[PeerError]
) -> None:
    with stub(answering(status, content_type, body)) as url:
        peer = WebPeer("stub", url, timeout_s=5.0)
        with pytest.raises(error):
            store(peer, series_datasets(1))
        with pytest.raises(error):
            _retrieved(peer, "1.2", "1.2.3")


@pytest.mark.requirement("DICOM-WEB-012")
def test_an_answer_that_breaks_off_and_a_silent_peer_are_unreachable(free_port: Callable[[], int]) -> None:
    data = part10_series(1)[0]
    body = b"--b\r\n\r\n" + data
    study = str(series_datasets(1)[0].StudyInstanceUID)
    with (
        stub(answering(200, 'multipart/related; type="application/dicom"; boundary=b', body, length=10**6)) as url,
        pytest.raises(PeerUnreachable),
    ):
        _retrieved(WebPeer("stub", url, timeout_s=5.0), study, "1.2.3")
    with pytest.raises(PeerUnreachable):
        probe(WebPeer("nobody", f"http://127.0.0.1:{free_port()}", timeout_s=2.0))


@pytest.mark.requirement("DICOM-WEB-012")
def test_a_refusal_of_every_instance_names_count_and_reason() -> None:
    ds = series_datasets(1)[0]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = ds.SOPClassUID, ds.SOPInstanceUID, 0x0122
    told = Dataset()
    told.FailedSOPSequence = [item]
    with (
        stub(answering(409, "application/dicom+json; charset=utf-8", told.to_json().encode())) as url,
        pytest.raises(PublicationError, match="0 of 1 instances stored by stub: 1 with 0x0122"),
    ):
        store(WebPeer("stub", url, timeout_s=5.0), [ds])
