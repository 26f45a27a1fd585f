"""C-CANCEL (PS3.7 9.3.2.3): which operation of an association was asked to stop.

pynetdicom forgets all cancels when it begins to serve a request, also one that came right behind that request and was read
with it. Here the order of arrival decides: a request makes earlier cancels of its Message ID void, later ones hold.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import evt
from pynetdicom.dimse_messages import C_CANCEL_RQ, C_FIND_RQ, C_GET_RQ, C_MOVE_RQ

# A caller that cancels what it never asked for must not fill our memory.
_MAX_PENDING = 64


class Cancellations:
    """Cancels of the associations that are open now."""

    def __init__(self) -> None:
        self._asked: WeakKeyDictionary[Any, set[int]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def handlers(self) -> Sequence[tuple[Any, Any]]:
        """Return the handler that listens to messages as they are read."""
        return [(evt.EVT_DIMSE_RECV, self._note)]

    def asked(self, assoc: Any, message_id: int) -> bool:
        """Return whether the operation with this Message ID was asked to stop."""
        with self._lock:
            return message_id in self._asked.get(assoc, ())

    def _note(self, event: evt.Event) -> None:
        message = event.message
        if isinstance(message, C_CANCEL_RQ):
            with self._lock:
                asked = self._asked.setdefault(event.assoc, set())
                if len(asked) < _MAX_PENDING:
                    asked.add(message.command_set.get("MessageIDBeingRespondedTo"))
        elif isinstance(message, (C_FIND_RQ, C_GET_RQ, C_MOVE_RQ)):
            with self._lock:
                self._asked.get(event.assoc, set()).discard(message.command_set.get("MessageID"))
