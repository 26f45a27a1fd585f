"""N-EVENT-REPORT on an association that a peer has opened, while its own thread goes on serving that peer.

pynetdicom's `send_n_event_report` stops the serving thread and takes the next message for the answer, whatever it is, and a
peer that releases meanwhile waits for the timeout. Here the answer is picked out of what arrives; all else goes its usual way.

References
----------
DICOM PS3.7 10.1.1 (N-EVENT-REPORT), 10.3.1; PS3.4 J.3.3.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node.association.wire import MESSAGE_IDS

_POLL_S = 0.05
_ATTRIBUTE = "veraicon_notifications"


class Notifications:
    """The way back to the requestor of one association. Make it in the thread that serves the association.

    Parameters
    ----------
    assoc : Association
        Of pynetdicom, established, as acceptor.
    """

    def __init__(self, assoc: Any) -> None:
        self._assoc = assoc
        self._one_at_a_time = threading.Lock()
        self._sending = threading.Lock()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._after: dict[int, Callable[[], None]] = {}
        self._message_id = 0
        self._send = assoc.dimse.send_msg
        self._take = assoc.dimse.get_msg
        assoc.dimse.send_msg = self._send_whole
        assoc.dimse.get_msg = self._get_other

    @property
    def open(self) -> bool:
        """Whether the association can still carry a notification."""
        return bool(self._assoc.is_established)

    def after_answer(self, message_id: int, act: Callable[[], None]) -> None:
        """Call `act` once the N-ACTION response to this message is on its way."""
        self._after[message_id] = act

    def send(
        self,
        context_id: int,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        event_type: int,
        information: Dataset,
        timeout_s: float,
    ) -> int | None:
        """Send a notification and return the status of its answer; None where none came in time.

        Parameters
        ----------
        context_id : int
            An accepted presentation context of the SOP class.
        timeout_s : float
            For the answer.
        """
        context = self._assoc._accepted_cx.get(context_id)
        if context is None or not self.open:
            return None
        syntax = context.transfer_syntax[0]
        encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if encoded is None:
            return None
        request = N_EVENT_REPORT()
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(sop_class_uid), UID(sop_instance_uid)
        request.EventTypeID, request.EventInformation = event_type, BytesIO(encoded)
        with self._one_at_a_time:
            self._message_id = request.MessageID = self._message_id % MESSAGE_IDS + 1
            self._send_whole(request, context_id)
            return self._await_answer(request.MessageID, timeout_s)

    def _await_answer(self, message_id: int, timeout_s: float) -> int | None:
        end = time.monotonic() + timeout_s
        while self.open and time.monotonic() < end:
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except Empty:
                continue
            if answer.MessageIDBeingRespondedTo == message_id and answer.Status is not None:
                return int(answer.Status)
        return None

    def _send_whole(self, primitive: Any, context_id: int) -> None:
        """Send one message before the next: their fragments must not mix (PS3.8 E.1)."""
        with self._sending:
            self._send(primitive, context_id)
        if isinstance(primitive, N_ACTION) and primitive.MessageIDBeingRespondedTo is not None:
            act = self._after.pop(primitive.MessageIDBeingRespondedTo, None)
            if act is not None:
                act()

    def _get_other(self, block: bool = False) -> Any:
        """Return the next message that answers no notification."""
        while True:
            context_id, message = self._take(block)
            if not isinstance(message, N_EVENT_REPORT) or message.MessageIDBeingRespondedTo is None:
                return context_id, message
            self._answers.put(message)
            if not block:
                return None, None


def notifications_of(assoc: Any) -> Notifications:
    """Return those of an association, new at its first use; call it in the thread that serves the association."""
    if not hasattr(assoc, _ATTRIBUTE):
        setattr(assoc, _ATTRIBUTE, Notifications(assoc))
    made: Notifications = getattr(assoc, _ATTRIBUTE)
    return made


def serve_notifications(assoc: Any, served: Callable[[], None]) -> None:
    """Prepare an association that we opened for notifications from its acceptor.

    pynetdicom serves N-EVENT-REPORT in a thread of its own, which notes at its end that the association's thread runs, also
    where that is paused for a release or a request: who waits for the pause then waits for ever. Here the pause stays noted.

    Parameters
    ----------
    served : callable
        Called when the answer to a notification is on its way; before that the association must not be released.
    """
    serve = assoc._serve_request

    def serve_request(message: Any, context_id: int) -> None:
        serve(message, context_id)
        if threading.current_thread() is not assoc and not assoc._reactor_checkpoint.is_set():
            assoc._is_paused = True
        served()

    assoc._serve_request = serve_request
