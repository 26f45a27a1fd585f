"""Bodies of answers within bounds of size, time and encoding, whoever sends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx

from domain.errors import PeerAnswerInvalid

Wrong = Callable[[str, str], PeerAnswerInvalid]
"""Makes the error from what was found and what is allowed: it knows who the sender is."""


def body_parts(response: httpx.Response, wrong: Wrong) -> Iterator[bytes]:
    """Yield a body as it comes, decoded.

    Raises
    ------
    PeerAnswerInvalid
        If it is packed several times, or is not packed as its header says.
    """
    # A body packed several times over grows a thousandfold with each layer before a limit can be looked at.
    if "," in response.headers.get("Content-Encoding", ""):
        raise wrong("a body that is packed several times", "one Content-Encoding")
    try:
        yield from response.iter_bytes()
    except httpx.DecodingError as error:
        raise wrong("a body that its Content-Encoding does not decode", "the encoding that the header names") from error


def whole_body(response: httpx.Response, wrong: Wrong, *, limit: int, end_s: float) -> bytes:
    """Return a body, decoded.

    Parameters
    ----------
    limit : int
        Most bytes.
    end_s : float
        Monotonic time by which it has to be here: a server that drips bytes cannot hold a thread.

    Raises
    ------
    PeerAnswerInvalid
        As `body_parts`; also if it is longer than `limit`.
    httpx.ReadTimeout
        If it is not here in time.
    """
    received = bytearray()
    for part in body_parts(response, wrong):
        received += part
        if len(received) > limit:
            raise wrong(f"an answer of more than {limit} bytes", "smaller answers")
        if time.monotonic() > end_s:
            raise httpx.ReadTimeout("whole answer not in time", request=response.request)
    return bytes(received)
