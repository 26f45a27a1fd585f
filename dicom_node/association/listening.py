"""Where the node listens: connections are accepted, counted, led through TLS, and closed for good when they end.

One thread accepts; everything that may take time, the TLS handshake too, happens in the association's own thread. Whatever goes
wrong there ends that association alone: its socket is closed, its threads end, and its owner is told.

References
----------
DICOM PS3.8 9.1.4 and 9.1.5 (transport connection, ARTIM timer); PS3.15 B.12 (TLS).
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, ip_network
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.association import pynetdicom_mends
from dicom_node.association.policy import plain_address
from dicom_node.association.tls import shake_hands, tls_failure

_log = structlog.get_logger(__name__)

# The thread of an association waits so long for its reading thread to end.
_JOIN_S = 5.0

Told = Callable[[Association, str], None]
Ended = Callable[[Association], None]


class BoundedServer(AssociationServer):  # type: ignore[misc]  # mypy does not follow pynetdicom (pyproject.toml)
    """Accepts connections; those that have not said who they are have bounds of their own.

    pynetdicom counts a connection as an association from its first moment, so that a port scanner which says nothing takes all
    places until the ACSE timeout. And it listens with a backlog of five, beyond which a burst of callers waits a second for
    its next attempt to connect. Connections are taken in the accepting thread (each has threads of its own from there on), so
    that the count is exact.

    Parameters
    ----------
    places : int
        How many associations the node takes. Half as many connections of one host may be without association request, three
        quarters as many of one network (/24, /64), as many altogether; in a small node at least 4, 6 and 8.
    handshake_timeout_s : float
        For the TLS handshake.
    on_failure : callable
        Takes an association and the reason for which its connection is given up before it was one.
    on_end : callable
        Takes each association when its thread ends, however it ended.
    """

    request_queue_size = 128

    def __init__(
        self, *arguments: Any, places: int, handshake_timeout_s: float, on_failure: Told, on_end: Ended, **options: Any
    ) -> None:
        self.places = places
        self.handshake_timeout_s = handshake_timeout_s
        self.on_failure, self.on_end = on_failure, on_end
        super().__init__(*arguments, request_handler=_Handler, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; where it is to be TLS, without the handshake, which a silent caller would never end."""
        connection, address = self.socket.accept()
        if self.ssl_context is None:
            return connection, address
        try:
            connection.settimeout(self.handshake_timeout_s)
            return self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address
        except OSError:
            connection.close()
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection may stay; one that may not is closed at once."""
        silent = [
            plain_address(assoc.requestor.address_info.address)
            for assoc in self.ae.active_associations
            if assoc.is_acceptor and assoc.requestor.primitive is None
        ]
        host = plain_address(client_address[0])
        of_network = Counter(map(_network_of, silent))[_network_of(host)]
        if silent.count(host) >= max(4, self.places // 2):
            why = "its host holds too many without association"
        elif of_network >= max(6, 3 * self.places // 4):
            why = "its network holds too many without association"
        elif len(silent) >= max(8, self.places):
            why = "too many connections are without association"
        else:
            return True
        _log.warning("a connection was closed at once", host=str(host), reason=why)
        return False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say that a connection could not be taken, such as for want of threads; socketserver prints a traceback."""
        kind = type(sys.exc_info()[1]).__name__
        _log.error("a connection could not be taken", action="association", kind=kind)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to an association of its own."""
        try:
            super().process_request(request, client_address)
        except Exception:
            self.shutdown_request(request)
            raise

    def serve_in_background(self) -> None:
        """Accept connections in a thread of its own, until `shutdown`."""
        self.ae._servers.append(self)
        threading.Thread(target=self.serve_forever, name="AcceptorServer", daemon=True).start()


class _Handler(RequestHandler):  # type: ignore[misc]
    def _create_association(self) -> Any:
        assoc = super()._create_association()
        # Threads call their `run`: these are the only places through which both threads of an association pass.
        assoc.dul.run = partial(_run_reading, assoc, assoc.dul.run)
        assoc.run = partial(_run_association, assoc, assoc.run, self.server)
        assoc.bind(evt.EVT_CONN_CLOSE, _note_close)
        return assoc


def _note_close(event: evt.Event) -> None:
    event.assoc.close_was_told = True


def _run_association(assoc: Any, run: Callable[[], None], server: BoundedServer) -> None:
    try:
        if _shake_hands(assoc, server):
            run()
    except Exception as error:  # noqa: BLE001  # the edge of a thread: its text may quote what was sent, so only its kind is told
        _log.error("an association ended by a fault", action="association", kind=type(error).__name__)
    finally:
        _end(assoc)
        server.on_end(assoc)


def _shake_hands(assoc: Any, server: BoundedServer) -> bool:
    """Do the TLS handshake where there is one; return whether there is a connection to go on with."""
    raw = assoc.dul.socket.socket
    if not isinstance(raw, ssl.SSLSocket):
        return True
    try:
        shake_hands(raw, timeout_s=server.handshake_timeout_s)
    except OSError as error:
        server.on_failure(assoc, f"no TLS: {tls_failure(error)}")
        return False
    return True


def _run_reading(assoc: Any, run: Callable[[], None]) -> None:
    """Run the reading thread of an association; its own thread sees when this one is no more."""
    try:
        run()
    except Exception as error:  # noqa: BLE001  # the edge of a thread, see above
        # pynetdicom's state machine raises what it has no transition for, after a peer that broke the protocol.
        _log.warning("a connection was given up", action="association", kind=type(error).__name__)
    finally:
        # pynetdicom waits for an association request until the ARTIM timer runs out, also where the caller has hung up long
        # ago: each port check would hold a thread so long. None is its own word for "no request came".
        assoc.dul.to_user_queue.put(None)


def _end(assoc: Any) -> None:
    """End the reading thread and close the socket of an association whatever state it is in."""
    assoc.dul.kill_dul()
    pynetdicom_mends.close_transport(assoc)
    if assoc.dul.is_alive():
        assoc.dul.join(_JOIN_S)
    if not getattr(assoc, "close_was_told", False):
        # Services let go of what they hold for a connection when they hear this, and pynetdicom does not always say it.
        evt.trigger(assoc, evt.EVT_CONN_CLOSE, {"address": assoc.requestor.address_info.as_tuple})


def _network_of(host: Any) -> Any:
    return ip_network((host, 24 if isinstance(host, IPv4Address) else 64), strict=False)
