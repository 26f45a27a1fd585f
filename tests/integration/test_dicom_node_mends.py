"""Each mend of pynetdicom: the fault without it, and its absence with it; and what a node promises on top of it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.archive import Archive
from dicom_node.association import pynetdicom_mends
from dicom_node.calling.sending import store
from dicom_node.holding.files import to_part10
from dicom_node.presentation import verification_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo, find
from domain.errors import ConfigurationError, PeerRefused, PublicationError
from tests.builders_dicom import new_archive, series_datasets, slice_dataset
from tests.peers.dcmtk import run_dcmtk


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@pytest.fixture
def node(archive: Archive) -> Iterator[StorageNode]:
    running = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, pdu_timeout_s=1.0)
    running.start()
    yield running
    running.stop()


def peer_of(node: StorageNode) -> Peer:
    return Peer("node", "VERAICON", "127.0.0.1", node.port, "TEST", timeout_s=10.0)


@pytest.mark.requirement("DICOM-STORE-012")
@pytest.mark.parametrize("mended", [False, True])
def test_the_requestors_reactor_takes_a_response_only_without_the_mend(
    node: StorageNode, mended: bool, eventually: Callable[..., object]
) -> None:
    assoc = AE("TEST").associate("127.0.0.1", node.port, contexts=verification_contexts(), ae_title="VERAICON")
    try:
        assert assoc.is_established
        if mended:
            pynetdicom_mends.keep_responses(assoc)
        response = C_STORE()
        response.MessageIDBeingRespondedTo = 1
        assoc.dimse.msg_queue.put((1, response))
        if mended:
            time.sleep(0.3)  # some hundred rounds of the reactor, which runs every millisecond
            assert assoc.dimse.get_msg(block=True) == (1, response)
        else:
            eventually(assoc.dimse.msg_queue.empty, deadline_s=10)
    finally:
        assoc.abort()


def _unmended(**options: Any) -> Any:
    """Return a node as pynetdicom makes it, listening."""
    plain = AE("VERAICON")
    plain.supported_contexts = verification_contexts()
    for name, value in options.items():
        setattr(plain, name, value)
    return plain.start_server(("127.0.0.1", 0), block=False)


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_silent_callers_of_one_host_take_all_places_only_without_the_mend(
    archive: Archive, eventually: Callable[..., object]
) -> None:
    unmended = _unmended(maximum_associations=6)
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, maximum_associations=6, acse_timeout_s=5.0)
    node.start()
    ports = (unmended.server_address[1], node.port)
    scanner = ("127.0.0.2", 0)
    callers = [
        socket.create_connection(("127.0.0.1", port), timeout=10, source_address=scanner) for port in ports for _ in range(12)
    ]
    try:
        eventually(lambda: len(unmended.active_associations) == 12, deadline_s=4)
        with pytest.raises(PeerRefused, match="Local limit exceeded"):
            echo(replace(peer_of(node), port=ports[0]))
        eventually(lambda: len(node._servers["plain"].active_associations) == 4, deadline_s=4)
        for _ in range(10):
            store(peer_of(node), series_datasets(1))
    finally:
        for caller in callers:
            caller.close()
        unmended.shutdown()
        node.stop()


def test_silent_callers_of_one_network_leave_room_for_others(archive: Archive, eventually: Callable[..., object]) -> None:
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, maximum_associations=12)
    node.start()
    callers = [
        socket.create_connection(("127.0.0.1", node.port), timeout=10, source_address=(f"127.0.9.{host}", 0))
        for host in range(1, 31)
    ]
    try:
        eventually(lambda: len(node._servers["plain"].active_associations) == 9, deadline_s=4)
        echo(peer_of(node))
    finally:
        for caller in callers:
            caller.close()
        node.stop()


@pytest.mark.requirement("DICOM-ASSOC-007")
def test_a_caller_that_hangs_up_without_a_request_holds_its_threads_only_without_the_mend(
    node: StorageNode, eventually: Callable[..., object]
) -> None:
    unmended = _unmended(acse_timeout=30)
    servers: list[Any] = [unmended, node._servers["plain"]]
    try:
        for server in servers:
            socket.create_connection(server.server_address, timeout=10).close()
        eventually(lambda: unmended.active_associations)
        eventually(lambda: not servers[1].active_associations, deadline_s=5)
        time.sleep(0.5)
        assert unmended.active_associations, "it waits for the request of a caller that is gone"
    finally:
        unmended.shutdown()


_CALL_NOBODY = """
import gc, sys
from pynetdicom import AE
from dicom_node.association import pynetdicom_mends
from dicom_node.presentation import verification_contexts
if sys.argv[2] == "mended":
    pynetdicom_mends.configure()
