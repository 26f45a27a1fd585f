"""The node against DCMTK and Orthanc over real sockets, and against callers that mean no good."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, dcmread
from pydicom.config import IGNORE
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.association.policy import SourcePolicy
from dicom_node.calling.sending import store
from dicom_node.holding.files import digest_of, to_part10
from dicom_node.holding.skimming import file_meta_of
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo, find
from dicom_node.writing import write_series
from domain.errors import PeerRefused, PeerUnreachable
from tests.builders_dicom import generated_phantom, new_archive, series_datasets, series_identity, source_series
from tests.peers.dcmtk import find_dcmtk, run_dcmtk, running_storescp
from tests.peers.orthanc import running_orthanc
from tests.peers.raw_scu import ECHO, RJ, associate_rq, context, raw_scu

_PLACES = 32  # by default


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@pytest.fixture
def node(archive: Archive) -> Iterator[StorageNode]:
    running = StorageNode(
        archive, ae_title="VERAICON", host="127.0.0.1", port=0, acse_timeout_s=1.0, network_timeout_s=3.0, pdu_timeout_s=1.0
    )
    running.start()
    yield running
    running.stop()


def _write(folder: Path, datasets: list[Dataset]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.dcm" for number in range(len(datasets))]
    for path, ds in zip(paths, datasets, strict=True):
        path.write_bytes(to_part10(ds))
    return paths


def _ours(node: StorageNode, calling: str = "TEST") -> Peer:
    return Peer("node", "VERAICON", "127.0.0.1", node.port, calling, timeout_s=10.0)


def _data_set(file: bytes) -> tuple[str, bytes]:
    """Return the transfer syntax of a Part 10 file, and what follows its file meta information."""
    (_, _, syntax), start = file_meta_of(file) or pytest.fail("no Part 10 file")
    return syntax, file[start:]


def _held(archive: Archive, uid: str) -> bytes:
    return archive.instance_path(archive.references({"SOPInstanceUID": [uid]})[0]).read_bytes()


@pytest.mark.requirement("DICOM-STORE-002")
@pytest.mark.parametrize("number", range(1, 10))
def test_what_dcmtk_sends_is_kept_byte_for_byte_as_by_its_own_bit_preserving_receiver(
    node: StorageNode,
    archive: Archive,
    data_folder: Callable[[str], Path],
    tmp_path: Path,
    free_port: Callable[[], int],
    number: int,
) -> None:
    """DCMTK sends compressed files as they are, and plain ones in Explicit VR Little Endian."""
    path = data_folder("dicom/mr_siemens_7_transfer_syntaxes") / f"{number}.dcm"
    port = free_port()
    (tmp_path / "scp").mkdir()
    with running_storescp(tmp_path / "scp", port, "+xa", "+B") as received:
        for called, to in (("VERAICON", node.port), ("ANY", port)):
            done = run_dcmtk("dcmsend", "-v", "--decompress-never", "-aec", called, "127.0.0.1", str(to), path)
            assert done.returncode == 0, done.stdout + done.stderr
        (theirs,) = (file.read_bytes() for file in received.iterdir())
    sent = dcmread(path)
    held = _data_set(_held(archive, str(sent.SOPInstanceUID)))
    assert held == _data_set(theirs)
    if sent.file_meta.TransferSyntaxUID.is_encapsulated:
        assert held == _data_set(path.read_bytes())


@pytest.mark.requirement("DICOM-STORE-002")
@pytest.mark.parametrize("number", range(1, 10))
def test_the_data_set_of_a_file_in_each_transfer_syntax_is_kept_byte_for_byte(
    node: StorageNode, archive: Archive, data_folder: Callable[[str], Path], number: int
) -> None:
    path = data_folder("dicom/mr_siemens_7_transfer_syntaxes") / f"{number}.dcm"
    store(_ours(node), [path])
    assert _data_set(_held(archive, str(dcmread(path).SOPInstanceUID))) == _data_set(path.read_bytes())


@pytest.mark.requirement("DICOM-QR-030")
def test_received_series_is_found_and_fetched_by_dcmtk(node: StorageNode, tmp_path: Path) -> None:
    datasets = series_datasets(5)
    files = _write(tmp_path / "sent", datasets)
    assert run_dcmtk("storescu", "-aec", "VERAICON", "127.0.0.1", str(node.port), *files).returncode == 0
    uid = str(datasets[0].SeriesInstanceUID)
    keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"SeriesInstanceUID={uid}", "-k", "NumberOfSeriesRelatedInstances"]
    found = run_dcmtk("findscu", "-S", "-aec", "VERAICON", "127.0.0.1", str(node.port), *keys)
    assert uid in found.stdout + found.stderr
    got = tmp_path / "got"
    got.mkdir()
    keys = [
        "-k",
        "QueryRetrieveLevel=SERIES",
        "-k",
        f"StudyInstanceUID={datasets[0].StudyInstanceUID}",
        "-k",
        f"SeriesInstanceUID={uid}",
    ]
    fetched = run_dcmtk("getscu", "-S", "-aec", "VERAICON", "-od", got, "127.0.0.1", str(node.port), *keys)
    assert fetched.returncode == 0, fetched.stderr
    assert {dcmread(path).PixelData for path in got.iterdir()} == {ds.PixelData for ds in datasets}


@pytest.mark.requirement("DICOM-STORE-004", "DICOM-STORE-005")
def test_a_repeat_is_success_and_other_bytes_under_a_held_uid_are_kept_aside(
    node: StorageNode, archive: Archive, tmp_path: Path
) -> None:
    first, other = series_datasets(1)[0], series_datasets(1)[0]
    other.PatientName = "Other^Bytes"
    for number, ds in enumerate((first, first, other)):
        files = _write(tmp_path / str(number), [ds])
        assert run_dcmtk("storescu", "-aec", "VERAICON", "127.0.0.1", str(node.port), *files).returncode == 0
    held = archive.references({"SOPInstanceUID": [str(first.SOPInstanceUID)]})
    assert len(held) == 1
    assert archive.read(held[0]).PatientName == "Phantom^One"
    kept = [dcmread(path).PatientName for path in (tmp_path / "node" / "archive" / "instances").rglob("*.dcm")]
    assert sorted(map(str, kept)) == ["Other^Bytes", "Phantom^One"]


@pytest.mark.requirement("DICOM-STORE-010")
def test_what_we_send_arrives_whole_at_dcmtk_and_orthanc(tmp_path: Path, free_port: Callable[[], int]) -> None:
    datasets = write_series(generated_phantom(), series_identity(), source=source_series())
    port = free_port()
    (tmp_path / "storescp").mkdir()
    with running_storescp(tmp_path / "storescp", port) as received:
        assert store(Peer("scp", "ANY", "127.0.0.1", port), datasets) == len(datasets)
        arrived = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in received.iterdir()}
    assert {uid: ds.PixelData for uid, ds in arrived.items()} == {str(ds.SOPInstanceUID): ds.PixelData for ds in datasets}
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", dicom_port=free_port(), http_port=free_port(), node_port=free_port()) as orthanc:
        echo(orthanc.peer)
        assert store(orthanc.peer, datasets) == len(datasets)
        assert store(orthanc.peer, datasets) == len(datasets), "a repeat is harmless"
        assert len(orthanc.get("/instances")) == len(datasets)
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.PatientID, identifier.StudyInstanceUID = "STUDY", datasets[0].PatientID, ""
        assert [str(answer.StudyInstanceUID) for answer in find(orthanc.peer, identifier)] == [
            str(datasets[0].StudyInstanceUID)
        ]


@pytest.mark.requirement("DICOM-ECHO-002", "DICOM-ASSOC-001")
def test_strangers_are_rejected_with_the_reason(archive: Archive, tmp_path: Path) -> None:
    node = StorageNode(
        archive, ae_title="VERAICON", host="127.0.0.1", port=0,
        allowed_sources={"PACS": SourcePolicy(("127.0.0.1",)), "FAR": SourcePolicy(("192.0.2.1",))},
    )  # fmt: skip
    node.start()
    try:
        echo(_ours(node, "PACS"))
        for calling in ("STRANGER", "FAR"):
            with pytest.raises(PeerRefused, match=r"Calling AE title not recognised \(Rejected Permanent"):
                echo(_ours(node, calling))
        with pytest.raises(PeerRefused, match=r"Called AE title not recognised \(Rejected Permanent"):
            echo(Peer("node", "SOMEBODY", "127.0.0.1", node.port, "PACS", timeout_s=5.0))
        asked = ("echoscu", "-v", "-aet", "STRANGER", "-aec", "VERAICON", "127.0.0.1", str(node.port))
        assert "Calling AE Title Not Recognized" in run_dcmtk(*asked).stderr
    finally:
        node.stop()


@pytest.mark.requirement("DICOM-ECHO-002")
def test_nobody_there_and_a_destination_that_refuses_are_told_apart(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with pytest.raises(PeerUnreachable):
        echo(Peer("nobody", "ANY", "127.0.0.1", free_port(), timeout_s=2.0))
    port = free_port()
    with running_storescp(tmp_path, port, "--refuse"):
        told: list[type[Exception]] = []
        while PeerRefused not in told:  # storescp hangs up behind its rejection, and a reset may overtake that
            assert len(told) < 10
            with pytest.raises((PeerRefused, PeerUnreachable)) as refused:
                store(Peer("scp", "ANY", "127.0.0.1", port, timeout_s=5.0), series_datasets(2))
            told.append(refused.type)


@pytest.mark.requirement("DICOM-ASSOC-004")
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00\xff\xff\xff\xff" + b"A" * 4096,
        b"\x01\x00\x00\x00\x01\x00" + b"\x00\x01" * 20,
        b"\x04\x00\x00\x00\x00\x08garbage!",
        os.urandom(3000),
        b"",
    ],
    ids=["http", "4 GiB PDU", "half a request", "data before association", "noise", "silence"],
)
def test_hostile_bytes_hold_no_place_while_their_callers_stay(
    archive: Archive, garbage: bytes, eventually: Callable[..., object]
) -> None:
    """No timeout ends them within this test: the places are free although they are there."""
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, acse_timeout_s=120.0, pdu_timeout_s=120.0)
    node.start()
    address = ("127.0.0.1", node.port)
    with ExitStack() as stack:
        stack.callback(node.stop, grace_s=0.1)
        hostile = [socket.create_connection(address, timeout=10, source_address=("127.0.0.2", 0)) for _ in range(40)]
        for caller in hostile:
            stack.callback(caller.close)
            with suppress(OSError):  # the node may hang up at once
                caller.sendall(garbage)
        for _ in range(_PLACES):
            stack.enter_context(raw_scu(node.port)).associate(ECHO)
        one_more = stack.enter_context(raw_scu(node.port))
        one_more.send(associate_rq([context(1, *ECHO)]))
        answer = one_more.read()
        assert answer is not None
        assert answer[0] == RJ, "there were as many places as there are"


@pytest.mark.requirement("DICOM-STORE-008")
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_instance_that_cannot_be_filed_is_refused_and_kept(node: StorageNode, tmp_path: Path) -> None:
    bad = series_datasets(1)[0]
    bad.add(DataElement("SeriesInstanceUID", "UI", "../../etc/passwd", validation_mode=IGNORE))
    file = _write(tmp_path / "sent", [bad])[0]
    run_dcmtk("storescu", "-aec", "VERAICON", "127.0.0.1", str(node.port), file)
    kept = list((tmp_path / "node" / "archive" / "refused").iterdir())
    assert len(kept) == 1
    assert not list((tmp_path / "node" / "archive" / "instances").rglob("*.dcm"))


_RECEIVER = """
import sys
from pathlib import Path
from dicom_node.scp import StorageNode
from tests.builders_dicom import new_archive
node = StorageNode(new_archive(Path(sys.argv[1])), ae_title="VERAICON", host="127.0.0.1", port=int(sys.argv[2]))
node.start()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.requirement("DICOM-STORE-003")
def test_kill_minus_nine_while_receiving_loses_nothing_that_was_acknowledged(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    find_dcmtk("storescu")
    files = _write(tmp_path / "sent", series_datasets(400))
    port = free_port()
    receiving = [sys.executable, "-c", _RECEIVER, str(tmp_path / "node"), str(port)]
    sending = ["storescu", "-v", "-aec", "VERAICON", "127.0.0.1", str(port), *map(str, files)]
    acknowledged, current = [], ""
    with subprocess.Popen(
        receiving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    ) as receiver:
        assert receiver.stdout is not None
        assert b"ready\n" in iter(receiver.stdout.readline, b"")
        with subprocess.Popen(
            sending, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TCP_NODELAY": "1"}
        ) as sender:
            assert sender.stdout is not None
            for line in sender.stdout:
                if "Sending file:" in line:
                    current = line.split("Sending file:")[1].strip()
                if "Received Store Response (Success)" in line:
                    acknowledged.append(current)
                if len(acknowledged) == 60:
                    receiver.send_signal(signal.SIGKILL)
    assert len(acknowledged) >= 60
    archive: Any = new_archive(tmp_path / "node")
    for path in acknowledged:
        ds = dcmread(path)
        reference = archive.references({"SOPInstanceUID": [str(ds.SOPInstanceUID)]})[0]
        data = archive.instance_path(reference).read_bytes()
        assert digest_of(data) == reference.digest
        assert dcmread(archive.instance_path(reference)).PixelData == ds.PixelData
