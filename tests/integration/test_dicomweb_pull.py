"""Pulls by DICOMweb: from Orthanc's plugin, from our own server, and from peers that give something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.calling import locating
from dicom_node.calling.remote import PullCounts, RemoteSeries, RemoteStudy
from dicom_node.calling.web import WebRemote
from dicom_node.holding.headers import text_of
from dicom_node.web import query
from dicom_node.web.peer import WebPeer
from domain.errors import (
    IncompleteSeries,
    PeerAnswerInvalid,
    PeerRefused,
    RequestInvalid,
    ResourceNotFound,
    StorageExhausted,
)
from domain.identifiers import derive_uid
from tests.builders_dicom import index_engine, new_archive, part10_series
from tests.peers.http_stub import answering, stub
from tests.peers.orthanc import Orthanc, running_dicomweb_orthanc
from tests.peers.veraicon_site import veraicon_site
from tests.peers.web_server import serving
from veraicon.pulls import Puller
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

SERIES = RemoteSeries(derive_uid("series", "study"), derive_uid("series", "series"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "ours")


@pytest.fixture
def orthanc(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    with running_dicomweb_orthanc(tmp_path / "orthanc", free_port) as running:
        yield running


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Site]:
    token = {"token": "letmein"}
    with open_site(load_settings(storage={"folder": str(tmp_path / "theirs"), "min_free_mib": 1}, http=token)) as opened:
        yield opened


def upload(orthanc: Orthanc, *files: bytes) -> None:
    for data in files:
        httpx.post(f"{orthanc.url}/instances", content=data, timeout=30).raise_for_status()


def study(name: str, day: str, accession: str, count: int = 3, *, patient: str = "P-1") -> list[bytes]:
    def change(ds: Dataset) -> None:
        ds.PatientID, ds.PatientName, ds.StudyDate, ds.AccessionNumber = patient, "Canary^Name", day, accession

    return part10_series(count, name=name, change=change)


@pytest.mark.requirement("DICOM-PULL-007")
def test_each_transfer_syntax_comes_by_wado_as_orthanc_holds_it(
    archive: Archive, orthanc: Orthanc, data_folder: Callable[[str], Path]
) -> None:
    paths = sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm"))
    upload(orthanc, *(path.read_bytes() for path in paths))
    sent = [dcmread(path) for path in paths]
    remote = WebRemote(WebPeer("orthanc", f"{orthanc.url}/dicom-web/", timeout_s=20.0))
    remote.echo()
    (series,) = locating.series(remote, RemoteStudy(str(sent[0].StudyInstanceUID)))
    listed = locating.instances(remote, series)
    assert listed == {str(ds.SOPInstanceUID): str(ds.SOPClassUID) for ds in sent}
    told: list[PullCounts] = []
    counts = remote.fetch(series, archive, listed=listed, tell=told.append)
    assert counts == told[-1] == PullCounts(len(sent), remaining=0)
    assert [one.remaining for one in told] == list(range(len(sent) - 1, -1, -1))
    for ds in sent:
        (reference,) = archive.references({"SOPInstanceUID": [str(ds.SOPInstanceUID)]})
        held = archive.read(reference)
        assert held.PixelData == ds.PixelData
        assert held.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID


@pytest.mark.requirement("DICOM-PULL-003", "DICOM-PULL-007", "DICOM-PULL-009")
def test_the_command_line_finds_at_a_dicomweb_peer_and_pulls_from_it_with_priors(
    tmp_path: Path, orthanc: Orthanc, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    upload(orthanc, *study("now", "20240305", "ACC-1"), *study("prior", "20230101", "ACC-0", 2))
    upload(orthanc, *study("later", "20240401", "ACC-2"), *study("other", "20220101", "ACC-3", patient="P-2"))
    toml = (
        f'[[dicomweb]]\nname = "cloud"\nurl = "{orthanc.url}/dicom-web"\ntoken = "canary-token"\npublish = false\n'
        "[worker]\nembedded = false\n"
    )
    with veraicon_site(tmp_path / "site", free_port, toml) as site:
        site.serve()
        spoken = []

        def run(*arguments: str) -> str:
            done = site.run("peer", *arguments)
            spoken.append(done.stdout + done.stderr)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run("echo", "cloud")
        assert derive_uid("prior", "study") in run("find", "cloud", "--accession", "ACC-*")
        for level, column in (("series", "series"), ("image", "series")):
            listed = run("find", "cloud", "--level", level, "--study-uid", derive_uid("now", "study"), "--modality", "MR")
            assert derive_uid("now", column) in listed
            assert derive_uid("prior", column) not in listed
        assert '"NumberOfPatientRelatedStudies": "3"' in run(
            "find", "cloud", "--level", "patient", "--patient-id", "P-1", "--json"
        )
        assert "Canary" not in "".join(spoken)
        assert "Canary" in run("find", "cloud", "--json", "--show-patient", "--date", "20240305")
        pulled = run("pull", "cloud", "--accession", "ACC-1", "--priors")
        assert "2 studies, 2 series, 5 instances are here; 5 came now" in pulled
        assert "1 series, 3 instances are here; 0 came now" in run("pull", "cloud", "--study-uid", derive_uid("now", "study"))
        by_series = run("pull", "cloud", "--series-uid", derive_uid("other", "series"))
        assert "1 studies, 1 series, 3 instances are here; 3 came now" in by_series
        asked = {derive_uid("now", "series"), derive_uid("other", "series")}
        eventually(lambda: {job["series_uid"] for job in site.jobs()} == asked)
        assert site.run("peer", "pull", "cloud", "--accession", "ACC-9").returncode == ResourceNotFound.exit_code
        refused = site.run("peer", "pull", "cloud", "--accession", "ACC-1", "--by", "get")
        assert refused.returncode == RequestInvalid.exit_code
        assert "DICOMweb" in refused.stderr
        assert "canary-token" not in "".join(spoken) + refused.stderr + site.log()


@pytest.mark.requirement("DICOM-PULL-007", "DICOM-PULL-009")
def test_our_own_server_is_a_peer_too_read_page_by_page_and_byte_for_byte(
    archive: Archive, theirs: Site, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (
        *study("now", "20240305", "ACC-1", 5),
        *study("prior", "20230101", "ACC-0"),
        *study("other", "20220101", "ACC-9", patient="B"),
    ):
        theirs.archive.land(data, source="CT1")
    monkeypatch.setattr(query, "MAXIMUM_PAGE", 2)
    with serving(theirs, free_port()) as url:
        with pytest.raises(PeerRefused, match="401"):
            WebRemote(WebPeer("theirs", url)).echo()
        remote = WebRemote(WebPeer("theirs", url, token="letmein"))
        puller = Puller(remote, archive)
        series = puller.series_of(puller.studies(accession="ACC-1", priors=True))
        assert [(one.held, one.new) for one in map(puller.pull, series)] == [(5, 5), (3, 3)]
        assert len(remote.find("STUDY", [], {})) == 3
        patients = remote.find("PATIENT", [], {})
        assert {text_of(ds, "PatientID"): ds.NumberOfPatientRelatedStudies for ds in patients} == {"P-1": 2, "B": 1}
    assert {one.digest for one in archive.references({})} < {one.digest for one in theirs.archive.references({})}
    assert [settled.series_uid for settled in archive.unannounced(0)] == [derive_uid("now", "series")]


def body(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def giving(*parts: bytes) -> Callable[..., None]:
    return answering(200, 'multipart/related; type="application/dicom"; boundary=b', body(*parts))


@pytest.mark.requirement("DICOM-PULL-004", "DICOM-PULL-007")
def test_what_a_web_peer_gives_beside_the_series_is_told_and_the_rest_is_kept(archive: Archive) -> None:
    good = part10_series(3)
    with stub(giving(good[0], b"no DICOM", good[1])) as url, pytest.raises(IncompleteSeries, match="2 completed, 1 failed"):
        WebRemote(WebPeer("stub", url, timeout_s=5.0)).fetch(SERIES, archive, listed={})
    foreign = part10_series(1, name="foreign")[0]
    with stub(giving(good[2], foreign)) as url, pytest.raises(PeerAnswerInvalid, match="another series"):
        WebRemote(WebPeer("stub", url, timeout_s=5.0)).fetch(SERIES, archive, listed={})
    assert len(archive.references({"SeriesInstanceUID": [SERIES.series_uid]})) == len(archive.references({})) == 3


@pytest.mark.requirement("DICOM-PULL-006")
def test_a_full_disk_in_the_middle_of_a_web_pull_blames_us_and_leaves_nothing_half(tmp_path: Path) -> None:
    full = Archive(index_engine(tmp_path), tmp_path / "full", min_free_bytes=2**60)
    with stub(giving(*part10_series(2))) as url, pytest.raises(StorageExhausted):
        WebRemote(WebPeer("stub", url, timeout_s=5.0)).fetch(replace(SERIES, prior=True), full, listed={})
    assert list((tmp_path / "full" / "incoming").iterdir()) == []
