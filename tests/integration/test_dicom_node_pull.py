"""Pulls from Orthanc by C-GET and C-MOVE, and from peers that stumble, freeze or go away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt

from dicom_node.archive import Archive
from dicom_node.calling import locating
from dicom_node.calling.dimse import By, DimseRemote, identifier
from dicom_node.calling.pulling import pull_by_get, pull_by_move, with_retries
from dicom_node.calling.remote import PullCounts, RemoteSeries, RemoteStudy
from dicom_node.calling.sending import store
from dicom_node.holding.files import to_part10
from dicom_node.presentation import GET_CLASSES, UNCOMPRESSED
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer
from domain.errors import IncompleteSeries, PeerRefused, PeerUnreachable, ResourceNotFound, StorageExhausted
from domain.identifiers import derive_uid
from tests.builders_dicom import new_archive, part10_series, series_datasets
from tests.peers.dcmtk import running_dcmqrscp
from tests.peers.orthanc import Orthanc, running_orthanc
from tests.peers.veraicon_site import veraicon_site

STUDY = derive_uid("series", "study")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "ours")


@pytest.fixture
def orthanc_beside(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[tuple[Orthanc, int]]:
    """Orthanc, and the port where it expects our node."""
    node_port = free_port()
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", dicom_port=free_port(), http_port=free_port(), node_port=node_port) as orthanc:
        yield orthanc, node_port


def upload(orthanc: Orthanc, *files: bytes) -> None:
    for data in files:
        httpx.post(f"{orthanc.url}/instances", content=data, timeout=30).raise_for_status()


def wanted(level: str, **keys: str) -> Dataset:
    return identifier(level, **keys)


@pytest.mark.requirement("DICOM-PULL-001")
def test_each_transfer_syntax_comes_by_c_get_as_the_peer_holds_it(
    archive: Archive, orthanc_beside: tuple[Orthanc, int], data_folder: Callable[[str], Path]
) -> None:
    orthanc, _ = orthanc_beside
    sent = [dcmread(path) for path in sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm"))]
    upload(orthanc, *(path.read_bytes() for path in sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm"))))
    remote = DimseRemote(orthanc.peer)
    (series,) = locating.series(remote, RemoteStudy(str(sent[0].StudyInstanceUID)))
    classes = set(locating.instances(remote, series).values())
    assert classes == {MRImageStorage}
    told: list[PullCounts] = []
    asked = wanted("SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.series_uid)
    counts = pull_by_get(orthanc.peer, asked, archive, sop_class_uids=sorted(classes), tell=told.append)
    assert (counts.completed, counts.failed) == (len(sent), 0)
    assert told[-1] == counts
    for ds in sent:
        (reference,) = archive.references({"SOPInstanceUID": [str(ds.SOPInstanceUID)]})
        held = archive.read(reference)
        assert held.PixelData == ds.PixelData
        assert held.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID


@pytest.mark.requirement("DICOM-QR-009", "DICOM-PULL-002", "DICOM-PULL-003", "DICOM-PULL-009")
def test_priors_of_an_accession_come_from_orthanc_by_c_move_into_our_running_node(
    archive: Archive, orthanc_beside: tuple[Orthanc, int]
) -> None:
    orthanc, node_port = orthanc_beside
    for name, patient, day, accession in (
        ("now", "A", "20240305", "ACC-1"),
        ("prior", "A", "20230101", "ACC-0"),
        ("later", "A", "20240401", "ACC-2"),
        ("other", "B", "20220101", "ACC-3"),
    ):

        def change(ds: Dataset, patient: str = patient, day: str = day, accession: str = accession) -> None:
            ds.PatientID, ds.StudyDate, ds.AccessionNumber = patient, day, accession

        upload(orthanc, *part10_series(3, name=name, change=change))
    remote = DimseRemote(orthanc.peer, By.MOVE)
    current = locating.of_accession(remote, "ACC-1")
    priors = locating.priors(remote, current)
    assert [study.study_uid for study in current] == [derive_uid("now", "study")]
    assert [study.study_uid for study in priors] == [derive_uid("prior", "study")]
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=node_port)
    node.start()
    try:
        series = [one for study in (*current, *priors) for one in locating.series(remote, study)]
        for one in series:
            counts = remote.fetch(one, archive, listed=locating.instances(remote, one))
            assert counts.failed == 0
            assert len(archive.references({"SeriesInstanceUID": [one.series_uid]})) == 3
        assert [settled.series_uid for settled in archive.unannounced(0)] == [derive_uid("now", "series")]
    finally:
        node.stop()
    with pytest.raises(PeerRefused):
        pull_by_move(orthanc.peer, wanted("STUDY", StudyInstanceUID=current[0].study_uid), "NOBODY")
    with pytest.raises(ResourceNotFound):
        locating.of_accession(remote, "ACC-9")


@pytest.mark.requirement("DICOM-PULL-003")
def test_the_command_line_finds_and_pulls_with_priors(
    tmp_path: Path, orthanc_beside: tuple[Orthanc, int], free_port: Callable[[], int]
) -> None:
    orthanc, node_port = orthanc_beside

    def change(ds: Dataset, day: str, accession: str) -> None:
        ds.StudyDate, ds.AccessionNumber, ds.PatientName = day, accession, "Canary^Name"

    upload(orthanc, *part10_series(3, name="now", change=lambda ds: change(ds, "20240305", "ACC-1")))
    upload(orthanc, *part10_series(2, name="prior", change=lambda ds: change(ds, "20230101", "ACC-0")))
    toml = (
        '[[sources]]\nname = "pacs"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\n'
        f"port = {orthanc.peer.port}\n[generation]\non_receive = false\n[worker]\nembedded = false\n"
    )
    with veraicon_site(tmp_path / "site", free_port, toml) as site:
        site.node_port = node_port
        site.write_config()
        assert site.run("peer", "echo", "pacs").returncode == 0
        found = site.run("peer", "find", "pacs", "--accession", "ACC-*")
        assert found.returncode == 0, found.stderr
        assert derive_uid("prior", "study") in found.stdout
        assert "Canary" not in found.stdout + found.stderr
        assert "Canary" in site.run("peer", "find", "pacs", "--json", "--show-patient").stdout
        pulled = site.run("peer", "pull", "pacs", "--accession", "ACC-1", "--priors")
        assert pulled.returncode == 0, pulled.stderr
        assert "2 studies, 2 series, 5 instances are here; 5 came now" in pulled.stdout
        again = site.run("peer", "pull", "pacs", "--study-uid", derive_uid("now", "study"))
        assert "1 studies, 1 series, 3 instances are here; 0 came now" in again.stdout
        upload(orthanc, *part10_series(4, name="moved"))
        away = site.run("peer", "pull", "pacs", "--study-uid", derive_uid("moved", "study"), "--by", "move")
        assert away.returncode != 0, "our node does not run"
        site.serve()
        moved = site.run("peer", "pull", "pacs", "--study-uid", derive_uid("moved", "study"), "--by", "move")
        assert moved.returncode == 0, moved.stderr
        assert "4 came now" in moved.stdout
        assert site.run("peer", "pull", "pacs", "--accession", "ACC-9").returncode == ResourceNotFound.exit_code


@pytest.mark.requirement("DICOM-QR-009", "DICOM-PULL-001", "DICOM-PULL-002")
def test_dcmqrscp_of_dcmtk_gives_by_get_and_by_move(archive: Archive, tmp_path: Path, free_port: Callable[[], int]) -> None:
    port, node_port = free_port(), free_port()
    (tmp_path / "dcmqr").mkdir()
    with running_dcmqrscp(tmp_path / "dcmqr", port, ("VERAICON", node_port)):
        peer = Peer("dcmqr", "DCMQR", "127.0.0.1", port, timeout_s=10.0)
        sent = series_datasets(6)
        store(peer, sent)
        (study,) = locating.of_patient(DimseRemote(peer), "P-1")
        (series,) = locating.series(DimseRemote(peer), study)
        assert set(locating.instances(DimseRemote(peer), series)) == {str(ds.SOPInstanceUID) for ds in sent}
        asked = wanted("SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.series_uid)
        assert pull_by_get(peer, asked, archive, sop_class_uids=[MRImageStorage]).completed == 6
        other = new_archive(tmp_path / "moved")
        node = StorageNode(other, ae_title="VERAICON", host="127.0.0.1", port=node_port)
        node.start()
        try:
            assert pull_by_move(peer, asked, "VERAICON").completed == 6
        finally:
            node.stop()
    for held in (archive, other):
        pixels = [held.read(reference).PixelData for reference in held.references({})]
        assert sorted(pixels) == sorted(ds.PixelData for ds in sent)


@pytest.mark.requirement("DICOM-PULL-001")
def test_each_instance_is_on_disk_and_in_the_index_before_its_sub_operation_is_answered(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer looks with the answer to each C-STORE in hand, before it sends the next one."""
    synced: list[str] = []
    fsync = os.fsync

    def slowly(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        time.sleep(0.1)
        fsync(descriptor)
        synced.append("folder" if os.path.isdir(name) else "file")

    monkeypatch.setattr(os, "fsync", slowly)
    seen: list[tuple[int, int, int]] = []

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 3
        for ds in series_datasets(3):
            yield 0xFF00, ds
            held = archive.references({})
            whole = sum(archive.read(reference).SOPInstanceUID == reference.sop_instance_uid for reference in held)
            seen.append((whole, synced.count("file"), synced.count("folder")))

    with peer_that(get) as peer:
        assert pull(peer, archive).completed == 3
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


# Peers made by hand, for what Orthanc cannot be told to do.

Handler = Callable[[evt.Event], Any]


@contextmanager
def peer_that(get: Handler, *, roles: bool = True, timeout_s: float = 5.0) -> Iterator[Peer]:
    ae = AE("PEER")
    ae.add_supported_context(GET_CLASSES[1], list(UNCOMPRESSED))
    if roles:
        ae.add_supported_context(MRImageStorage, list(UNCOMPRESSED), scu_role=True, scp_role=True)
    else:
        ae.add_supported_context(MRImageStorage, list(UNCOMPRESSED))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_GET, get)])
    try:
        yield Peer("peer", "PEER", "127.0.0.1", server.server_address[1], timeout_s=timeout_s)
    finally:
        server.shutdown()