AE("TEST").associate("127.0.0.1", int(sys.argv[1]), contexts=verification_contexts())
gc.collect()
"""


@pytest.mark.requirement("DICOM-ASSOC-007")
@pytest.mark.parametrize(("how", "leaks"), [("plain", True), ("mended", False)])
def test_a_connection_that_fails_leaves_its_socket_open_only_without_the_mend(
    free_port: Callable[[], int], how: str, leaks: bool
) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", _CALL_NOBODY, str(free_port()), how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=True)
    assert ("unclosed <socket" in ran.stderr) is leaks


@pytest.mark.requirement("DICOM-ASSOC-010")
def test_neither_identifiers_nor_instances_reach_the_logs(
    node: StorageNode, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def name(ds: Dataset) -> None:
        ds.PatientName, ds.PatientID = "Canary^Tweety", "CANARY-1"

    with caplog.at_level(logging.DEBUG):
        store(peer_of(node), series_datasets(2, change=name))
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.PatientName, identifier.PatientID = "STUDY", "Canary*", ""
        (found,) = find(peer_of(node), identifier)
    assert found.PatientID == "CANARY-1"
    told = caplog.text + capsys.readouterr().out
    assert told, "nothing was logged at all, so this proved nothing"
    assert "canary" not in told.lower()


def test_compressed_instances_go_uncompressed_to_whoever_takes_no_other(
    node: StorageNode, archive: Archive, tmp_path: Path
) -> None:
    """DCMTK's getscu proposes the plain transfer syntaxes only."""
    sent = [slice_dataset(k, np.arange(64, dtype=np.uint16).reshape(8, 8) * k) for k in (1, 2, 3)]
    expected = {str(ds.SOPInstanceUID): ds.pixel_array.copy() for ds in sent}
    for ds in sent:
        ds.compress(RLELossless, generate_instance_uid=False)
        archive.land(to_part10(ds), source="TEST")
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={sent[0].StudyInstanceUID}"]
    got = run_dcmtk("getscu", "-S", "-aec", "VERAICON", "-od", tmp_path, "127.0.0.1", str(node.port), *keys)
    assert got.returncode == 0, got.stderr
    arrived = {str(ds.SOPInstanceUID): ds for ds in map(dcmread, (p for p in tmp_path.iterdir() if p.is_file()))}
    assert arrived.keys() == expected.keys()
    for uid, ds in arrived.items():
        assert not ds.file_meta.TransferSyntaxUID.is_encapsulated
        np.testing.assert_array_equal(ds.pixel_array, expected[uid])


@pytest.mark.requirement("DICOM-STORE-006")
def test_an_archive_without_room_says_so_to_the_sender(tmp_path: Path) -> None:
    full = Archive(new_archive(tmp_path / "node")._index._engine, tmp_path / "full", min_free_bytes=2**60)
    node = StorageNode(full, ae_title="VERAICON", host="127.0.0.1", port=0)
    node.start()
    try:
        with pytest.raises(PublicationError, match=r"0 of 2 instances .* 2 with 0xA700"):
            store(peer_of(node), series_datasets(2))
    finally:
        node.stop()
    assert not list((tmp_path / "full").rglob("*.dcm"))


def test_a_taken_port_is_an_error_of_configuration(node: StorageNode, archive: Archive) -> None:
    second = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=node.port)
    with pytest.raises(ConfigurationError, match=str(node.port)):
        second.start()
    assert not second.running
