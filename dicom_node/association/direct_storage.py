"""C-STORE requests answered by the thread that reads them.

pynetdicom hands each message through two threads, three queues and polling loops that sleep a millisecond each: more time than
it takes to make an instance durable. Here the reading thread of an association writes a dataset to disk as its PDUs arrive,
and answers it. Whatever is not a C-STORE request goes on to pynetdicom, PDU by PDU, as if it had read it itself.

References
----------
DICOM PS3.8 9.2 (state machine; Sta6 is the state of data transfer), 9.3.5; PS3.7 9.3.1 (C-STORE).
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from pynetdicom.pdu_primitives import P_DATA

from dicom_node.association import wire

_DATA_TRANSFER = "Sta6"

# For so long the thread waits for the next request before it looks at pynetdicom's queues again: a sender that reads its next
# file needs less, and while requests come nobody else has anything to send.
_EXPECT_NEXT_S = 0.05
_SLICE_S = 0.005


class Reception(Protocol):
    """One instance on its way in."""

    def write(self, data: memoryview) -> None:
        """Take the next piece of the dataset; what goes wrong is told by `finish`."""
        ...

    def finish(self) -> tuple[int, str]:
        """Return the status, and a comment where it is a failure; the instance is safe if it is Success."""
        ...

    def abandon(self) -> None:
        """Forget what was written: the rest will not come."""
        ...


Begin = Callable[[Any, wire.Command, str, str], Reception]


class DirectStorage:
    """The reading side of one association.

    Parameters
    ----------
    assoc : Association
        Of pynetdicom, as acceptor.
    begin : callable
        Takes the association, the command of a C-STORE request, abstract and transfer syntax of its context.
    """

    def __init__(self, assoc: Any, begin: Begin) -> None:
        self._assoc = assoc
        self._dul = assoc.dul
        self._begin = begin
        self._read_as_pynetdicom = self._dul._read_pdu_data
        self._command = bytearray()
        self._held: list[bytes] = []  # items of a command that is not known yet
        self._passing = False  # the message under way is pynetdicom's
        self._reception: Reception | None = None
        self._request: wire.Command = {}
        self._context_id = 0
        self._dul._read_pdu_data = self._read
        self._queueing = threading.Lock()  # a message of pynetdicom's is in its queue as a whole, or not at all
        self._queue_message = assoc.dimse.send_msg
        assoc.dimse.send_msg = self._send_message

    def abandon(self) -> None:
        """Forget an instance that was under way when the connection ended."""
        if self._reception is not None:
            self._reception.abandon()
            self._reception = None

    def _send_message(self, primitive: Any, context_id: int) -> None:
        with self._queueing:
            self._queue_message(primitive, context_id)

    def _read(self) -> None:
        """Read PDUs as long as they are C-STORE requests that follow one another; called when one can be read."""
        if self._dul.state_machine.current_state != _DATA_TRANSFER:
            self._read_as_pynetdicom()
            return
        while self._read_one() and self._next_is_here():
            pass

    def _read_one(self) -> bool:
        """Read one PDU; return whether it was ours."""
        transport = self._dul.socket
        self._dul._idle_timer.restart()
        try:
            header = transport.recv(6)
            pdu_type, length = wire.pdu_header(header)
            body = transport.recv(length)
        except (OSError, wire.WireError):
            return self._raise("Evt17")  # the transport connection is closed, or as good as
        if len(body) != length:
            return self._raise("Evt17")
        if pdu_type != wire.P_DATA_TF:
            self._pass_on(bytes(header + body))
            return False
        try:
            ours = [self._take(pdv) for pdv in wire.pdvs(body)]
        except wire.WireError:
            return self._raise("Evt19")  # an invalid PDU: pynetdicom aborts
        return all(ours)

    def _take(self, pdv: wire.Pdv) -> bool:
        if self._reception is not None:
            self._take_data(pdv)
        elif self._passing:
            self._pass_items([bytes(pdv.item)])
            self._passing = not (pdv.is_last and (not pdv.is_command or not self._data_follows()))
        else:
            return self._take_command(pdv)
        return not self._passing

    def _take_data(self, pdv: wire.Pdv) -> None:
        if pdv.is_command or pdv.context_id != self._context_id or self._reception is None:
            raise wire.WireError("another message within a dataset")
        self._reception.write(pdv.data)
        if pdv.is_last:
            self._answer()

    def _take_command(self, pdv: wire.Pdv) -> bool:
        if not pdv.is_command or not (pdv.data or pdv.is_last) or len(self._command) + len(pdv.data) > wire.MAX_COMMAND_BYTES:
            raise wire.WireError("data without a command, an empty fragment, or an endless command")
        self._command += pdv.data
        self._held.append(bytes(pdv.item))
        if not pdv.is_last:
            return True
        self._request = wire.parse_command(bytes(self._command))
        held, self._held = self._held, []
        self._command.clear()
        context = self._assoc._accepted_cx.get(pdv.context_id)
        if wire.number(self._request, wire.COMMAND_FIELD) != wire.C_STORE_RQ or context is None:
            self._passing = self._data_follows()
            self._pass_items(held)
            return False
        self._context_id = pdv.context_id
        self._reception = self._begin(self._assoc, self._request, str(context.abstract_syntax), str(context.transfer_syntax[0]))
        if not self._data_follows():
            self._answer()
        return True

    def _data_follows(self) -> bool:
        return wire.number(self._request, wire.DATA_SET_TYPE) != wire.NO_DATA_SET

    def _answer(self) -> None:
        reception, self._reception = self._reception, None
        if reception is None:
            return
        status, comment = reception.finish()
        answer = wire.store_response(self._request, status=status, comment=comment)
        with self._queueing:
            if self._dul.to_provider_queue.empty():
                # Any trouble in sending ends the connection there, which the next read finds.
                self._dul.socket.send(wire.command_pdu(self._context_id, answer))
            else:  # behind a message of which a part may have been sent, never within it
                primitive = P_DATA()
                primitive.presentation_data_value_list = [[self._context_id, b"\3" + answer]]
                self._dul.send_pdu(primitive)

    def _pass_items(self, items: list[bytes]) -> None:
        self._pass_on(wire.pdu_of(items))

    def _pass_on(self, pdu: bytes) -> None:
        """Let pynetdicom decode a PDU and act on it."""
        try:
            decoded, event = self._dul._decode_pdu(bytearray(pdu))
        except Exception:  # noqa: BLE001  # pynetdicom does the same: whatever its decoder trips over is an invalid PDU
            self._raise("Evt19")
            return
        self._dul._recv_pdu.put(decoded)
        self._dul.event_queue.put(event)

    def _raise(self, event: str) -> bool:
        self.abandon()
        self._dul.event_queue.put(event)
        return False

    def _next_is_here(self) -> bool:
        """Wait a little for the next PDU; return False where pynetdicom has to look at its own queues first."""
        end = time.monotonic() + _EXPECT_NEXT_S
        while not self._dul._kill_thread and self._dul.to_provider_queue.empty() and self._dul.event_queue.empty():
            raw = self._dul.socket.socket
            if raw is None:
                return False
            with suppress(OSError, ValueError):
                if _pending(raw) or select.select([raw], [], [], _SLICE_S)[0]:
                    return True
            if time.monotonic() > end:
                return False
        return False


def _pending(raw: Any) -> bool:
    """Whether a TLS socket holds octets that it has decrypted already, which select does not see."""
    return hasattr(raw, "pending") and raw.pending() > 0
