"""The node that calls others: associations, echo, find. One association a call; what goes wrong is said in words.

References
----------
DICOM PS3.4 A.4 (Verification), C.4.1 (C-FIND); PS3.8 9.3.4 (rejection).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext

from dicom_node.association import pynetdicom_mends
from dicom_node.association.bounding import bound_reads
from dicom_node.association.tls import ClientTls
from dicom_node.association.wire import SHORTEST_PDU
from dicom_node.holding.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.presentation import FIND_CLASSES, find_contexts, verification_contexts
from dicom_node.statuses import Status, in_words
from domain.errors import PeerAnswerInvalid, PeerRefused, PeerUnreachable

_log = structlog.get_logger(__name__)

MAXIMUM_PDU = 131072


@dataclass(frozen=True, slots=True)
class Peer:
    """A remote AE.

    Attributes
    ----------
    name : str
        As in the settings and in messages.
    timeout_s : float
        For the connection, the association and each answer.
    tls : ClientTls or None
        How it is called over TLS; None calls it without.
    """

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str = "VERAICON"
    timeout_s: float = 30.0
    tls: ClientTls | None = None


def echo(peer: Peer) -> None:
    """Verify that a peer answers.

    Raises
    ------
    PeerUnreachable
        If there is no connection, or no answer in time.
    PeerRefused
        If it rejects the association or answers with another status than Success.
    """
    with association(peer, verification_contexts()) as assoc:
        require_status(peer, assoc.send_c_echo(), "C-ECHO")


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
    with association(peer, find_contexts(sop_class_uid)) as assoc:
        for status, match in assoc.send_c_find(identifier, sop_class_uid):
            if status.get("Status") not in (0xFF00, 0xFF01):
                require_status(peer, status, "C-FIND")
            elif match is None:
                raise PeerAnswerInvalid(
                    found=f"a match without identifier from {peer.name}",
                    allowed="an identifier with each pending response (PS3.4 C.4.1.1.4)",
                    action="ask the peer's maker",
                )
            else:
                matches.append(match)
    return matches


def require_status(peer: Peer, answered: Dataset, service: str) -> None:
    """Go on only after Success.

    Raises
    ------
    PeerUnreachable
        If no answer came in time.
    PeerRefused
        If another status came.
    """
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
def association(
    peer: Peer, contexts: list[PresentationContext], *, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
) -> Iterator[Any]:
    """Open an association and release it at the end, also after an error.

    Parameters
    ----------
    roles : sequence of SCP_SCU_RoleSelectionNegotiation
        Roles that we propose for ourselves (PS3.7 D.3.3.4).
    handlers : sequence of (event, callable)
        For messages that the peer sends on it.

    Raises
    ------
    PeerUnreachable
        If there is no connection, or no answer to the association request in time.
    PeerRefused
        If the peer rejects the association, or accepts no presentation context.
    PeerAnswerInvalid
        If it takes only PDUs that are too short for any message.
    """
    pynetdicom_mends.configure()
    ae = AE(peer.calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = peer.timeout_s
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    context = peer.tls.context() if peer.tls is not None else None
    opened: list[bool] = []

    def on_open(event: evt.Event) -> None:
        opened.append(True)
        pynetdicom_mends.send_at_once(event.assoc)
        bound_reads(event.assoc, maximum_pdu_bytes=MAXIMUM_PDU, pdu_timeout_s=peer.timeout_s)

    assoc = ae.associate(
        peer.host,
        peer.port,
        contexts=contexts,
        ae_title=peer.ae_title,
        max_pdu=MAXIMUM_PDU,
        tls_args=(context, peer.host) if context is not None else None,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, on_open), *handlers],
    )
    pynetdicom_mends.keep_responses(assoc)
    if not assoc.is_established:
        if context is not None and context.failure:
            raise _no_tls(peer, context.failure)
        raise _no_association(peer, assoc, connected=bool(opened))
    try:
        _require_room(peer, assoc)
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _require_room(peer: Peer, assoc: Any) -> None:
    length = int(assoc.acceptor.maximum_length or 0)
    if 0 < length < SHORTEST_PDU:
        raise PeerAnswerInvalid(
            found=f"{peer.name} takes PDUs of at most {length} octets",
            allowed=f"at least {SHORTEST_PDU}, which an item header and a fragment need, or 0 for any (PS3.8 D.1, E.2)",
            action="correct the maximum PDU length of the peer",
        )


def _no_tls(peer: Peer, failure: str) -> PeerRefused:
    return PeerRefused(
        found=f"no TLS connection with {peer.name} ({peer.host}:{peer.port}): {failure}",
        allowed="TLS 1.2 or 1.3, a certificate of the peer that tls_ca signed and that names its host, ours if it asks",
        action="correct tls_ca or the certificates, or the peer's own TLS settings; see its log",
    )


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
