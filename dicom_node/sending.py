"""Instances sent to a peer (PS3.4 B.2.2): all of them accepted, or an error that says how many were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog
from pydicom.dataset import Dataset

from dicom_node.presentation import storage_contexts
from dicom_node.scu import Peer, association
from dicom_node.statuses import STORE_WARNINGS, Status, in_words
from domain.errors import PeerRefused, PublicationError

_log = structlog.get_logger(__name__)

# PS3.7 9.1.1.1: Message ID is an unsigned 16-bit number.
_MESSAGE_IDS = 65535


def store(peer: Peer, datasets: Sequence[Dataset]) -> int:
    """Send instances in their order; return how many the peer accepted, which is all of them.

    UIDs are not changed, so a repeat after a failure is harmless: the peer knows what it has.

    Parameters
    ----------
    datasets : sequence of Dataset
        With file meta information; sent in their transfer syntax, uncompressed ones in Implicit VR too where the peer wants it.

    Raises
    ------
    PeerUnreachable
        If there is no connection, or no answer to the association request in time.
    PeerRefused
        If it rejects the association or the presentation context of an instance.
    PublicationError
        If an instance was not accepted, or the association ended before the last one.
    """
    statuses: Counter[int] = Counter()
    with association(peer, storage_contexts(datasets)) as assoc:
        for number, ds in enumerate(datasets):
            status = _send(peer, assoc, ds, number % _MESSAGE_IDS + 1)
            if status is None:
                raise _incomplete(peer, statuses, len(datasets), "then the association ended")
            statuses[status] += 1
    if sum(statuses[status] for status in _ACCEPTED) < len(datasets):
        raise _incomplete(peer, statuses, len(datasets), "the others failed")
    if statuses[Status.SUCCESS] < len(datasets):
        _log.warning("a peer stored with warnings", peer=peer.name, statuses=[in_words(status) for status in statuses])
    return len(datasets)


_ACCEPTED = frozenset({int(Status.SUCCESS), *STORE_WARNINGS})


def _send(peer: Peer, assoc: Any, ds: Dataset, message_id: int) -> int | None:
    try:
        answered = assoc.send_c_store(ds, msg_id=message_id)
    except ValueError as error:
        # pynetdicom's word for "no accepted context"; the peer takes other classes or syntaxes, but not this one.
        raise PeerRefused(
            found=f"{peer.name} accepted no presentation context for {ds.SOPClassUID} in {ds.file_meta.TransferSyntaxUID}",
            allowed="the SOP class and transfer syntax of each instance",
            action="enable the storage class on the peer, or send to another destination",
        ) from error
    except RuntimeError:
        # The association ended between two instances.
        return None
    status = answered.get("Status")
    return None if status is None else int(status)


def _incomplete(peer: Peer, statuses: Counter[int], total: int, ending: str) -> PublicationError:
    accepted = sum(statuses[status] for status in _ACCEPTED)
    failures = "; ".join(f"{count} with {in_words(status)}" for status, count in statuses.items() if status not in _ACCEPTED)
    return PublicationError(
        found=f"{accepted} of {total} instances accepted by {peer.name}, {ending}" + (f": {failures}" if failures else ""),
        allowed=f"all {total} with Success",
        action="nothing has to be undone: the same instances are sent again by the next attempt",
    )