def pull(peer: Peer, archive: Archive) -> PullCounts:
    return pull_by_get(peer, wanted("STUDY", StudyInstanceUID=STUDY), archive, sop_class_uids=[MRImageStorage])


@pytest.mark.requirement("DICOM-PULL-010")
def test_what_the_peer_could_not_send_is_named_and_the_rest_is_kept(archive: Archive) -> None:
    good = series_datasets(3)
    bad = series_datasets(1, name="bad")[0]
    bad.SOPClassUID = bad.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 4
        for ds in (*good, bad):
            yield 0xFF00, ds

    with peer_that(get) as peer, pytest.raises(IncompleteSeries, match="3 completed, 1 failed"):
        pull(peer, archive)
    assert len(archive.references({})) == 3


@pytest.mark.requirement("DICOM-PULL-004")
def test_an_association_that_ends_in_the_middle_is_tried_again_and_loses_nothing(archive: Archive) -> None:
    calls: list[int] = []

    def get(event: evt.Event) -> Iterator[Any]:
        calls.append(1)
        yield 4
        for number, ds in enumerate(series_datasets(4)):
            if len(calls) <= 2 and number == 2:
                event.assoc.abort()
                return
            yield 0xFF00, ds

    delays: list[float] = []
    with peer_that(get) as peer:
        counts = with_retries(lambda: pull(peer, archive), sleep=delays.append)
    assert (counts.completed, len(calls), delays) == (4, 3, [1.0, 2.0])
    assert len(archive.references({})) == 4


