"""Instances sent to a peer (PS3.4 B.2.2): all of them accepted, or an error that says how many were."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom.presentation import PresentationContext

from dicom_node.association.direct_sending import DirectSender, direct_sender
from dicom_node.association.wire import MESSAGE_IDS
from dicom_node.calling.delivery import choose_context
from dicom_node.calling.outgoing import Outgoing
from dicom_node.presentation import UNCOMPRESSED, storage_batches
from dicom_node.scu import Peer, association
from dicom_node.statuses import STORE_WARNINGS, Status, in_words
from domain.errors import PeerUnreachable, PublicationError

_log = structlog.get_logger(__name__)

# After an association that ended too early, the rest goes over a new one, after these pauses.
_PAUSES_S = (0.5, 1.0, 2.0)

_ACCEPTED = frozenset({int(Status.SUCCESS), *STORE_WARNINGS})


def store(peer: Peer, sources: Sequence[Dataset | Path]) -> int:
    """Send instances in their order; return how many the peer accepted, which is all of them.

    An association that ends too early is opened again for the rest, three times at most. UIDs are not changed, so that a repeat
    is harmless: the peer knows what it has.

    Parameters
    ----------
    sources : sequence of Dataset or Path
        Datasets with file meta information, or Part 10 files. Sent in their transfer syntax, without decoding them;
        uncompressed ones also in the other uncompressed one where the peer wants that.

    Raises
    ------
    PeerUnreachable
        If there is no connection, or no answer to the association request in time.
    PeerRefused
        If it rejects the association or the presentation context of an instance.
    UnreadableInstance
        If a file is no Part 10 file.
    PublicationError
        If an instance was not accepted, or associations ended again and again before the last one.
    """
    instances = [Outgoing.of(source) for source in sources]
    statuses: Counter[int] = Counter()
    for batch in storage_batches((instance.sop_class_uid, instance.transfer_syntax_uid) for instance in instances):
        carried = [one for one in instances if (one.sop_class_uid, one.transfer_syntax_uid) in batch.pairs]
        if not _store_batch(peer, carried, list(batch.contexts), statuses):
            raise _incomplete(peer, statuses, len(instances), "then the association ended, again and again")
    if sum(statuses[status] for status in _ACCEPTED) < len(instances):
        raise _incomplete(peer, statuses, len(instances), "the others failed")
    if statuses[Status.SUCCESS] < len(instances):
        _log.warning("a peer stored with warnings", peer=peer.name, statuses=[in_words(status) for status in statuses])
    return len(instances)


def _store_batch(peer: Peer, instances: Sequence[Outgoing], contexts: list[Any], statuses: Counter[int]) -> bool:
    """Send what one set of contexts carries; return False where the association ended too early each time."""
    answered = 0
    for pause_s in (0.0, *_PAUSES_S):
        time.sleep(pause_s)
        try:
            with association(peer, contexts) as assoc, direct_sender(assoc) as sender:
                answered += _send_all(assoc, sender, instances[answered:], statuses)
        except PeerUnreachable:
            if not answered:
                raise
        if answered == len(instances):
            return True
        _log.warning("an association ended too early", peer=peer.name, answered=answered, instances=len(instances))
    return False


def _send_all(assoc: Any, sender: DirectSender, instances: Sequence[Outgoing], statuses: Counter[int]) -> int:
    """Send instances until the last one or the end of the association; return how many were answered."""

    @cache
    def context_for(sop_class_uid: str, syntax_uid: str) -> PresentationContext:
        others = UNCOMPRESSED if syntax_uid in UNCOMPRESSED else ()
        return choose_context(assoc.accepted_contexts, sop_class_uid, syntax_uid, others=others)

    for number, instance in enumerate(instances):
        context = context_for(instance.sop_class_uid, instance.transfer_syntax_uid)
        status = sender.send(
            instance.encoded(context.transfer_syntax[0]),
            context_id=int(context.context_id),
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            message_id=number % MESSAGE_IDS + 1,
        )
        if status is None:
            return number
        statuses[status] += 1
    return len(instances)


def _incomplete(peer: Peer, statuses: Counter[int], total: int, ending: str) -> PublicationError:
    accepted = sum(statuses[status] for status in _ACCEPTED)
    failures = "; ".join(f"{count} with {in_words(status)}" for status, count in statuses.items() if status not in _ACCEPTED)
    return PublicationError(
        found=f"{accepted} of {total} instances accepted by {peer.name}, {ending}" + (f": {failures}" if failures else ""),
        allowed=f"all {total} with Success",
        action="nothing has to be undone: the same instances are sent again by the next attempt",
    )
