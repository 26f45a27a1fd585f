"""Mends of pynetdicom 3.0, each with a test that shows the fault without it. To be dropped one by one as releases mend them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pynetdicom
import structlog
from pynetdicom.association import Association
from pynetdicom.transport import AssociationServer, AssociationSocket

_log = structlog.get_logger(__name__)

# An A-ASSOCIATE-RQ has no negotiated length; 128 contexts and a long user identity stay well below this.
_MAX_ASSOCIATE_BYTES = 2**20

# P-DATA-TF: the six bytes of type and length are not counted in the negotiated maximum (PS3.8 D.1).
_READ_BYTES = 2**16


def configure() -> None:
    """Set pynetdicom's process-wide switches as a node of ours needs them. Calling it again changes nothing.

    Private and future storage classes are accepted, and neither identifiers nor whole messages are logged: they hold
    patient data. Sockets are closed also where the peer was gone before.
    """
    pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE = True
    pynetdicom._config.LOG_REQUEST_IDENTIFIERS = False
    pynetdicom._config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom._config.LOG_HANDLER_LEVEL = "none"
    AssociationSocket._shutdown_socket = _shut_and_close


class BoundedServer(AssociationServer):  # type: ignore[misc]  # mypy does not follow pynetdicom (pyproject.toml)
    """Accepts connections; one host may hold at most half of the places without saying who it is.

    pynetdicom counts a connection as an association from its first moment, so that a port scanner which says nothing takes all
    places until the ACSE timeout. And it listens with a backlog of five, beyond which a burst of callers waits a second for
    its next attempt to connect. Connections are taken in the accepting thread (each has threads of its own from there on), so
    that the count is exact.
    """

    request_queue_size = 128

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection may stay; one that may not is closed at once."""
        silent = [
            assoc
            for assoc in self.active_associations
            if not assoc.is_established and assoc.requestor.address_info.address == client_address[0]
        ]
        if len(silent) < max(1, int(self.ae.maximum_associations) // 2):
            return True
        _log.warning("a connection was closed: its host holds too many without association", host=client_address[0])
        return False

    def serve_in_background(self) -> None:
        """Accept connections in a thread of its own, until `shutdown`."""
        self.ae._servers.append(self)
        threading.Thread(target=self.serve_forever, name="AcceptorServer", daemon=True).start()


def send_at_once(assoc: Association) -> None:
    """Switch Nagle's algorithm off: a command PDU and its dataset PDU would each wait for an acknowledgement."""
    raw = _raw_socket(assoc)
    if raw is not None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def keep_responses(assoc: Association) -> None:
    """Leave responses to whoever waits for them.

    The requestor's reactor polls the message queue too, and between its look at the checkpoint and its look at the queue a
    response may arrive: it then takes the response, finds no request in it and drops it, and `send_c_store` waits out its
    timeout. A reactor has no use for a response, so it no longer sees one.
    """
    dimse = assoc.dimse
    take = dimse.get_msg

    def get_msg(block: bool = False) -> Any:
        if not block:
            _, waiting = dimse.peek_msg()
            # Nothing seen is nothing taken: a response may arrive between the look and the grasp.
            if waiting is None or waiting.MessageIDBeingRespondedTo is not None:
                return None, None
        return take(block)

    dimse.get_msg = get_msg


def bound_reads(assoc: Association, *, maximum_pdu_bytes: int, pdu_timeout_s: float) -> None:
    """Give each PDU a greatest length and a last moment.

    pynetdicom believes the four length bytes of whoever connects and buffers up to 4 GiB, and waits for the rest of a PDU for
    ever. Here a longer PDU, or one that takes longer, ends the connection.

    Parameters
    ----------
    maximum_pdu_bytes : int
        Maximum length that we negotiate; association PDUs may have 1 MiB.
    pdu_timeout_s : float
        From the first read of a PDU's header or body to its last, s.

    References
    ----------
    DICOM PS3.8 9.3.1, D.1: PDU length, Maximum Length.
    """
    transport = assoc.dul.socket
    limit = max(maximum_pdu_bytes, _MAX_ASSOCIATE_BYTES)
    raw = _raw_socket(assoc)
    if raw is not None:
        raw.settimeout(pdu_timeout_s)  # for sending: a peer that reads nothing must not hold us either

    def recv(wanted: int) -> bytearray:
        if wanted > limit:
            raise OSError(f"a PDU of {wanted} bytes, allowed are {limit}")
        received = bytearray()
        end = time.monotonic() + pdu_timeout_s
        try:
            while len(received) < wanted:
                # Sockets of timeout 0 do not block: below a millisecond the time is over.
                transport.socket.settimeout(max(end - time.monotonic(), 1e-3))
                chunk = transport.socket.recv(min(wanted - len(received), _READ_BYTES))
                if not chunk:
                    break
                received += chunk
                if time.monotonic() > end:
                    raise TimeoutError("a PDU was not sent in time")
            return received
        finally:
            transport.socket.settimeout(pdu_timeout_s)

    transport.recv = recv


def _shut_and_close(transport: AssociationSocket) -> None:
    """Close a socket. pynetdicom leaves it open where its shutdown fails: no connection was made, or the peer has reset it."""
    raw = transport.socket
    if raw is None:
        return
    with suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)
    raw.close()


def _raw_socket(assoc: Association) -> socket.socket | None:
    transport = assoc.dul.socket
    return transport.socket if transport is not None else None