@pytest.mark.requirement("DICOM-PULL-005")
def test_a_peer_that_freezes_is_given_up_when_nothing_moves(archive: Archive) -> None:
    release = threading.Event()

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 4
        yield 0xFF00, series_datasets(1)[0]
        release.wait(30)

    with peer_that(get, timeout_s=1.0) as peer:
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match="nothing moved"):
            pull(peer, archive)
        assert time.monotonic() - began < 10
        release.set()
    assert len(archive.references({})) == 1


@pytest.mark.requirement("DICOM-PULL-005")
def test_a_slow_instance_is_waited_for_while_its_bytes_move(archive: Archive) -> None:
    """One message of 2.4 s over a peer whose timeout is 1 s."""
    big = series_datasets(1)[0]
    big.Rows, big.Columns, big.PixelData = 1024, 1024, b"\0" * 2 * 1024 * 1024

    def get(event: evt.Event) -> Iterator[Any]:
        transport = event.assoc.dul.socket
        send = transport.send

        def slowly(data: bytes) -> None:
            time.sleep(0.15)
            send(data)

        transport.send = slowly
        yield 1
        yield 0xFF00, big

    with peer_that(get, timeout_s=1.0) as peer:
        assert pull(peer, archive).completed == 1


def test_a_peer_that_forgets_to_answer_the_role_may_send_all_the_same(archive: Archive) -> None:
    def get(event: evt.Event) -> Iterator[Any]:
        for context in event.assoc.accepted_contexts:
            context._as_scu = True
        yield 2
        for ds in series_datasets(2):
            yield 0xFF00, ds

    with peer_that(get, roles=False) as peer:
        assert pull(peer, archive).completed == 2


