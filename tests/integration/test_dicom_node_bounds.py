"""What a caller may make the node hold: PDUs, messages that wait, classes; and peers that take next to nothing."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel
from pynetdicom.transport import AssociationSocket

from dicom_node.archive import Archive
from dicom_node.association.bounding import MessageRoom, bound_messages, bound_reads
from dicom_node.association.wire import PduTooLong
from dicom_node.calling.sending import store
from dicom_node.commitment.messages import WELL_KNOWN_INSTANCE, commitment_contexts
from dicom_node.presentation import FIND_CLASSES, verification_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, association, echo
from dicom_node.services.service import Handler
from domain.errors import PeerAnswerInvalid
from tests.builders_dicom import new_archive, series_datasets
from tests.peers.raw_scu import (
    COMMAND,
    DATA,
    DATASET,
    ECHO,
    LAST,
    RJ,
    STORE,
    associate_rq,
    command,
    context,
    echo_rq,
    element,
    item,
    pdu,
    pdv,
    raw_scu,
    status_of,
    store_rq,
    us,
)


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


def pair(pdu_timeout_s: float | None) -> tuple[AssociationSocket, socket.socket]:
    """Return a transport as an association has it, mended where a time is given, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    dul = SimpleNamespace(event_queue=SimpleNamespace(put=lambda _: None), socket=None, _is_transport_event=lambda: False)
    assoc: Any = SimpleNamespace(dul=dul, network_timeout=None)
    dul.socket = AssociationSocket(assoc, client_socket=ours)
    if pdu_timeout_s is not None:
        bound_reads(assoc, maximum_pdu_bytes=16384, pdu_timeout_s=pdu_timeout_s)
    return dul.socket, theirs


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_half_a_pdu_is_waited_for_without_end_only_without_the_mend() -> None:
    transport, theirs = pair(None)
    theirs.sendall(b"half")
    waiting = threading.Thread(target=transport.recv, args=(8,))
    waiting.start()
    waiting.join(timeout=0.7)
    assert waiting.is_alive()
    theirs.close()
    waiting.join(timeout=5)
    transport.socket.close()

    transport, theirs = pair(0.3)
    theirs.sendall(b"half")
    with pytest.raises(TimeoutError):
        transport.recv(8)
    theirs.sendall(b"a whole one")
    assert transport.recv(11) == b"a whole one"
    theirs.close()
    transport.socket.close()


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_bytes_that_trickle_do_not_prolong_the_time_of_a_pdu() -> None:
    transport, theirs = pair(0.5)
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.05):
            theirs.sendall(b".")

    sender = threading.Thread(target=trickle)
    sender.start()
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            transport.recv(10_000)
        assert time.monotonic() - began < 5
    finally:
        stop.set()
        sender.join(timeout=5)
        theirs.close()
        transport.socket.close()


@pytest.mark.requirement("DICOM-ASSOC-004")
@pytest.mark.parametrize(
    ("kind", "length", "taken"), [(1, 2**20, True), (1, 2**20 + 1, False), (4, 16384, True), (4, 16386, False)]
)
def test_the_length_of_a_pdu_is_not_believed_beyond_what_was_announced(kind: int, length: int, taken: bool) -> None:
    transport, theirs = pair(5.0)
    theirs.sendall(struct.pack(">BxL", kind, length))
    theirs.shutdown(socket.SHUT_WR)
    with nullcontext() if taken else pytest.raises(PduTooLong, match="allowed are"):
        transport.recv(6)
        transport.recv(length)
    theirs.close()
    transport.socket.close()


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_a_pdu_longer_than_announced_is_answered_with_an_abort_and_what_follows_is_let_go(node: StorageNode) -> None:
    with raw_scu(node.port) as raw:
        raw.associate(ECHO, STORE)
        longest = pdv(1, COMMAND | LAST, echo_rq())
        raw.send(pdu(DATA, pdv(3, DATASET, bytes(131072 - 6 + 2))))
        raw.send(pdu(DATA, longest) * 100)
        assert raw.ends()
    with raw_scu(node.port) as raw:
        raw.associate(ECHO, STORE)
        raw.send(pdu(DATA, pdv(3, COMMAND | LAST, store_rq(STORE[0], "1.2.3"))), pdu(DATA, pdv(3, LAST, bytes(131072 - 6))))
        answer = raw.read()
        assert answer is not None
        assert answer[0] == DATA, "the longest that was announced is taken"


