"""C-STORE by the thread that reads: every way to cut messages into PDUs, and whatever comes between them."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification

from dicom_node.archive import Archive
from dicom_node.association import wire
from dicom_node.association.direct_sending import direct_sender
from dicom_node.calling.sending import store
from dicom_node.holding.files import part10_head, to_part10
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, association, echo
from domain.errors import PublicationError
from tests.builders_dicom import new_archive, series_datasets

_CONTEXTS = [build_context(MRImageStorage, ExplicitVRLittleEndian), build_context(Verification)]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@pytest.fixture
def node(archive: Archive) -> Iterator[StorageNode]:
    running = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, network_timeout_s=1.0, pdu_timeout_s=5.0)
    running.start()
    yield running
    running.stop(grace_s=1.0)


def _peer(node: StorageNode) -> Peer:
    return Peer("node", "VERAICON", "127.0.0.1", node.port, "TEST", timeout_s=10.0)


def _message(number: int, message_id: int) -> tuple[bytes, bytes]:
    """Return command and dataset of one instance of a small series."""
    data = to_part10(series_datasets(number)[-1])
    ds = series_datasets(number)[-1]
    head = part10_head(ds.SOPClassUID, str(ds.SOPInstanceUID), ExplicitVRLittleEndian)
    command = wire.store_request(sop_class_uid=ds.SOPClassUID, sop_instance_uid=str(ds.SOPInstanceUID), message_id=message_id)
    return command, data[len(head) :]


def _item(context_id: int, data: bytes, *, command: bool, last: bool) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, command + 2 * last) + data


def _pieces(context_id: int, data: bytes, size: int, *, command: bool) -> list[bytes]:
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    return [_item(context_id, piece, command=command, last=number == len(cut)) for number, piece in enumerate(cut, start=1)]


def _statuses(raw: Any, count: int) -> list[int | None]:
    found: list[int | None] = []
    stream = raw.makefile("rb")
    while len(found) < count:
        _, length = wire.pdu_header(stream.read(6))
        found += [wire.number(wire.parse_command(bytes(pdv.data)), wire.STATUS) for pdv in wire.pdvs(stream.read(length))]
    return found


def _raw(assoc: Any) -> Any:
    raw = assoc.dul.socket.socket
    raw.settimeout(10)
    return raw


@pytest.mark.requirement("DICOM-STORE-009")
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("together", [1, 3, 1000], ids=["an item a PDU", "three items a PDU", "one PDU"])
def test_a_message_may_be_cut_anywhere(node: StorageNode, archive: Archive, size: int, together: int) -> None:
    with association(_peer(node), _CONTEXTS) as assoc, direct_sender(assoc):
        raw = _raw(assoc)
        for number in (1, 2):
            command, data = _message(number, number)
            items = _pieces(1, command, size, command=True) + _pieces(1, data, size, command=False)
            for start in range(0, len(items), together):
                raw.sendall(wire.pdu_of(items[start : start + together]))
            assert _statuses(raw, 1) == [0]
    assert len(archive.references({})) == 2


@pytest.mark.requirement("DICOM-STORE-009")
def test_messages_that_do_not_wait_for_answers_are_all_answered(node: StorageNode, archive: Archive) -> None:
    with association(_peer(node), _CONTEXTS) as assoc, direct_sender(assoc):
        raw = _raw(assoc)
        stream = b""
        for number in range(1, 21):
            command, data = _message(number, number)
            stream += wire.pdu_of(_pieces(1, command, 4000, command=True)) + wire.pdu_of(_pieces(1, data, 300, command=False))
        raw.sendall(stream)
        assert _statuses(raw, 20) == [0] * 20
    assert len(archive.references({})) == 20


@pytest.mark.requirement("DICOM-STORE-009")
def test_other_messages_between_go_to_pynetdicom(node: StorageNode, archive: Archive) -> None:
    with association(_peer(node), _CONTEXTS) as assoc:
        for number in (1, 2, 3):
            assert assoc.send_c_echo().Status == 0
            assert assoc.send_c_store(series_datasets(number)[-1]).Status == 0
    assert len(archive.references({})) == 3


@pytest.mark.requirement("DICOM-ASSOC-005")
def test_a_long_push_is_no_idle_association(node: StorageNode, archive: Archive) -> None:
    """The network timeout of the node is one second."""
    with association(_peer(node), _CONTEXTS) as assoc, direct_sender(assoc) as sender:
        for number in range(1, 60):
            command, data = _message(number, number)
            uid = wire.text(wire.parse_command(command), wire.SOP_INSTANCE_UID)
            status = sender.send(
                memoryview(data), context_id=1, sop_class_uid=MRImageStorage, sop_instance_uid=uid, message_id=number
            )
            assert status == 0
            time.sleep(0.03)
    assert len(archive.references({})) == 59


@pytest.mark.requirement("DICOM-ASSOC-008")
def test_an_instance_in_the_context_of_another_class_is_refused_by_name(node: StorageNode, archive: Archive) -> None:
    """Context 3 is Verification."""
    command, data = _message(1, 1)
    with association(_peer(node), _CONTEXTS) as assoc, direct_sender(assoc):
        raw = _raw(assoc)
        raw.sendall(wire.pdu_of(_pieces(3, command, 4000, command=True)) + wire.pdu_of(_pieces(3, data, 300, command=False)))
        assert _statuses(raw, 1) == [0x0122]
        raw.sendall(wire.pdu_of(_pieces(1, command, 4000, command=True)) + wire.pdu_of(_pieces(1, data, 300, command=False)))
        assert _statuses(raw, 1) == [0]
    assert len(archive.references({})) == 1


@pytest.mark.parametrize(
    "items",
    [
        [_item(1, _message(1, 1)[0], command=True, last=True), _item(1, b"half", command=False, last=False), _item(1, b"x", command=True, last=True)],
        [_item(1, b"data first", command=False, last=True)],
        [_item(1, b"\0" * 7, command=True, last=True)],
        [_item(99, _message(1, 1)[0], command=True, last=True), _item(99, b"data", command=False, last=True)],
        [struct.pack(">LBB", 9999, 1, 3) + b"short"],
    ],
    ids=["a command within data", "data without a command", "no command set", "an unknown context", "an item beyond its PDU"],
)  # fmt: skip
def test_what_no_message_is_ends_the_association_and_leaves_nothing(
    node: StorageNode, tmp_path: Path, eventually: Callable[..., object], items: list[bytes]
) -> None:
    with association(_peer(node), _CONTEXTS) as assoc:
        with direct_sender(assoc):
            _raw(assoc).sendall(wire.pdu_of(items))
        eventually(lambda: not assoc.is_established)
    eventually(lambda: not list((tmp_path / "node" / "archive" / "incoming").iterdir()))
    echo(_peer(node))


@pytest.mark.requirement("DICOM-ASSOC-006")
def test_a_sender_that_goes_in_the_middle_leaves_nothing(
    node: StorageNode, archive: Archive, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    incoming = tmp_path / "node" / "archive" / "incoming"
    with association(_peer(node), _CONTEXTS) as assoc, direct_sender(assoc):
        command, data = _message(1, 1)
        _raw(assoc).sendall(
            wire.pdu_of([_item(1, command, command=True, last=True), _item(1, data[:99], command=False, last=False)])
        )
        eventually(lambda: list(incoming.iterdir()))
        _raw(assoc).shutdown(socket.SHUT_RDWR)
    eventually(lambda: not list(incoming.iterdir()))
    assert not archive.references({})
    echo(_peer(node))


class _Unsteady:
    """A peer, made by hand since no real one does it on purpose: it aborts after so many instances of each association."""

    def __init__(self, takes: list[int]) -> None:
        self.takes, self.kept, self.ae = takes, [], AE("UNSTEADY")
        self.ae.add_supported_context(MRImageStorage)
        self.server: Any = None

    def __enter__(self) -> Peer:
        self.server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        return Peer("unsteady", "UNSTEADY", "127.0.0.1", self.server.server_address[1], timeout_s=3.0)

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()

    def _store(self, event: evt.Event) -> int:
        if self.takes and self.takes[0] == 0:
            self.takes.pop(0)
            event.assoc.abort()
            return 0xA700
        if self.takes:
            self.takes[0] -= 1
        self.kept.append(str(event.request.AffectedSOPInstanceUID))
        return 0


@pytest.mark.requirement("DICOM-STORE-011")
def test_an_association_that_ends_too_early_is_opened_again_for_the_rest() -> None:
    peer = _Unsteady([3, 2])
    sent = series_datasets(9)
    with peer as address:
        assert store(address, sent) == 9
    assert set(peer.kept) == {str(ds.SOPInstanceUID) for ds in sent}
    assert len(peer.kept) == 9, "none that was answered is sent again"


@pytest.mark.requirement("DICOM-STORE-011")
def test_a_peer_that_always_ends_too_early_is_told_with_its_count() -> None:
    with _Unsteady([1, 1, 0, 0, 0, 0, 0]) as address, pytest.raises(PublicationError, match="2 of 9 instances"):
        store(address, series_datasets(9))
