"""Instances fetched from a peer: by C-GET over one association into our archive, or by C-MOVE to an AE that the peer knows.

References
----------
DICOM PS3.4 C.4.2.1 (C-MOVE SCU), C.4.3.1 (C-GET SCU); PS3.7 D.3.3.4 (role selection).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role

from dicom_node.archive import Archive
from dicom_node.association.waiting import Movement, wait_while_it_moves
from dicom_node.calling.arriving import Arrivals, received_directly
from dicom_node.calling.remote import PullCounts, Tell
from dicom_node.presentation import GET_CLASSES, MOVE_CLASSES, received_contexts, retrieve_contexts
from dicom_node.scu import Peer, association
from dicom_node.services.storage import PRIOR_MOVE_ID
from dicom_node.statuses import Status, in_words
from domain.errors import (
    IncompleteSeries,
    PeerError,
    PeerRefused,
    PeerUnreachable,
    StorageExhausted,
)

_log = structlog.get_logger(__name__)

# Of the one request on its association.
_MOVE_ID = 1

_Result = TypeVar("_Result")


def pull_by_get(
    peer: Peer,
    identifier: Dataset,
    archive: Archive,
    *,
    sop_class_uids: Sequence[str] = (),
    sop_class_uid: str = GET_CLASSES[1],
    origin: str = "received",
    tell: Tell | None = None,
) -> PullCounts:
    """Fetch instances by C-GET; each is durable in the archive before its C-STORE is answered Success.

    Parameters
    ----------
    identifier : Dataset
        Query/Retrieve Level and unique keys (PS3.4 C.4.3.1.3).
    sop_class_uids : sequence of str
        Storage classes of what may come, so that each comes in its own transfer syntax; empty for the common ones.
    sop_class_uid : str
        Information model.
    origin : str
        See `dicom_node.archive.Archive.land`.
    tell : callable or None
        Called with the counts of each response.

    Raises
    ------
    PeerUnreachable
        If there is no association, it ends in the middle, or nothing moves for the peer's timeout.
    PeerRefused
        If the peer rejects it or answers with a failure.
    IncompleteSeries
        If some sub-operations failed; the others are kept.
    StorageExhausted
        If we had no room left: the peer was told so for each instance since.
    """
    storage = received_contexts(sop_class_uids)
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(str(context.abstract_syntax) for context in storage)]
    arrivals = Arrivals(peer, archive, origin=origin)
    try:
        with association(peer, [*retrieve_contexts([sop_class_uid]), *storage], roles=roles) as assoc:
            _require_model(peer, assoc, sop_class_uid)
            arrivals.movement = Movement(assoc, peer.timeout_s)
            wait_while_it_moves(assoc, arrivals.movement)
            with received_directly(assoc, arrivals), _aborted_unless_answered(assoc) as answered:
                counts = _follow(peer, "C-GET", assoc.send_c_get(identifier, sop_class_uid), tell, answered)
            return require_all(peer.name, counts)
    except (PeerError, IncompleteSeries) as error:
        if arrivals.no_room:
            raise no_room(peer.name) from error
        raise


def pull_by_move(
    peer: Peer,
    identifier: Dataset,
    destination_ae_title: str,
    *,
    sop_class_uid: str = MOVE_CLASSES[1],
    prior: bool = False,
    progress: Callable[[], object] | None = None,
    tell: Tell | None = None,
) -> PullCounts:
    """Have a peer send instances by C-MOVE to an AE, such as our own node, which must be running and known to the peer.

    Parameters
    ----------
    destination_ae_title : str
        Where the peer sends; it looks the address up in its own settings.
    prior : bool
        What comes is not to become a request: our node knows it by the Move Originator Message ID, which a peer may leave out.
    progress : callable or None
        Tells how much has arrived. A peer need not respond before it has sent everything: with this, what arrives counts as a
        sign of life.

    Raises
    ------
    PeerUnreachable, PeerRefused, IncompleteSeries
        As for `pull_by_get`; a destination that the peer does not know is PeerRefused (0xA801).
    """
    with association(peer, retrieve_contexts([sop_class_uid])) as assoc:
        wait_while_it_moves(assoc, Movement(assoc, peer.timeout_s, progress=progress))
        with _aborted_unless_answered(assoc) as answered:
            message_id = PRIOR_MOVE_ID if prior else _MOVE_ID
            responses = assoc.send_c_move(identifier, destination_ae_title, sop_class_uid, msg_id=message_id)
            counts = _follow(peer, "C-MOVE", responses, tell, answered)
        return require_all(peer.name, counts)


def with_retries(
    call: Callable[[], _Result],
    *,
    attempts: int = 4,
    first_delay_s: float = 1.0,
    sleep: Callable[[float], object] = time.sleep,
) -> _Result:
    """Call again while the peer is unreachable, after a delay that doubles; what landed stays, so a repeat is harmless.

    Raises
    ------
    PeerUnreachable
        If the last attempt fails too; other errors pass at once.
    """
    for attempt in range(attempts - 1):
        try:
            return call()
        except PeerUnreachable as error:
            delay_s = first_delay_s * 2**attempt
            _log.warning("a peer is tried again", action="pull", attempt=attempt + 1, delay_s=delay_s, code=error.code)
            sleep(delay_s)
    return call()


def _require_model(peer: Peer, assoc: Any, sop_class_uid: str) -> None:
    if not any(context.abstract_syntax == sop_class_uid for context in assoc.accepted_contexts):
        raise PeerRefused(
            found=f"{peer.name} accepted no presentation context for {UID(sop_class_uid).name}",
            allowed="the information model that was proposed",
            action="fetch the other way (C-GET or C-MOVE), or enable it on the peer",
        )


@contextmanager
def _aborted_unless_answered(assoc: Any) -> Iterator[threading.Event]:
    """End an operation that was left in the middle, by us or by an interrupt: a release would wait for its end."""
    answered = threading.Event()
    try:
        yield answered
    finally:
        if not answered.is_set() and assoc.is_established:
            assoc.abort()


def _follow(
    peer: Peer,
    service: str,
    responses: Iterable[tuple[Dataset, Dataset | None]],
    tell: Tell | None,
    answered: threading.Event,
) -> PullCounts:
    """Return the counts of the final response, and note that it came.

    Raises
    ------
    PeerUnreachable
        If the responses end before it.
    PeerRefused
        If it is neither Success nor a warning.
    """
    counts = PullCounts()
    for status, _identifier in responses:
        code = status.get("Status")
        if code is None:
            break
        counts = _counts_of(status)
        if tell is not None:
            tell(counts)
        if code in (Status.PENDING, 0xFF01):
            continue
        answered.set()
        if code in (Status.SUCCESS, Status.SUBOPERATIONS_WITH_FAILURES):
            return counts
        raise PeerRefused(
            found=f"{peer.name} answered {service} with {in_words(code)}; {counts}",
            allowed="0x0000 success",
            action="see the peer's log; for C-MOVE, check that it knows our AE title with host and port",
        )
    raise PeerUnreachable(
        found=f"{service} of {peer.name} that ended early, or in which nothing moved for {peer.timeout_s:g} s; {counts}",
        allowed="responses until all is sent",
        action="nothing that came is lost; ask again",
    )


def require_all(name: str, counts: PullCounts) -> PullCounts:
    """Go on only where every instance was taken.

    Raises
    ------
    IncompleteSeries
        If some failed.
    """
    if counts.failed:
        raise IncompleteSeries(
            found=f"instances from {name} that failed: {counts}",
            allowed="all completed",
            action="see the peer's log and ours for the reason, then ask again; what came is kept",
        )
    return counts


def no_room(name: str) -> StorageExhausted:
    """Return the error that names us, and not the peer."""
    return StorageExhausted(
        found=f"instances from {name} that our archive or its index could not take",
        allowed="room for each instance, and an index that can be written",
        action="make room, see our log, then pull again; what came before is kept",
    )


def _counts_of(status: Dataset) -> PullCounts:
    def number(of: str) -> int:
        return int(status.get(f"NumberOf{of}Suboperations") or 0)

    remaining = status.get("NumberOfRemainingSuboperations")
    return PullCounts(
        completed=number("Completed"),
        failed=number("Failed"),
        warning=number("Warning"),
        remaining=None if remaining is None else int(remaining),
    )