class Fake(SimpleNamespace):
    """An association as a mend sees it."""

    __hash__ = object.__hash__


@pytest.mark.requirement("DICOM-ASSOC-004")
@pytest.mark.parametrize("mended", [False, True])
def test_fragments_of_a_message_that_never_ends_are_collected_without_end_only_without_the_mend(mended: bool) -> None:
    taken, told = [], []
    dimse = SimpleNamespace(message=object(), msg_queue=queue.Queue(), receive_primitive=taken.append)
    assoc: Any = Fake(dimse=dimse, dul=SimpleNamespace(event_queue=queue.Queue()), _serve_request=None)
    if mended:
        bound_messages(assoc, MessageRoom(100_000), on_violation=told.append)
    for _ in range(20):
        dimse.receive_primitive(SimpleNamespace(presentation_data_value_list=[[1, bytes(10_000)]]))
    assert (len(taken) == 20) is not mended
    assert (assoc.dul.event_queue.qsize() > 0) is mended
    assert told[:1] == (["messages of more than 100000 bytes together"] if mended else [])


class Slow:
    """Storage commitment that takes its time over each request."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = 0

    def contexts(self) -> Sequence[PresentationContext]:
        return commitment_contexts()

    def handlers(self) -> Sequence[Handler]:
        return [(evt.EVT_N_ACTION, self._action)]

    def _action(self, _event: evt.Event) -> tuple[int, None]:
        self.begun += 1
        self.go_on.wait(20)
        return 0x0000, None


@pytest.fixture
def slow(archive: Archive) -> Iterator[tuple[StorageNode, Slow]]:
    service = Slow()
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, services=[service], maximum_message_bytes=2**21)
    node.start()
    yield node, service
    service.go_on.set()
    node.stop()


def n_action(size: int) -> bytes:
    """Return an N-ACTION request in PDUs of 64 KiB; its action information is `size` zeros."""
    elements = (
        (0x0003, StorageCommitmentPushModel.encode()), (0x0100, us(0x0130)), (0x0110, us(1)), (0x0800, us(1)),
        (0x1001, WELL_KNOWN_INSTANCE.encode()), (0x1008, us(1)),
    )  # fmt: skip
    pieces = [pdu(DATA, pdv(1, COMMAND | LAST, command(*(element(*one) for one in elements))))]
    for start in range(0, size, 2**16):
        control = LAST if start + 2**16 >= size else DATASET
        pieces.append(pdu(DATA, pdv(1, control, bytes(min(2**16, size - start)))))
    return b"".join(pieces)


COMMITMENT = (StorageCommitmentPushModel, ImplicitVRLittleEndian)


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_messages_that_wait_for_their_turn_are_bounded_together(slow: tuple[StorageNode, Slow]) -> None:
    node, _ = slow
    with raw_scu(node.port) as raw:
        raw.associate(COMMITMENT)
        raw.send(n_action(900_000) * 2)
        echo(peer_of(node))
        raw.send(n_action(900_000))
        assert raw.ends(), "the third one would be more than 2 MiB with the others"


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_all_associations_have_room_together_and_short_messages_always(
    slow: tuple[StorageNode, Slow], eventually: Callable[..., object]
) -> None:
    node, service = slow
    with ExitStack() as stack:
        callers = [stack.enter_context(raw_scu(node.port)) for _ in range(5)]
        for raw in callers:
            raw.associate(COMMITMENT)
        for raw in callers[:4]:
            raw.send(n_action(2**21 - 4096))
        eventually(lambda: service.begun == 1 and _held_by(node) > 4 * (2**21 - 4096) - 1)
        callers[4].send(n_action(200_000))
        assert callers[4].ends()
        echo(peer_of(node))
        assert service.begun == 1, "a long list waits until no other is being read"
        service.go_on.set()
        for raw in callers[:4]:
            answer = raw.read()
            assert answer is not None
            assert status_of(answer[1]) == 0x0000
        assert _held_by(node) == 0
    eventually(lambda: not node._room._held)


def _held_by(node: StorageNode) -> int:
    return sum(held() for held in node._room._held.values())


@pytest.mark.requirement("DICOM-ASSOC-004")
def test_an_identifier_may_be_shorter_only(node: StorageNode) -> None:
    with raw_scu(node.port) as raw:
        raw.associate((FIND_CLASSES[1], ImplicitVRLittleEndian))
        rq = command(
            element(0x0002, FIND_CLASSES[1].encode()), element(0x0100, us(0x0020)), element(0x0110, us(1)),
            element(0x0700, us(0)), element(0x0800, us(1)),
        )  # fmt: skip
        raw.send(pdu(DATA, pdv(1, COMMAND | LAST, rq)), pdu(DATA, pdv(1, DATASET, bytes(2**16))) * 20)
        assert raw.ends()


@pytest.mark.requirement("DICOM-STORE-009")
def test_private_storage_classes_are_refused_where_the_settings_say_so(archive: Archive) -> None:
    private, named = "1.2.826.0.1.3680043.9.9999.1", str(MRImageStorage)
    for allowed, accepted in ((True, {private, named}), (False, {named})):
        node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, unknown_storage_classes=allowed)
        node.start()
        try:
            with association(peer_of(node), [build_context(private), build_context(named)]) as assoc:
                assert {str(context.abstract_syntax) for context in assoc.accepted_contexts} == accepted
                assert [context.result for context in assoc.rejected_contexts] == ([] if allowed else [3])
        finally:
            node.stop()


@pytest.mark.requirement("DICOM-STORE-012")
@pytest.mark.parametrize("length", [5, 6, 7])
def test_a_peer_that_takes_no_message_is_told_by_its_name(length: int) -> None:
    ae = AE("SMALL")
    ae.supported_contexts = [build_context(MRImageStorage), *verification_contexts()]
    ae.maximum_pdu_size = length
    opened: list[evt.Event] = []
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_ESTABLISHED, opened.append)])
    try:
        peer = Peer("small", "SMALL", "127.0.0.1", server.server_address[1], timeout_s=5.0)
        with pytest.raises(PeerAnswerInvalid, match=f"small takes PDUs of at most {length} octets"):
            store(peer, series_datasets(2))
    finally:
        server.shutdown()
    assert len(opened) == 1


def test_a_peer_with_an_odd_and_small_length_gets_even_fragments_and_commands_that_fit(tmp_path: Path) -> None:
    lengths: list[int] = []
    ae = AE("SMALL")
    ae.supported_contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian)]
    ae.maximum_pdu_size = 61
    received: list[Dataset] = []

    def note(event: evt.Event) -> None:
        if event.data[0] == DATA:
            lengths.append(len(event.data) - 6)

    def keep(event: evt.Event) -> int:
        received.append(event.dataset)
        return 0x0000

    handlers = [(evt.EVT_DATA_RECV, note), (evt.EVT_C_STORE, keep)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    sent = series_datasets(1)
    try:
        assert store(Peer("small", "SMALL", "127.0.0.1", server.server_address[1], timeout_s=5.0), sent) == 1
    finally:
        server.shutdown()
    assert received[0].PixelData == sent[0].PixelData
    assert max(lengths) == 60
    assert all(length % 2 == 0 for length in lengths)


def test_a_caller_that_takes_no_message_is_rejected(node: StorageNode) -> None:
    with raw_scu(node.port) as raw:
        raw.send(associate_rq([context(1, *ECHO)], user_items=item(0x51, struct.pack(">L", 6)) + item(0x52, b"1.2.3")))
        answer = raw.read()
        assert answer is not None
        assert answer[0] == RJ
