"""Waiting that ends: for the next message of an association, as long as its bytes move.

A deadline for each message is wrong at both ends: a large instance over a slow line takes longer than any deadline that would
notice a dead peer soon. So the time runs from the last PDU that moved, in either direction.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import evt

# How often a wait looks whether the association has ended meanwhile.
_LOOK_S = 0.25

# PDUs of responses that wait to be sent, and how soon to look again.
_MAX_QUEUED = 32
_ROOM_S = 0.001


class Movement:
    """Notes when a PDU of an association was sent or received last.

    Parameters
    ----------
    assoc : Association
        Of pynetdicom.
    timeout_s : float
        For so long nothing may move while something is waited for.
    progress : callable or None
        Tells how far the operation is elsewhere: where that has changed, something has moved.
    """

    def __init__(self, assoc: Any, timeout_s: float, *, progress: Callable[[], object] | None = None) -> None:
        self.timeout_s = timeout_s
        self._progress = progress
        self._seen: object = progress() if progress is not None else None
        self._last_s = time.monotonic()
        assoc.bind(evt.EVT_DATA_SENT, self._moved)
        assoc.bind(evt.EVT_DATA_RECV, self._moved)

    def start(self) -> None:
        """Begin to wait: the time runs from now."""
        self._last_s = time.monotonic()

    def look(self) -> None:
        """Look at the progress elsewhere."""
        if self._progress is None:
            return
        seen, self._seen = self._seen, self._progress()
        if seen != self._seen:
            self.start()

    @property
    def left_s(self) -> float:
        """Time until the association counts as stuck."""
        return self._last_s + self.timeout_s - time.monotonic()

    def _moved(self, _event: evt.Event) -> None:
        self._last_s = time.monotonic()


def next_message(assoc: Any, movement: Movement) -> tuple[int | None, Any | None]:
    """Return the next DIMSE message with its context id, or Nones where the association has ended or nothing moves any more."""
    movement.start()
    while (left_s := movement.left_s) > 0:
        try:
            context_id, message = assoc.dimse.msg_queue.get(timeout=min(left_s, _LOOK_S))
        except queue.Empty:
            if has_ended(assoc):
                break
            movement.look()
        else:
            return context_id, message
    return None, None


def wait_while_it_moves(assoc: Any, movement: Movement) -> None:
    """Let pynetdicom's requestor wait by movement too, and nobody else take its messages.

    Its own wait ends a fixed time after the last whole message. And its reactor, which polls the same queue, may take a request
    of the peer that belongs to a C-GET under way (see `dicom_node.association.pynetdicom_mends.keep_responses`).
    """

    def get_msg(block: bool = False) -> tuple[int | None, Any | None]:
        return next_message(assoc, movement) if block else (None, None)

    assoc.dimse.get_msg = get_msg


def await_room(assoc: Any) -> None:
    """Wait, where some responses are queued, until they are sent and what the peer has said meanwhile is read.

    pynetdicom queues without end, and reads nothing while there is something to send: a cancel would wait for the last match.
    """
    dul = assoc.dul
    if dul.to_provider_queue.qsize() < _MAX_QUEUED:
        return
    while not has_ended(assoc) and not (dul.to_provider_queue.empty() and not dul.socket.ready):
        time.sleep(_ROOM_S)


def has_ended(assoc: Any) -> bool:
    """Return whether an association was released, aborted or lost, also where its reactor has not looked yet."""
    return not assoc.is_established or bool(assoc.acse.is_aborted()) or not assoc.dul.is_alive()
