"""multipart/related as a stream, both ways: bodies are read in pieces with a bounded buffer and written part by part. Pure.

References
----------
RFC 2046 5.1.1 (grammar of multipart), RFC 2387 (multipart/related); DICOM PS3.18 8.6.1.2 (multipart payloads).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from dicom_node.web.media_types import MediaType
from domain.errors import BodyTooLarge, RequestInvalid

_MAX_PREAMBLE = 64 * 1024
_MAX_HEADERS = 16 * 1024
# RFC 2046: white space that a transport may append to a boundary line.
_MAX_PADDING = 256
# RFC 2046 allows 70 characters; Orthanc sends 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,199}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True, slots=True)
class PartBegan:
    """Headers of a part, names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Some bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is whole."""


Event = PartBegan | PartData | PartEnded


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


class MultipartReader:
    """Turns the pieces of a body into parts; holds no more than one boundary or header block of it.

    Parameters
    ----------
    boundary : str
        From the Content-Type.
    max_part_bytes : int
        Longest content of one part.
    max_parts : int
        Most parts of one body.

    Raises
    ------
    RequestInvalid
        If the boundary is none; from `feed` and `finish`, if the body breaks the grammar.
    BodyTooLarge
        From `feed`, if a limit is passed.
    """

    def __init__(self, boundary: str, *, max_part_bytes: int, max_parts: int) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise _malformed("a boundary that is none")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._max_part_bytes, self._max_parts = max_part_bytes, max_parts
        # A boundary stands at the start of a line; the first one may be the very start of the body.
        self._buffer = bytearray(b"\r\n")
        self._state = _State.PREAMBLE
        self._preamble_bytes = self._part_bytes = self._parts = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Take the next piece and yield what it completes."""
        if self._over:
            return
        self._buffer += piece
        progressed = True
        while progressed and not self._over:
            if self._state is _State.HEADERS:
                began = self._take_headers()
                progressed = began is not None
                if began is not None:
                    yield began
            else:
                in_body = self._state is _State.BODY
                data, progressed = self._take_until_boundary()
                if in_body and data:
                    yield PartData(data)
                if in_body and progressed:
                    yield PartEnded()

    def finish(self) -> None:
        """Make sure that the body ended with its closing boundary."""
        if not self._over:
            raise _malformed("a multipart body that ends before its closing boundary")

    @property
    def _over(self) -> bool:
        return self._state is _State.EPILOGUE

    def _take_until_boundary(self) -> tuple[bytes, bool]:
        """Return content up to the next boundary line, or as much as certainly precedes one; and whether one was passed."""
        start, in_body = 0, self._state is _State.BODY
        while (found := self._buffer.find(self._delimiter, start)) >= 0:
            after = self._after_boundary(found + len(self._delimiter))
            if after is None:
                return self._consume(found, found, in_body), False  # the line is not whole yet
            if after >= 0:
                return self._consume(found, after, in_body), True
            start = found + 1  # a longer line that only begins like a boundary: content
        safe = max(start, len(self._buffer) - len(self._delimiter) + 1)
        return self._consume(safe, safe, in_body), False

    def _after_boundary(self, position: int) -> int | None:
        """Return where a boundary line ends (with its CRLF still ahead), -1 where it is none, None where more is needed."""
        tail = bytes(self._buffer[position : position + _MAX_PADDING])
        if tail.startswith(b"--"):
            self._state = _State.EPILOGUE
            return position + 2
        padding = len(tail) - len(tail.lstrip(b" \t"))
        line_end = tail[padding : padding + 2]
        if line_end == b"\r\n":
            self._begin_part()
            return position + padding
        unfinished = tail == b"-" or (len(tail) < _MAX_PADDING and line_end in (b"", b"\r"))
        return None if unfinished else -1

    def _begin_part(self) -> None:
        self._state = _State.HEADERS
        self._parts += 1
        if self._parts > self._max_parts:
            raise _too_large(f"more than {self._max_parts} parts", f"at most {self._max_parts} instances in one request")

    def _consume(self, content: int, removed: int, in_body: bool) -> bytes:
        data = bytes(self._buffer[:content])
        del self._buffer[:removed]
        if not in_body:
            self._preamble_bytes += len(data)
            if self._preamble_bytes > _MAX_PREAMBLE:
                raise _malformed("no boundary at the start of a multipart body")
            return data
        self._part_bytes += len(data)
        if self._part_bytes > self._max_part_bytes:
            raise _too_large(
                f"a part of more than {self._max_part_bytes >> 20} MiB", f"parts of at most {self._max_part_bytes >> 20} MiB"
            )
        return data

    def _take_headers(self) -> PartBegan | None:
        end = self._buffer.find(b"\r\n\r\n", 0, _MAX_HEADERS)
        if end < 0:
            if len(self._buffer) >= _MAX_HEADERS:
                raise _too_large("headers of a part that do not end", f"at most {_MAX_HEADERS >> 10} KiB of headers")
            return None
        headers = _parse_headers(bytes(self._buffer[2:end]).decode("latin-1"))
        # The CRLF that ends the headers stays: content may begin with the next boundary at once.
        del self._buffer[: end + 2]
        self._state, self._part_bytes = _State.BODY, 0
        self._drop_line_end()
        return PartBegan(headers)

    def _drop_line_end(self) -> None:
        if not self._buffer.startswith(self._delimiter):
            del self._buffer[:2]


def boundary_of(content_type: MediaType) -> str:
    """Return the boundary of a multipart Content-Type.

    Raises
    ------
    RequestInvalid
        If it has none.
    """
    boundary = content_type.parameters.get("boundary", "")
    if not boundary:
        raise _malformed("a multipart Content-Type without boundary")
    return boundary


def new_boundary() -> str:
    """Return a boundary that no content holds."""
    return uuid.uuid4().hex


def write_multipart(boundary: str, parts: Iterable[tuple[Mapping[str, str], Iterable[bytes]]]) -> Iterator[bytes]:
    """Yield a multipart body piece by piece.

    Parameters
    ----------
    boundary : str
        See `new_boundary`.
    parts : iterable of (headers, pieces)
        Drawn one after the other, so one part is in memory at a time.
    """
    for headers, pieces in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        content = iter(pieces)
        first = next(content, b"")  # before the boundary: what fails here can still be told by a status
        yield f"\r\n--{boundary}\r\n{lines}\r\n".encode("latin-1") + first
        yield from content
    yield f"\r\n--{boundary}--\r\n".encode("ascii")


def _parse_headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    unfolded = re.sub(r"\r\n[ \t]+", " ", text)
    for line in unfolded.split("\r\n") if unfolded else ():
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise _malformed("a header of a part that is none")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def _malformed(found: str) -> RequestInvalid:
    return RequestInvalid(
        found=found, allowed="a body by RFC 2046 5.1.1, each boundary on a line of its own", action="send the request again"
    )


def _too_large(found: str, allowed: str) -> BodyTooLarge:
    return BodyTooLarge(found=found, allowed=allowed, action="send less at once, or raise [http] max_instance_mib")
