"""What a caller may make us hold: the length and the time of a PDU, the messages that wait for their turn in memory.

pynetdicom believes the lengths that it is told, and collects and queues without end.

References
----------
DICOM PS3.8 9.3.1, D.1 (PDU length, Maximum Length), 9.2.3 (AA-7, AA-8: abort); PS3.7 D.3.3.3: one operation at a time where no
Asynchronous Operations Window was negotiated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET

from dicom_node.association import wire
from dicom_node.holding.headers import PARSE_ERRORS

# An association PDU has no negotiated length; 128 contexts and a long user identity stay well below this.
_MAX_ASSOCIATE_BYTES = 2**20
_ASSOCIATE_TYPES = (0x01, 0x02)
_HEADER_BYTES = 6

_AWAITING_CLOSE = "Sta13"
_LET_GO_BYTES = 2**16

# Messages of one association that wait to be served or are; C-CANCEL requests do not count.
_MAX_WAITING = 16

# All associations together may hold so many times what one may, and a short message finds room even then.
_ASSOCIATIONS_FULL = 4
_ALWAYS_BYTES = 2**16

# Some ten thousand UIDs. Only the lists of the normalized services are longer.
MAX_IDENTIFIER_BYTES = 2**20
_WITH_IDENTIFIER = (C_FIND_RQ, C_GET_RQ, C_MOVE_RQ)

# Decoded, a list of instances takes about thirty times its bytes: such messages are served one at a time.
_LONG_BYTES = 2**20
_WITH_LISTS = (N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET)


def bound_reads(assoc: Association, *, maximum_pdu_bytes: int, pdu_timeout_s: float) -> None:
    """Give each PDU a greatest length and a last moment.

    pynetdicom buffers up to 4 GiB for whoever connects, and waits for the rest of a PDU for ever. Here a longer PDU is an
    invalid one, which is answered with A-ABORT; one that takes longer ends the connection. What comes after an abort is let go.

    Parameters
    ----------
    maximum_pdu_bytes : int
        Maximum length that we negotiate; association PDUs may have 1 MiB.
    pdu_timeout_s : float
        From the first read of a PDU's header or body to its last, s.
    """
    dul, transport = assoc.dul, assoc.dul.socket
    poll, longest = dul._is_transport_event, max(_MAX_ASSOCIATE_BYTES, maximum_pdu_bytes)
    if transport.socket is not None:
        transport.socket.settimeout(pdu_timeout_s)  # for sending: a peer that reads nothing must not hold us either

    def recv(wanted: int) -> bytearray:
        if wanted > longest:
            raise wire.PduTooLong(f"a PDU of {wanted} bytes, allowed are {longest}")
        received = _read_in_time(transport, wanted, pdu_timeout_s)
        if len(received) == wanted == _HEADER_BYTES:
            kind, length = wire.pdu_header(received)
            # A body of six octets is an item header without data, which begins with 0: no type of a PDU does.
            if kind and kind not in _ASSOCIATE_TYPES and length > maximum_pdu_bytes:
                raise wire.PduTooLong(f"a PDU of {length} bytes, allowed are {maximum_pdu_bytes}")
        return received

    def polled() -> bool:
        if dul.state_machine.current_state == _AWAITING_CLOSE and transport.ready:
            return _let_go(dul, transport)
        try:
            return bool(poll())
        except wire.PduTooLong:
            dul.event_queue.put("Evt19")
            return True

    transport.recv = recv
    dul._is_transport_event = polled


def _read_in_time(transport: Any, wanted: int, timeout_s: float) -> bytearray:
    """Read so many octets, fewer where the connection ends; each read waits as long as is left of the time of them all."""
    received, at = bytearray(wanted), 0
    view, hurried = memoryview(received), False
    begun = time.monotonic()
    try:
        while at < wanted and (count := transport.socket.recv_into(view[at:])):
            at += count
            left_s = timeout_s - (time.monotonic() - begun)
            if left_s <= 0:
                raise TimeoutError("a PDU was not sent in time")
            if left_s < timeout_s / 2:  # a call for each read, which quick ones do not need
                transport.socket.settimeout(left_s)
                hurried = True
    finally:
        view.release()
        if hurried:
            transport.socket.settimeout(timeout_s)
    del received[at:]
    return received


def _let_go(dul: Any, transport: Any) -> bool:
    """Read and forget what comes after an abort or a release: pynetdicom answers each six octets with another abort."""
    try:
        more = transport.socket.recv(_LET_GO_BYTES)
    except OSError:
        more = b""
    if not more:
        dul.event_queue.put("Evt17")
    return True


class MessageRoom:
    """Room in memory for the messages of all associations of a node.

    Parameters
    ----------
    maximum_bytes : int
        Of the messages of one association together, the one under way and those that wait or are being served.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self.maximum_bytes = maximum_bytes
        self._held: dict[Any, Callable[[], int]] = {}
        self._lock = threading.Lock()
        self._long = threading.Lock()

    @property
    def of_node_bytes(self) -> int:
        """How much all associations together may hold; a short message finds room beyond it."""
        return self.maximum_bytes * _ASSOCIATIONS_FULL

    def enter(self, owner: Any, held: Callable[[], int]) -> None:
        """Count an association from now on; `held` tells how many bytes it holds."""
        with self._lock:
            self._held[owner] = held

    def leave(self, owner: Any) -> None:
        """Forget an association that has ended."""
        with self._lock:
            self._held.pop(owner, None)

    def why_full(self, owner: Any) -> str:
        """Return why an association holds too much, else an empty text."""
        with self._lock:
            others = [held for one, held in self._held.items() if one is not owner]
            own_bytes = self._held[owner]() if owner in self._held else 0
        if own_bytes > self.maximum_bytes:
            return f"messages of more than {self.maximum_bytes} bytes together"
        if own_bytes > _ALWAYS_BYTES and own_bytes + sum(held() for held in others) > self.of_node_bytes:
            return f"messages of all associations of more than {self.of_node_bytes} bytes together"
        return ""

    @contextmanager
    def turn(self, message: Any) -> Iterator[None]:
        """Wait, with a long list, until no other is being served."""
        if not isinstance(message, _WITH_LISTS) or _size_of(message) < _LONG_BYTES:
            yield
            return
        with self._long:
            yield


