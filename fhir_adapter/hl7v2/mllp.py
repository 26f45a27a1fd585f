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

from domain.errors import BodyTooLarge, PeerAnswerInvalid, PeerUnreachable

START, END, CARRIAGE_RETURN = b"\x0b", b"\x1c", b"\r"
_CHUNK = 65536


def framed(content: bytes) -> bytes:
    """Return a message as one block."""
    return START + content + END + CARRIAGE_RETURN


class Framer:
    """Takes a stream apart; how it was cut into packets does not matter.

    Bytes between blocks (a lone CR, a health check) are dropped. A block ends with FS; the CR after it may be missing. A
    block in which another begins was cut off: it is dropped, so it is never acknowledged, and its sender repeats it.

    Parameters
    ----------
    limit : int
        Longest message, bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, bytearray()
        self._scanned = 0
        self.dropped = 0

    @property
    def inside(self) -> bool:
        """Whether a block has begun and not ended."""
        return bool(self._held)

    def feed(self, received: bytes) -> list[bytes]:
        """Return the messages that are complete now.

        Raises
        ------
        BodyTooLarge
            If a block is longer than the limit.
        """
        self._held += received
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> bytes | None:
        begin = self._held.find(START)
        if begin != 0:
            gone = len(self._held) if begin < 0 else begin
            self.dropped += gone
            del self._held[:gone]
            self._scanned = 0
        if not self._held:
            return None
        end = self._held.find(END, self._scanned)
        if (end if end >= 0 else len(self._held)) - 1 > self._limit:
            raise BodyTooLarge(
                found=f"an MLLP block of more than {self._limit} bytes",
                allowed="blocks up to [hl7v2] maximum_message_mib",
                action="send less in one message, or raise the limit",
            )
        if end < 0:
            self._scanned = len(self._held)
            return None
        block = bytes(self._held[1:end])
        del self._held[: end + 1]
        self._scanned = 0
        kept = block.rfind(START) + 1
        self.dropped += kept
        return block[kept:]


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
            try:
                answers = framer.feed(received)
            except BodyTooLarge as error:
                raise self._invalid(error.found) from error
            if answers:
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
