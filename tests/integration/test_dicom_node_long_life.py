"""What a node sees for months: port checks, callers that abort or vanish. Memory, threads and open files stay as they were."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import AE

from dicom_node.archive import DISK_THREADS
from dicom_node.presentation import verification_contexts
from dicom_node.scu import Peer, echo
from tests.peers.dcmtk import run_dcmtk
from tests.peers.node_process import NodeProcess, Usage, running_node
from tests.peers.raw_scu import ECHO, raw_scu


def _rested(node: NodeProcess, eventually: Callable[..., object]) -> Usage:
    eventually(lambda: node.usage().threads <= 3 + DISK_THREADS, deadline_s=15)
    return node.usage()


def _check_port(node: NodeProcess) -> None:
    socket.create_connection(("127.0.0.1", node.port), timeout=10).close()


def _vanish(node: NodeProcess, *, associated: bool) -> None:
    """Reset the connection, as a peer does whose power fails and comes back, in the middle of an association or before."""
    with raw_scu(node.port) as raw:
        if associated:
            raw.associate(ECHO)
        raw.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.requirement("DICOM-ASSOC-007")
def test_two_thousand_port_checks_leave_memory_threads_and_files_as_they_were(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    with running_node(tmp_path / "node", free_port()) as node:
        for _ in range(200):
            _check_port(node)
        before = _rested(node, eventually)
        for _ in range(2000):
            _check_port(node)
        echo(Peer("node", "VERAICON", "127.0.0.1", node.port, "TEST", timeout_s=10.0))
        after = _rested(node, eventually)
    assert after.files <= before.files
    assert after.resident_mib < before.resident_mib + 10


@pytest.mark.requirement("DICOM-ASSOC-007")
def test_aborted_and_vanished_callers_leave_no_socket_open(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., object]
) -> None:
    with running_node(tmp_path / "node", free_port()) as node:

        def trouble(times: int) -> None:
            for _ in range(times):
                assoc = AE("TEST").associate("127.0.0.1", node.port, contexts=verification_contexts(), ae_title="VERAICON")
                assoc.abort()
                _vanish(node, associated=True)
                _vanish(node, associated=False)

        trouble(5)
        before = _rested(node, eventually)
        trouble(30)
        assert run_dcmtk("echoscu", "--abort", "-aec", "VERAICON", "127.0.0.1", str(node.port)).returncode == 0
        after = _rested(node, eventually)
        assert after.files <= before.files
        assert after.resident_mib < before.resident_mib + 10
        assert "Traceback" not in node.log()
