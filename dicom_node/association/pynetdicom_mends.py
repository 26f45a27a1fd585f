"""Mends of pynetdicom 3.0, each with a test that shows the fault without it. To be dropped one by one as releases mend them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pynetdicom
import pynetdicom.acse
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.presentation import negotiate_as_acceptor, negotiate_unrestricted
from pynetdicom.sop_class import _STORAGE_CLASSES as _STORAGE_BY_KEYWORD
from pynetdicom.transport import AssociationSocket

# See `rest_when_idle`.
_IDLE_AFTER_S, _IDLE_DELAY_S, _REST_S = 0.25, 0.01, 0.05

# PS3.6 table A-1: where the standard puts its storage classes, also those that pynetdicom does not list.
_STORAGE_ARC = "1.2.840.10008.5.1.4.1.1."
_STORAGE_CLASSES = frozenset(_STORAGE_BY_KEYWORD.values())


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
    pynetdicom.acse.negotiate_unrestricted = _negotiate


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


def rest_when_idle(assoc: Association) -> None:
    """Let the two threads of an association sleep longer while nothing comes.

    Each looks for work a thousand times a second, which makes ten idle associations cost a third of a processor. After a
    quarter of a second without a PDU the reading thread looks a hundred times a second, and the other one waits to be told.
    """
    dul, poll = assoc.dul, assoc.dul._is_transport_event
    checkpoint = assoc._reactor_checkpoint = _RestingCheckpoint()
    busy_delay_s = dul._run_loop_delay
    came, told = time.monotonic(), True

    def polled() -> bool:
        nonlocal came, told
        if not told:  # what came last has been acted on since then
            checkpoint.rouse()
            told = True
        if poll():
            came, told = time.monotonic(), False
            dul._run_loop_delay = busy_delay_s
            return True
        if time.monotonic() - came > _IDLE_AFTER_S:
            dul._run_loop_delay = _IDLE_DELAY_S
        return False

    dul._is_transport_event = polled


class _RestingCheckpoint(threading.Event):
    """Where the thread of an association stops in each of its rounds: it goes on when there may be something to do."""

    def __init__(self) -> None:
        super().__init__()
        self._roused = threading.Event()
        self.set()

    def rouse(self) -> None:
        """End the rest."""
        self._roused.set()

    def set(self) -> None:
        """Let the thread pass, at once."""
        super().set()
        self._roused.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the thread may pass, and rest before that; whoever held it up meanwhile still does."""
        super().wait(timeout)
        self._roused.wait(_REST_S)
        self._roused.clear()
        return super().wait(timeout)


def refuse_unknown_storage(assoc: Association) -> None:
    """Let no storage class pass at negotiation that the standard, as we know it, does not name: private and future ones."""
    for context in assoc.requestor.primitive.presentation_context_definition_list:
        context.is_refused = not _is_named(context.abstract_syntax)


def take_over(assoc: Association, kinds: tuple[Any, ...], answer: Callable[[Any, Any, Any], None]) -> None:
    """Answer requests of some kinds in place of pynetdicom, which serves all others as before.

    Its own C-MOVE names us as the originator instead of the caller, opens one association for all instances and does not see
    that the caller has gone; its C-GET decodes and encodes each instance; and before either it forgets cancels that came right
    behind the request.

    Parameters
    ----------
    kinds : tuple of type
        DIMSE primitives, such as C_GET.
    answer : callable
        Takes the association, the request and its presentation context, and sends all responses.
    """
    serve = assoc._serve_request

    def serve_request(message: Any, context_id: int) -> None:
        context = assoc._accepted_cx.get(context_id)
        if not isinstance(message, kinds) or not message.is_valid_request or context is None:
            serve(message, context_id)
            return
        answered = False
        try:
            answer(assoc, message, context)
            answered = True
        finally:
            if not answered:  # the peer would wait for us without end
                assoc.abort()

    assoc._serve_request = serve_request


def close_transport(assoc: Association) -> None:
    """Close the socket of an association that has ended; pynetdicom leaves it open on some ways out."""
    transport = assoc.dul.socket
    if transport is not None:
        _shut_and_close(transport)


def _negotiate(requested: Any, supported: Any, roles: Any = None) -> tuple[Any, Any]:
    """Negotiate storage without restriction, and everything else by what is supported.

    pynetdicom takes each class that it does not know itself for storage, such as the worklist, and accepts it; and it drops the
    answers to roles that were proposed for other classes than storage.

    References
    ----------
    DICOM PS3.8 9.3.3.2: result 3, abstract syntax not supported. PS3.7 D.3.3.4.2: without an answer the default roles hold, and
    a peer may not bring us its commitment report.
    """
    storage = [context for context in requested if _is_taken_unlisted(context)]
    others = [context for context in requested if not _is_taken_unlisted(context)]
    stored, stored_roles = negotiate_unrestricted(storage, [], roles)
    served, served_roles = negotiate_as_acceptor(others, supported, roles)
    return sorted([*stored, *served], key=lambda context: int(context.context_id)), [*served_roles, *stored_roles]


def _is_storage(uid: UID) -> bool:
    """Whether a SOP class may be one of storage: named so, or not named by the standard as we know it."""
    return uid in _STORAGE_CLASSES or uid.startswith(_STORAGE_ARC) or uid.is_private or uid not in UID_dictionary


def _is_named(uid: UID) -> bool:
    return uid in _STORAGE_CLASSES or uid in UID_dictionary


def _is_taken_unlisted(context: Any) -> bool:
    return _is_storage(context.abstract_syntax) and not getattr(context, "is_refused", False)


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
