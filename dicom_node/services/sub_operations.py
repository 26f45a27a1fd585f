"""Sub-operations of a retrieval: their counts, and the two ways out, over the same association or to a destination.

References
----------
DICOM PS3.4 C.4.2.2 (C-MOVE), C.4.3.2 (C-GET); PS3.7 9.1.3.1, 9.1.4.1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from dicom_node.archive import Archive
from dicom_node.association.direct_sending import DirectSender, direct_sender
from dicom_node.association.waiting import Movement, has_ended
from dicom_node.association.wire import MESSAGE_IDS
from dicom_node.calling.delivery import choose_context, deliver, encoded_for
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.index import Holding
from dicom_node.presentation import StorageBatch, storage_batches
from dicom_node.scu import Peer, association
from dicom_node.statuses import STORE_WARNINGS, Status
from domain.errors import PeerAnswerInvalid, PeerError, PeerRefused, PeerUnreachable, VeraiconError

_log = structlog.get_logger(__name__)

# PS3.5 7.1.2: a UI in Explicit VR has a length of 16 bits. The counts stay exact where the list has to end early.
_MAX_UID_LIST_BYTES = 65534

_FRUITLESS_ASSOCIATIONS = 3


@dataclass(slots=True)
class SubOperationCounts:
    """How far a retrieval is."""

    remaining: int
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def note(self, holding: Holding, status: int | None) -> bool:
        """Count a sub-operation by its C-STORE status, None where there is none; return whether the instance was stored."""
        self.remaining -= 1
        if status == Status.SUCCESS:
            self.completed += 1
        elif status in STORE_WARNINGS:
            self.warning += 1
        else:
            self.failed += 1
            self.failed_uids.append(holding.reference.sop_instance_uid)
            return False
        return True

    @property
    def status(self) -> Status:
        """Status of the final response (PS3.4 Tables C.4-2, C.4-3)."""
        if not self.failed and not self.warning:
            return Status.SUCCESS
        return Status.SUBOPERATIONS_WITH_FAILURES if self.completed or self.warning else Status.UNABLE_TO_PERFORM_SUBOPERATIONS

    @property
    def failed_uid_list(self) -> list[str]:
        """Failed SOP Instance UID List (0008,0058), as far as one element can hold it."""
        fitting, size_bytes = [], 0
        for uid in self.failed_uids:
            size_bytes += len(uid) + 1
            if size_bytes > _MAX_UID_LIST_BYTES:
                break
            fitting.append(uid)
        return fitting


class Outlet(Protocol):
    """Sends instances one by one."""

    def arranged(self, holdings: Sequence[Holding]) -> Sequence[Holding]:
        """Return the instances in the order in which they are best sent."""
        ...

    def send(self, holding: Holding, number: int) -> int:
        """Send the instance of sub-operation `number` (from 1); return its status, or raise where it has none."""
        ...


class SameAssociation:
    """Sends back to who asked: C-GET."""

    def __init__(self, archive: Archive, assoc: Any, *, request_id: int, timeout_s: float) -> None:
        self._archive, self._assoc, self._request_id = archive, assoc, request_id
        self._movement = Movement(assoc, timeout_s)

    def arranged(self, holdings: Sequence[Holding]) -> Sequence[Holding]:
        """Return the instances as they come; see `Outlet`."""
        return holdings

    def send(self, holding: Holding, number: int) -> int:
        """Send over the association that is open; where no answer comes it is aborted, see `Outlet`."""
        context = choose_context(self._assoc.accepted_contexts, holding.reference.sop_class_uid, holding.transfer_syntax_uid)
        encoded = encoded_for(self._archive, holding, context.transfer_syntax[0])
        # Their Message IDs follow the request's, which is in use on this association until its final response.
        message_id = (self._request_id + number % (MESSAGE_IDS - 1)) % MESSAGE_IDS + 1
        try:
            return deliver(self._assoc, self._movement, context, holding, encoded, message_id=message_id)
        except (PeerUnreachable, PeerAnswerInvalid):
            self._assoc.abort()
            raise


class MoveDestination:
    """Sends to a third AE: C-MOVE. As many associations, one after the other, as the presentation contexts need.

    An association that the receiver ends is opened again, so that one which stumbles over a single instance still gets the
    others; but not after three in a row that delivered nothing, nor where the receiver is away or silent: that would keep the
    caller waiting for what cannot succeed.
    """

    def __init__(self, archive: Archive, peer: Peer, *, originator: tuple[str, int]) -> None:
        self._archive, self._peer, self._originator = archive, peer, originator
        self._batches: dict[tuple[str, str], StorageBatch] = {}
        self._stack = ExitStack()
        self._batch: StorageBatch | None = None
        self._open: tuple[Any, DirectSender] | None = None
        self._fruitless = 0
        self._refused: dict[StorageBatch, PeerError] = {}
        self._gone: PeerError | None = None

    def arranged(self, holdings: Sequence[Holding]) -> Sequence[Holding]:
        """Return the instances by the association that carries them; see `Outlet`."""
        batches = storage_batches(_pair(holding) for holding in holdings)
        self._batches = {pair: batch for batch in batches for pair in batch.pairs}
        order = {pair: number for number, batch in enumerate(batches) for pair in batch.pairs}
        return sorted(holdings, key=lambda holding: order[_pair(holding)])

    def send(self, holding: Holding, number: int) -> int:
        """Send over an association to the destination, which is opened where it is not; see `Outlet`."""
        assoc, sender = self._association_for(self._batches[_pair(holding)])
        context = choose_context(assoc.accepted_contexts, holding.reference.sop_class_uid, holding.transfer_syntax_uid)
        encoded = encoded_for(self._archive, holding, context.transfer_syntax[0])
        began = time.monotonic()
        status = sender.send(
            encoded,
            context_id=int(context.context_id),
            sop_class_uid=holding.reference.sop_class_uid,
            sop_instance_uid=holding.reference.sop_instance_uid,
            message_id=(number - 1) % MESSAGE_IDS + 1,
            move_originator=self._originator,
        )
        if status is None:
            raise self._broken(silent=time.monotonic() - began >= self._peer.timeout_s)
        self._fruitless = 0
        return status

    def close(self) -> None:
        """Release what is open."""
        self._open = None
        self._stack.close()

    def _broken(self, *, silent: bool) -> PeerUnreachable:
        """Let go of an association that has ended, and say whether another one is worth while."""
        self.close()
        error = PeerUnreachable(
            found=f"an association with {self._peer.name} that ended, or no answer for {self._peer.timeout_s:g} s",
            allowed="a response to each C-STORE",
            action="check the receiver, then ask again for what is missing",
        )
        if silent or self._fruitless >= _FRUITLESS_ASSOCIATIONS:
            self._gone = error
        return error

    def _association_for(self, batch: StorageBatch) -> tuple[Any, DirectSender]:
        """Return the open association of a batch, or open it, unless that failed before."""
        if self._open is not None and self._batch is batch and not has_ended(self._open[0]):
            return self._open
        self.close()
        failure = self._gone or self._refused.get(batch)
        if failure is not None:
            raise failure
        self._batch = batch
        self._fruitless += 1
        try:
            assoc = self._stack.enter_context(association(self._peer, list(batch.contexts)))
        except PeerUnreachable as error:
            self._gone = error
            raise
        except (PeerRefused, PeerAnswerInvalid) as error:
            self._refused[batch] = error
            raise
        self._open = (assoc, self._stack.enter_context(direct_sender(assoc)))
        return self._open


@contextmanager
def move_destination(archive: Archive, peer: Peer, *, originator: tuple[str, int]) -> Iterator[MoveDestination]:
    """Give a destination, and release what it opened at the end."""
    destination = MoveDestination(archive, peer, originator=originator)
    try:
        yield destination
    finally:
        destination.close()


def attempt(outlet: Outlet, holding: Holding, number: int) -> int | None:
    """Send one instance; one that cannot be read or sent fails alone, with its reason in the log."""
    try:
        return outlet.send(holding, number)
    except (*PARSE_ERRORS, OSError, VeraiconError) as error:
        _log.warning(
            "an instance was not sent",
            action="retrieve",
            digest=holding.reference.digest,
            kind=type(error).__name__,
            found=error.found if isinstance(error, VeraiconError) else "",
        )
        return None


def _pair(holding: Holding) -> tuple[str, str]:
    return holding.reference.sop_class_uid, holding.transfer_syntax_uid


def destination_of(destinations: Mapping[str, Peer], ae_title: str) -> Peer:
    """Return the peer behind a move destination.

    Raises
    ------
    PeerRefused
        If no configured peer has this AE title: instances go nowhere by the word of a caller alone.
    """
    peer = destinations.get(ae_title.strip())
    if peer is None:
        raise PeerRefused(
            found="a move destination that is no configured peer",
            allowed=f"one of {len(destinations)} configured destinations and sources with host and port",
            action="add it to [[destinations]], or give the source its host and port",
        )
    return peer