def bound_messages(assoc: Association, room: MessageRoom, *, on_violation: Callable[[str], None]) -> None:
    """Give the messages of an association a greatest size together, and a greatest number.

    pynetdicom collects the fragments of a message until the last one comes, if it ever does, and queues messages of a peer that
    sends without waiting for answers. And where a command set cannot be decoded its reading thread dies without a word. Here
    each of these is an invalid PDU: the association is aborted, and the reason is told.

    Parameters
    ----------
    room : MessageRoom
        Of the node; `MessageRoom.leave` is for whoever hears of the association's end.
    on_violation : callable
        Takes the reason.
    """
    dimse = assoc.dimse
    take, serve = dimse.receive_primitive, assoc._serve_request
    serving: list[Any] = []
    under_way = 0

    def refuse(reason: str) -> None:
        on_violation(reason)
        dimse.message = None
        assoc.dul.event_queue.put("Evt19")

    def waiting() -> list[Any]:
        with dimse.msg_queue.mutex:
            return [*serving, *(message for _, message in dimse.msg_queue.queue)]

    def held() -> int:
        return under_way + sum(map(_size_of, waiting()))

    def why_not() -> str:
        if len(waiting()) >= _MAX_WAITING:
            return f"more than {_MAX_WAITING} messages before their answers"
        if isinstance(dimse.message, _WITH_IDENTIFIER) and under_way > MAX_IDENTIFIER_BYTES:
            return f"an identifier of more than {MAX_IDENTIFIER_BYTES} bytes"
        return room.why_full(assoc)

    def receive_primitive(primitive: Any) -> None:
        nonlocal under_way
        under_way += sum(len(data) for _, data in primitive.presentation_data_value_list)
        reason = why_not()
        if not reason:
            try:
                take(primitive)
            except PARSE_ERRORS as error:
                reason = f"a message that cannot be decoded ({type(error).__name__})"
        if reason:
            refuse(reason)
        if dimse.message is None:
            under_way = 0

    def serve_request(message: Any, context_id: int) -> None:
        serving.append(message)
        try:
            with room.turn(message):
                serve(message, context_id)
        finally:
            serving.remove(message)

    room.enter(assoc, held)
    dimse.receive_primitive = receive_primitive
    assoc._serve_request = serve_request


def _size_of(message: Any) -> int:
    """Return the bytes of the dataset of a DIMSE primitive, however its parameter is called."""
    return sum(value.getbuffer().nbytes for value in vars(message).values() if isinstance(value, BytesIO))
