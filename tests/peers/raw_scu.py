"""A DICOM requestor made of bytes, for what no library would send: each PDU is put together by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.sop_class import Verification

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
ECHO, STORE = (Verification, ImplicitVRLittleEndian), (MRImageStorage, ExplicitVRLittleEndian)
RQ, AC, RJ, DATA, RELEASE, RELEASED, ABORT = range(1, 8)
COMMAND, DATASET, LAST = 1, 0, 2


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return a PDU (PS3.8 9.3.1), with a length of its own if wanted."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Return an item of an association PDU, or a sub-item."""
    return struct.pack(">BxH", kind, len(body) if length is None else length) + body


def context(context_id: int, abstract: str, *syntaxes: str) -> bytes:
    """Return a presentation context item (PS3.8 9.3.2.2)."""
    inner = item(0x30, abstract.encode()) + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    return item(0x20, bytes([context_id, 0, 0, 0]) + inner)


def associate_rq(
    contexts: Sequence[bytes], *, called: bytes = b"VERAICON", calling: bytes = b"RAW", user_items: bytes | None = None
) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU; `user_items` stands in for maximum length and implementation class."""
    users = user_items if user_items is not None else item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")
    variable = item(0x10, APPLICATION_CONTEXT) + b"".join(contexts) + item(0x50, users)
    return pdu(RQ, struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32) + variable)


def pdv(context_id: int, control: int, data: bytes, *, length: int | None = None) -> bytes:
    """Return a presentation data value item (PS3.8 9.3.5.1)."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, context_id, control) + data


def element(number: int, value: bytes, *, length: int | None = None) -> bytes:
    """Return an element of a command set (PS3.7 6.3.1)."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, number, len(value) if length is None else length) + value


def us(value: int) -> bytes:
    """Return an unsigned short."""
    return struct.pack("<H", value)


def command(*elements: bytes, group_length: int | None = None) -> bytes:
    """Return a command set with its group length."""
    body = b"".join(elements)
    return element(0, struct.pack("<L", len(body) if group_length is None else group_length)) + body


def store_rq(sop_class: str, sop_instance: str, message_id: int = 1) -> bytes:
    """Return the command set of a C-STORE request."""
    return command(
        element(0x0002, sop_class.encode()),
        element(0x0100, us(0x0001)),
        element(0x0110, us(message_id)),
        element(0x0700, us(0)),
        element(0x0800, us(1)),
        element(0x1000, sop_instance.encode()),
    )


def echo_rq(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO request."""
    elements = ((0x0002, Verification.encode()), (0x0100, us(0x0030)), (0x0110, us(message_id)), (0x0800, us(0x0101)))
    return command(*(element(*one) for one in elements))


def status_of(answer: bytes) -> int:
    """Return the Status of a response's command set, as one P-DATA-TF PDU's body."""
    at = 6
    while at < len(answer):
        number, length = struct.unpack_from("<2xHL", answer, at)
        if number == 0x0900:
            return int(struct.unpack_from("<H", answer, at + 8)[0])
        at += 8 + length
    raise AssertionError("a response without Status")


class RawScu:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, *pieces: bytes) -> None:
        """Send bytes; a connection that the node has closed is for `read` to find."""
        with suppress(OSError):
            self.connection.sendall(b"".join(pieces))

    def read(self) -> tuple[int, bytes] | None:
        """Return kind and body of the next PDU, None where the connection has ended."""
        header = self._exactly(6)
        if len(header) < 6:
            return None
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def associate(self, *contexts: tuple[str, str]) -> None:
        """Associate with contexts 1, 3, 5... or fail."""
        self.send(associate_rq([context(2 * number + 1, *one) for number, one in enumerate(contexts)]))
        answer = self.read()
        assert answer is not None
        assert answer[0] == AC, answer

    def store(self, context_id: int, sop_class: str, sop_instance: str, dataset: bytes, message_id: int) -> int | None:
        """Send one instance in PDUs of 16 KiB; return the status, or None where the node has ended the association."""
        room = 16384 - 6
        self.send(pdu(DATA, pdv(context_id, COMMAND | LAST, store_rq(sop_class, sop_instance, message_id))))
        for start in range(0, max(len(dataset), 1), room):
            control = DATASET | (LAST if start + room >= len(dataset) else 0)
            self.send(pdu(DATA, pdv(context_id, control, dataset[start : start + room])))
        answer = self.read()
        return status_of(answer[1]) if answer is not None and answer[0] == DATA else None

    def ends(self) -> bool:
        """Return whether the node ends the connection, by an abort or at once, answering nothing else."""
        answer = self.read()
        return answer is None or (answer[0] == ABORT and self.read() is None)

    def _exactly(self, wanted: int) -> bytes:
        received = b""
        with suppress(ConnectionError):
            while len(received) < wanted:
                piece = self.connection.recv(wanted - len(received))
                if not piece:
                    break
                received += piece
        return received


@contextmanager
def raw_scu(port: int, *, timeout_s: float = 10.0) -> Iterator[RawScu]:
    """Connect; a node that answers nothing and does not hang up within the time is a TimeoutError."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        yield RawScu(connection)
