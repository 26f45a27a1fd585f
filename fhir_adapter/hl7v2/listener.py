"""A listener for MLLP: many connections, several messages on each, answered in the order in which they came."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from domain.errors import ConfigurationError
from fhir_adapter.hl7v2.mllp import Framer, Overlong, framed

_log = structlog.get_logger()
_CHUNK = 65536
_ACCEPT_PAUSE_S = 0.5

Handler = Callable[[bytes, str], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sender may take of us.

    Attributes
    ----------
    idle_s : float
        A connection without traffic is closed after this long.
    message_s : float
        From the first byte of a message to its last.
    """

    message_bytes: int = 8 * 2**20
    connections: int = 64
    idle_s: float = 600.0
    message_s: float = 60.0


class MllpListener:
    """Listens on one port.

    Parameters
    ----------
    handler : callable
        Gets a message and the caller's address, and returns the answers to it. It answers only what is kept; where it raises
        OSError the connection is closed without an answer, and the sender repeats the message.
    refuse : callable
        Gets the beginning of a message that was too long, and the caller's address; returns the answers to it.
    tls : ssl.SSLContext or None
        For TLS; it demands a certificate of callers where it says so.
    admits : callable
        Tells by address whether a caller may speak.
    """

    def __init__(
        self,
        handler: Handler,
        refuse: Handler,
        *,
        host: str,
        port: int,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        admits: Callable[[str], bool] = lambda _host: True,
    ) -> None:
        self._handler, self._refuse, self._admits = handler, refuse, admits
        self._address, self._limits, self._tls = (host, port), limits, tls
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server: socket.socket | None = None
        self._thread = threading.Thread(target=self._accept, name=f"mllp {port}", daemon=True)

    def start(self) -> None:
        """Listen in the background.

        Raises
        ------
        ConfigurationError
            If the port cannot be listened on.
        """
        host, port = self._address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._server = socket.create_server(self._address, family=family, backlog=128)
        except OSError as error:
            raise ConfigurationError(
                found=f"HL7 v2 address {host}:{port} that cannot be listened on ({error.strerror})",
                allowed="a free port of an address of this machine",
                action="change [hl7v2] host, port or tls_port, or stop what uses it",
            ) from error
        self._server.settimeout(_ACCEPT_PAUSE_S)
        self._thread.start()

    def stop(self) -> None:
        """Close every connection; a message that was not acknowledged is repeated by its sender."""
        self._stop.set()
        if self._server is not None:
            self._thread.join(timeout=10)
            self._server.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stop.is_set() and self._server is not None:
            try:
                connection, address = self._server.accept()
            except TimeoutError:
                continue
            except OSError as error:  # no more files for a moment: those who wait in the backlog are served later
                _log.warning("no new connection", action="hl7v2", error=type(error).__name__)
                self._stop.wait(_ACCEPT_PAUSE_S)
                continue
            host = str(address[0])
            with self._lock:
                admitted = self._admits(host) and len(self._open) < self._limits.connections
                if admitted:
                    self._open.add(connection)
            if not admitted:
                _log.warning("connection refused", action="hl7v2", open=len(self._open))
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, host), name="mllp connection", daemon=True).start()

    def _serve(self, connection: socket.socket, host: str) -> None:
        speaking = connection
        try:
            connection.settimeout(self._limits.message_s)
            if self._tls is not None:
                speaking = self._wrapped(connection, self._tls)
            self._converse(speaking, host)
        except OSError as error:
            _log.info("connection ended", action="hl7v2", error=type(error).__name__)
        finally:
            with self._lock:
                self._open -= {connection, speaking}
            speaking.close()
            connection.close()

    def _wrapped(self, connection: socket.socket, tls: ssl.SSLContext) -> socket.socket:
        speaking = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:  # it has taken the place of the plain socket, which is none any more
            self._open.discard(connection)
            self._open.add(speaking)
        try:
            speaking.do_handshake()
        except OSError:  # a stranger, or no TLS at all: it is told at once, not when it gives up
            with self._lock:
                self._open.discard(speaking)
            speaking.close()
            raise
        return speaking

    def _converse(self, connection: socket.socket, host: str) -> None:
        framer = Framer(self._limits.message_bytes)
        begun = 0.0
        while not self._stop.is_set():
            left = self._limits.idle_s if not framer.inside else begun + self._limits.message_s - time.monotonic()
            connection.settimeout(max(left, 0.001))
            received = connection.recv(_CHUNK)
            if not received:
                return
            was_inside = framer.inside
            messages = framer.feed(received)
            if messages or not was_inside:
                begun = time.monotonic()
            connection.settimeout(self._limits.message_s)
            for message in messages:
                for answer in self._answers(message, host):
                    connection.sendall(framed(answer))

    def _answers(self, message: bytes | Overlong, host: str) -> Iterable[bytes]:
        if isinstance(message, Overlong):
            return self._refuse(message.beginning, host)
        return self._handler(message, host)