def test_a_peer_without_the_service_is_refused_by_name(archive: Archive) -> None:
    with peer_that(lambda _: iter(())) as peer, pytest.raises(PeerRefused, match="Patient Root"):
        pull_by_get(
            peer, wanted("PATIENT", PatientID="P"), archive, sop_class_uids=[MRImageStorage], sop_class_uid=GET_CLASSES[0]
        )


def test_an_interrupt_ends_the_association_at_once(archive: Archive) -> None:
    release = threading.Event()

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 4
        yield 0xFF00, series_datasets(1)[0]
        release.wait(30)

    def interrupt(_counts: PullCounts) -> None:
        raise KeyboardInterrupt

    with peer_that(get, timeout_s=20.0) as peer:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            pull_by_get(peer, wanted("STUDY", StudyInstanceUID=STUDY), archive, sop_class_uids=[MRImageStorage], tell=interrupt)
        assert time.monotonic() - began < 5
        release.set()


@pytest.mark.requirement("DICOM-PULL-006")
def test_a_full_disk_is_told_to_the_peer_and_to_us(tmp_path: Path) -> None:
    archive = Archive(new_archive(tmp_path)._index._engine, tmp_path / "full", min_free_bytes=2**60)

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 1
        yield 0xFF00, series_datasets(1)[0]

    with peer_that(get) as peer, pytest.raises(StorageExhausted):
        pull(peer, archive)


@pytest.mark.requirement("DICOM-PULL-009")
def test_our_own_node_is_a_peer_too(archive: Archive, tmp_path: Path) -> None:
    theirs = new_archive(tmp_path / "theirs")
    sent = series_datasets(5)
    for ds in sent:
        theirs.land(to_part10(ds), source="CT1")
    node = StorageNode(theirs, ae_title="THEIRS", host="127.0.0.1", port=0)
    node.start()
    try:
        peer = Peer("theirs", "THEIRS", "127.0.0.1", node.port, timeout_s=10.0)
        assert pull_by_get(peer, wanted("STUDY", StudyInstanceUID=STUDY), archive).completed == 5
        prior = RemoteSeries(STUDY, derive_uid("series", "series"), prior=True)
        aside = new_archive(tmp_path / "aside")
        assert DimseRemote(peer).fetch(prior, aside, listed={}).completed == 5
    finally:
        node.stop()
    assert (len(archive.unannounced(0)), aside.unannounced(0)) == (1, [])
    assert [r.digest for r in archive.references({})] == [r.digest for r in theirs.references({})]
