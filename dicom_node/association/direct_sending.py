"""C-STORE requests written to the connection itself, and their answers read from it.

pynetdicom decodes and encodes each dataset, cuts it into small PDUs, and lets the answer pass through two polling threads; and
one of these may take the answer from the other (`pynetdicom_mends.keep_responses`). Here pynetdicom opens and ends
the association; in between, while instances are sent, its threads rest and the sender owns the connection.

References
----------
DICOM PS3.8 9.3.5 (P-DATA-TF), D.1 (maximum length); PS3.7 9.3.1 (C-STORE).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from dicom_node.association import wire

# PDUs are written in strides of about this size: one call for most instances, and no second copy of a large one.
_STRIDE_BYTES = 2**22

_RESTING_DELAY_S = 0.05


@contextmanager
def direct_sender(assoc: Any) -> Iterator[DirectSender]:
    """Own the connection of an established association, as its requestor; pynetdicom has it back at the end."""
    dul = assoc.dul
    assoc._reactor_checkpoint.clear()
    while assoc.is_established and not assoc._is_paused:
        time.sleep(1e-4)
    poll, delay = dul._is_transport_event, dul._run_loop_delay
    dul._is_transport_event, dul._run_loop_delay = _nothing, _RESTING_DELAY_S
    try:
        yield DirectSender(assoc)
    finally:
        dul._is_transport_event, dul._run_loop_delay = poll, delay
        dul._idle_timer.restart()
        assoc._reactor_checkpoint.set()


def _nothing() -> bool:
    return False


class DirectSender:
    """Sends one instance after another over one association; made by `direct_sender`."""

    def __init__(self, assoc: Any) -> None:
        self._dul = assoc.dul
        self._transport = assoc.dul.socket
        self._maximum_length = int(assoc.acceptor.maximum_length or 0)
        self._ended = not assoc.is_established

    def send(
        self,
        data: memoryview,
        *,
        context_id: int,
        sop_class_uid: str,
        sop_instance_uid: str,
        message_id: int,
        move_originator: tuple[str, int] | None = None,
    ) -> int | None:
        """Send an instance; return the status that the peer answers, None where the association ended before.

        Parameters
        ----------
        data : memoryview
            The dataset, encoded in the transfer syntax of the context.
        """
        if self._ended:
            return None
        command = wire.store_request(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            message_id=message_id,
            move_originator=move_originator,
        )
        try:
            self._write(context_id, command, data)
            return self._status(message_id)
        except wire.PduTooLong:
            self._end("Evt19")
        except (OSError, wire.WireError):
            self._end("Evt17")
        return None

    def _write(self, context_id: int, command: bytes, data: memoryview) -> None:
        stride: list[bytes | memoryview] = []
        size = 0
        commands = wire.data_pdus(context_id, memoryview(command), self._maximum_length, is_command=True)
        for piece in chain(commands, wire.data_pdus(context_id, data, self._maximum_length)):
            stride.append(piece)
            size += len(piece)
            if size > _STRIDE_BYTES:
                self._transport.socket.sendall(b"".join(stride))
                stride, size = [], 0
        self._transport.socket.sendall(b"".join(stride))

    def _status(self, message_id: int) -> int | None:
        """Read PDUs until the answer is whole."""
        command = bytearray()
        while True:
            header = self._transport.recv(6)
            pdu_type, length = wire.pdu_header(header)
            body = self._transport.recv(length)
            if len(body) != length or not length:
                raise wire.WireError("the connection ended in a PDU")
            if pdu_type != wire.P_DATA_TF:
                self._pass_on(bytes(header + body))
                return None
            for pdv in wire.pdvs(body):
                if not (pdv.data or pdv.is_last):
                    raise wire.WireError("an empty fragment")
                command += pdv.data
                if pdv.is_command and pdv.is_last:
                    return _answered(wire.parse_command(bytes(command)), message_id)
            if len(command) > wire.MAX_COMMAND_BYTES:
                raise wire.WireError("an endless answer")

    def _pass_on(self, pdu: bytes) -> None:
        """Let pynetdicom act on what ends the association: A-ABORT, A-RELEASE-RQ, or what is no PDU at all."""
        self._ended = True
        try:
            decoded, event = self._dul._decode_pdu(bytearray(pdu))
        except Exception:  # noqa: BLE001  # whatever its decoder trips over is an invalid PDU
            self._end("Evt19")
            return
        self._dul._recv_pdu.put(decoded)
        self._dul.event_queue.put(event)

    def _end(self, event: str) -> None:
        self._ended = True
        self._dul.event_queue.put(event)


def _answered(command: wire.Command, message_id: int) -> int:
    status = wire.number(command, wire.STATUS)
    if (
        status is None
        or wire.number(command, wire.COMMAND_FIELD) != wire.C_STORE_RSP
        or wire.number(command, wire.RESPONDED_TO) != message_id
    ):
        raise wire.WireError("another message than the answer to this request")
    return status
