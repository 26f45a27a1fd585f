"""P-DATA-TF PDUs and the command sets of C-STORE as bytes: the few octets that every instance costs. Pure.

pynetdicom builds a Dataset for each command and an object for each PDU, which takes longer than moving the instance itself.
Only C-STORE goes this way (`direct_storage`, `direct_sending`); all other messages stay with pynetdicom.

References
----------
DICOM PS3.8 9.3.5 (P-DATA-TF), Annex E (message control header); PS3.7 6.3.1 (command set), 9.3.1 (C-STORE), Annex E.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

P_DATA_TF = 0x04
_PDU_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_ELEMENT = struct.Struct("<HHL")

# PS3.7 E.1: elements of group 0000.
SOP_CLASS_UID, COMMAND_FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
PRIORITY, DATA_SET_TYPE, STATUS, ERROR_COMMENT = 0x0700, 0x0800, 0x0900, 0x0902
SOP_INSTANCE_UID, MOVE_ORIGINATOR, MOVE_ORIGINATOR_ID = 0x1000, 0x1030, 0x1031

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET, WITH_DATA_SET = 0x0101, 0x0001
MEDIUM_PRIORITY = 0x0000

# PS3.7 9.1.1.1: Message ID is an unsigned 16-bit number; ours run from 1.
MESSAGE_IDS = 65535

# An item header of six octets, and two of data: with less a peer takes nothing at all.
SHORTEST_PDU = 8

# A command set with long comments and AE titles stays far below; more is no command set.
MAX_COMMAND_BYTES = 2**16

Command = Mapping[int, bytes]


class WireError(ValueError):
    """Octets that are no PDU or no command set; the association is aborted. It never leaves the node."""


class PduTooLong(Exception):
    """A PDU whose header claims more than we take; the association is aborted. It never leaves the node."""


@dataclass(frozen=True, slots=True)
class Pdv:
    """One presentation data value item (PS3.8 9.3.5.1, E.2)."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview
    item: memoryview


def pdu_header(header: bytes | bytearray) -> tuple[int, int]:
    """Return type and length of a PDU from its first six octets.

    Raises
    ------
    WireError
        If there are not six.
    """
    if len(header) != _PDU_HEADER.size:
        raise WireError("the connection ended in a PDU header")
    pdu_type, length = _PDU_HEADER.unpack(header)
    return pdu_type, length


def pdvs(body: bytes | bytearray) -> Iterator[Pdv]:
    """Return the items of a P-DATA-TF PDU.

    Raises
    ------
    WireError
        If the item lengths do not fill the PDU.
    """
    view, at = memoryview(body), 0
    while at < len(view):
        if len(view) - at < _PDV_HEADER.size:
            raise WireError("a PDU that ends within an item header")
        length, context_id, control = _PDV_HEADER.unpack_from(view, at)
        end = at + 4 + length
        if length < 2 or end > len(view):
            raise WireError("an item that is longer than its PDU, or has no header")
        yield Pdv(context_id, bool(control & 1), bool(control & 2), view[at + 6 : end], view[at:end])
        at = end


def pdu_of(items: list[bytes]) -> bytes:
    """Return a P-DATA-TF PDU that holds whole items."""
    body = b"".join(items)
    return _PDU_HEADER.pack(P_DATA_TF, len(body)) + body


def parse_command(encoded: bytes) -> Command:
    """Return the elements of a command set by element number, values with their padding.

    Raises
    ------
    WireError
        If the octets are no elements of group 0000 in Implicit VR Little Endian.
    """
    command: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if len(encoded) - at < _ELEMENT.size:
            raise WireError("a command set that ends within an element")
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or length > len(encoded) - at:
            raise WireError("an element that is none of a command set")
        command[element] = encoded[at : at + length]
        at += length
    return command


def number(command: Command, element: int) -> int | None:
    """Return an unsigned 16-bit element, None where it is absent or something else."""
    value = command.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def text(command: Command, element: int) -> str:
    """Return a text or UID without its padding; empty where it is absent or not plain."""
    try:
        return command.get(element, b"").decode("ascii").strip("\0 ")
    except UnicodeDecodeError:
        return ""


def store_request(
    *, sop_class_uid: str, sop_instance_uid: str, message_id: int, move_originator: tuple[str, int] | None = None
) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7 table 9.3-1).

    Parameters
    ----------
    move_originator : (str, int) or None
        AE title and Message ID of the C-MOVE that this is a sub-operation of.
    """
    elements = {
        SOP_CLASS_UID: _uid(sop_class_uid),
        COMMAND_FIELD: _us(C_STORE_RQ),
        MESSAGE_ID: _us(message_id),
        PRIORITY: _us(MEDIUM_PRIORITY),
        DATA_SET_TYPE: _us(WITH_DATA_SET),
        SOP_INSTANCE_UID: _uid(sop_instance_uid),
    }
    if move_originator is not None:
        elements |= {MOVE_ORIGINATOR: _even(move_originator[0], " "), MOVE_ORIGINATOR_ID: _us(move_originator[1])}
    return _encode(elements)


def store_response(request: Command, *, status: int, comment: str = "") -> bytes:
    """Return the command set of the C-STORE-RSP to a request (PS3.7 table 9.3-2)."""
    elements = {
        COMMAND_FIELD: _us(C_STORE_RSP),
        RESPONDED_TO: request.get(MESSAGE_ID, _us(0)),
        DATA_SET_TYPE: _us(NO_DATA_SET),
        STATUS: _us(status),
    }
    elements |= {element: request[element] for element in (SOP_CLASS_UID, SOP_INSTANCE_UID) if element in request}
    if comment:
        elements[ERROR_COMMENT] = _even(comment, " ")
    return _encode(elements)


def command_pdu(context_id: int, command: bytes) -> bytes:
    """Return a command set as one P-DATA-TF PDU."""
    return _PDU_HEADER.pack(P_DATA_TF, len(command) + 6) + _PDV_HEADER.pack(len(command) + 2, context_id, 3) + command


def data_pdus(
    context_id: int, data: memoryview, maximum_length: int, *, is_command: bool = False
) -> Iterator[bytes | memoryview]:
    """Return headers and pieces of a dataset, or of a command set, to be sent in their order.

    Parameters
    ----------
    maximum_length : int
        Of the P-DATA-TF PDUs that the peer takes, octets after the PDU header (PS3.8 D.1): `SHORTEST_PDU` at least, 0 for any.
        Fragments have an even length (PS3.8 E.2).
    """
    room = (maximum_length - 6) // 2 * 2 if maximum_length else max(len(data), 1)
    for start in range(0, max(len(data), 1), room):
        piece = data[start : start + room]
        control = (2 if start + room >= len(data) else 0) | int(is_command)
        yield _PDU_HEADER.pack(P_DATA_TF, len(piece) + 6) + _PDV_HEADER.pack(len(piece) + 2, context_id, control)
        yield piece


def _encode(elements: Mapping[int, bytes]) -> bytes:
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in sorted(elements.items()))
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _uid(value: str) -> bytes:
    return _even(value, "\0")


def _even(value: str, padding: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    return encoded + padding.encode() * (len(encoded) % 2)
