"""MLLP: frames in a stream of bytes (pure), and a caller that sends a message and waits for its acknowledgement.

References
----------
HL7 v2.5.1 Appendix C 4.3 (Minimal Lower Layer Protocol); HL7 Transport Specification MLLP Release 1 (block format) and
Release 2 (a commit acknowledgement answers each block; ours is the ACK message, as integration engines do it).
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from domain.errors import PeerAnswerInvalid, PeerUnreachable

START, END, CARRIAGE_RETURN = b"\x0b", b"\x1c", b"\r"
_CHUNK = 65536
# What is kept of a block that is too long: its header fits in.
_BEGINNING = 4096


def framed(content: bytes) -> bytes:
    """Return a message as one block."""
    return START + content + END + CARRIAGE_RETURN


@dataclass(frozen=True, slots=True)
class Overlong:
    """A block longer than the limit that has ended: its beginning, so that it can be answered; the rest is gone."""

    beginning: bytes


class Framer:
    """Takes a stream apart; how it was cut into packets does not matter.

    Bytes between blocks (a lone CR, a health check) are dropped. A block ends with FS; the CR after it may be missing. A
    block in which another begins was cut off: it is dropped, so it is never acknowledged, and its sender repeats it.
    A block longer than the limit takes no memory beyond it, and those before and after it are whole.

    Parameters
    ----------
    limit : int
        Longest message, bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, bytearray()
        self._scanned = 0
        self._beginning: bytes | None = None

    @property
    def inside(self) -> bool:
        """Whether a block has begun and not ended."""
        return bool(self._held) or self.overflown

    @property
    def overflown(self) -> bool:
        """Whether the block that has begun is longer than the limit."""
        return self._beginning is not None

    def feed(self, received: bytes) -> list[bytes | Overlong]:
        """Return the messages that are complete now, and what is left of those that were too long."""
        self._held += received
        found: list[bytes | Overlong] = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> bytes | Overlong | None:
        if self._beginning is None:
            begin = self._held.find(START)
            del self._held[: len(self._held) if begin < 0 else begin]
            self._scanned = 0 if begin != 0 else self._scanned
        if not self._held:
            return None
        end = self._held.find(END, self._scanned)
        if self._beginning is None and (end if end >= 0 else len(self._held)) - 1 > self._limit:
            self._beginning = bytes(self._held[1 : 1 + _BEGINNING])
        if self._beginning is not None:
            return self._rest_of_overlong(end)
        if end < 0:
            self._scanned = len(self._held)
            return None
        block = bytes(self._held[1:end])
        del self._held[: end + 1]
        self._scanned = 0
        return block[block.rfind(START) + 1 :]

    def _rest_of_overlong(self, end: int) -> Overlong | None:
        del self._held[: end + 1 if end >= 0 else len(self._held)]
        self._scanned = 0
        if end < 0 or self._beginning is None:
            return None
        ended, self._beginning = Overlong(self._beginning), None
        return ended


@dataclass(frozen=True)
class MllpPeer:
    """A receiver of ours.

    Attributes
    ----------
    tls : ssl.SSLContext or None
        How it is called over TLS, with our certificate where it wants one; None: without.
    """

    name: str
    host: str
    port: int
    timeout_s: float = 30.0
    tls: ssl.SSLContext | None = None
    limit: int = 1 << 20

    def ask(self, content: bytes) -> bytes:
        """Send a message on a connection of its own, and return what answers it.

        Raises
        ------
        PeerUnreachable
            If there is no connection, or no answer in time: the same message may be sent again.
        PeerAnswerInvalid
            If what comes back is no block, or longer than `limit`.
        """
        try:
            with self._connected() as connection:
                connection.sendall(framed(content))
                return self._answer(connection)
        except (OSError, ssl.SSLError) as error:
            raise self._unreachable(type(error).__name__) from error

    def probe(self) -> None:
        """Connect, with TLS where it is configured, and send nothing.

        Raises
        ------
        PeerUnreachable
            If there is no connection.
        """
        try:
            self._connected().close()
        except (OSError, ssl.SSLError) as error:
            raise self._unreachable(type(error).__name__) from error

    def _connected(self) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout=self.timeout_s)
        if self.tls is None:
            return connection
        try:
            return self.tls.wrap_socket(connection, server_hostname=self.host)
        except OSError:
            connection.close()
            raise

    def _answer(self, connection: socket.socket) -> bytes:
        framer = Framer(self.limit)
        while received := connection.recv(_CHUNK):
            answers = framer.feed(received)
            if framer.overflown or (answers and isinstance(answers[0], Overlong)):
                raise self._invalid(f"a block of more than {self.limit} bytes")
            if answers and isinstance(answers[0], bytes):
                return answers[0]
        raise self._unreachable("closed without an answer")

    def _unreachable(self, why: str) -> PeerUnreachable:
        return PeerUnreachable(
            found=f"no acknowledgement from HL7 v2 destination {self.name} ({why})",
            allowed="an acknowledgement within its timeout_s",
            action="check that the engine's channel is started, and host, port and TLS of the destination",
        )

    def _invalid(self, found: str) -> PeerAnswerInvalid:
        return PeerAnswerInvalid(
            found=f"{found} from HL7 v2 destination {self.name}",
            allowed="one acknowledgement in an MLLP block",
            action="check that the port belongs to an HL7 v2 channel",
        )
