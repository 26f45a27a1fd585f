"""The node that calls others: echo, find, store. One association a call; what goes wrong is said in words.

References
----------
DICOM PS3.4 A.4 (Verification), B.2 (Storage), C.4.1 (C-FIND); PS3.8 9.3.4 (rejection).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext

from dicom_node import pynetdicom_mends
from dicom_node.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.presentation import FIND_CLASSES, find_contexts, storage_contexts, verification_contexts
from dicom_node.statuses import STORE_WARNINGS, Status, in_words
from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable, PublicationError

_log = structlog.get_logger(__name__)

_MAXIMUM_PDU = 131072

# PS3.7 9.1.1.1: Message ID is an unsigned 16-bit number.
_MESSAGE_IDS = 65535


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote AE.

    Attributes
    ----------
    name : str
        As in the settings and in messages.
    timeout_s : float
        For the connection, the association and each answer.
    """

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str = "VERAICON"
    timeout_s: float = 30.0


def echo(peer: Peer) -> None:
    """Verify that a peer answers.

    Raises
    ------
    PeerUnreachable
        If there is no connection, or no answer in time.
    PeerRefused
        If it rejects the association or answers with another status than Success.
    """
    with _association(peer, verification_contexts()) as assoc:
        _require_status(peer, assoc.send_c_echo(), "C-ECHO")


def find(peer: Peer, identifier: Dataset, *, sop_class_uid: str = FIND_CLASSES[1]) -> list[Dataset]:
    """Return all matches of an identifier (Study Root by default).

    Raises
    ------
    PeerUnreachable, PeerRefused
        As for `echo`.
    PeerAnswerInvalid
        If a match came without an identifier that can be read.
    """
    matches: list[Dataset] = []
    with _association(peer, find_contexts(sop_class_uid)) as assoc:
        for status, match in assoc.send_c_find(identifier, sop_class_uid):
            if status.get("Status") not in (0xFF00, 0xFF01):
                _require_status(peer, status, "C-FIND")
            elif match is None:
                raise PeerAnswerInvalid(
                    found=f"a match without identifier from {peer.name}",
                    allowed="an identifier with each pending response (PS3.4 C.4.1.1.4)",
                    action="ask the peer's maker",
                )
            else:
                matches.append(match)
    return matches


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
    with _association(peer, storage_contexts(datasets)) as assoc:
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


def _require_status(peer: Peer, answered: Dataset, service: str) -> None:
    status = answered.get("Status")
    if status is None:
        raise PeerUnreachable(
            found=f"no answer from {peer.name} to {service} within {peer.timeout_s:g} s, or a connection that broke",
            allowed="an answer",
            action="check the peer and the network; it is tried again",
        )
    if status != Status.SUCCESS:
        raise PeerRefused(
            found=f"{peer.name} answered {service} with {in_words(status)}",
            allowed="0x0000 success",
            action="see the peer's log",
        )


@contextmanager
def _association(peer: Peer, contexts: list[PresentationContext]) -> Iterator[Any]:
    """Open an association and release it at the end, also after an error."""
    pynetdicom_mends.configure()
    ae = AE(peer.calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = peer.timeout_s
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    opened: list[bool] = []

    def on_open(event: evt.Event) -> None:
        opened.append(True)
        pynetdicom_mends.send_at_once(event.assoc)
        pynetdicom_mends.bound_reads(event.assoc, maximum_pdu_bytes=_MAXIMUM_PDU, pdu_timeout_s=peer.timeout_s)

    assoc = ae.associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=_MAXIMUM_PDU,
        evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
    )
    pynetdicom_mends.keep_responses(assoc)
    if not assoc.is_established:
        raise _no_association(peer, assoc, connected=bool(opened))
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _no_association(peer: Peer, assoc: Any, *, connected: bool) -> PeerUnreachable | PeerRefused:
    if assoc.is_rejected:
        answered = assoc.acceptor.primitive
        return PeerRefused(
            found=f"{peer.name} rejected the association: {answered.reason_str} ({answered.result_str}, {answered.source_str})",
            allowed=f"an association from {peer.calling_ae_title} to {peer.ae_title}",
            action="list our AE title and host at the peer, or correct its AE title in the settings",
        )
    if connected and assoc.rejected_contexts:
        return PeerRefused(
            found=f"{peer.name} accepted none of {len(assoc.rejected_contexts)} presentation contexts",
            allowed="the service that was proposed",
            action="enable the SOP class on the peer",
        )
    what = "a connection, but no association," if connected else "no connection"
    return PeerUnreachable(
        found=f"{what} to {peer.name} ({peer.host}:{peer.port}) within {peer.timeout_s:g} s",
        allowed="an association",
        action="check address, port and firewall, and that the peer runs; it is tried again",
    )
