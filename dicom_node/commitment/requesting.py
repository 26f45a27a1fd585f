"""Storage commitment as SCU, and the report as SCP where it goes out on an association of our own.

References
----------
DICOM PS3.4 J.3.2 (N-ACTION), J.3.3 (N-EVENT-REPORT); PS3.7 D.3.3.4 (SCP/SCU role selection).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.association.notifications import serve_notifications
from dicom_node.commitment.messages import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    REQUEST_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    commitment_contexts,
    read_report,
    report_dataset,
    request_dataset,
)
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.presentation import verification_contexts
from dicom_node.scu import Peer, association, require_status
from dicom_node.statuses import NormalizedStatus, in_words
from domain.errors import UnreadableInstance

_log = structlog.get_logger(__name__)

_SLICE_S = 0.05

# Statuses by which a peer says that it does not do this at all, having accepted the presentation context nevertheless.
_NOT_OFFERED = frozenset({0x0118, 0x0122, 0x0123, 0x0124, 0x0211})


@dataclass(frozen=True, slots=True)
class CommitmentAnswer:
    """What a peer answered to a commitment request.

    Attributes
    ----------
    refusal : str
        How it said that it does not offer storage commitment to us; empty where it accepted the request.
    report : CommitmentReport or None
        Its report, where that came on the same association; else it comes later, on an association of the peer's own.
    """

    refusal: str = ""
    report: CommitmentReport | None = None


def request_commitment(peer: Peer, request: CommitmentRequest, *, wait_s: float = 3.0) -> CommitmentAnswer:
    """Ask a peer to commit to instances, and wait for its report on the same association for some seconds.

    Parameters
    ----------
    wait_s : float
        For how long the association stays open for the report.

    Raises
    ------
    PeerUnreachable, PeerRefused
        As for `dicom_node.scu.echo`; a peer that does not offer the service is no error here, see `CommitmentAnswer`.
    """
    inbox = _Inbox(peer, request)
    # Every AE that accepts associations does Verification: with it proposed too, a peer that rejects this one context alone is
    # told apart from one that rejects us.
    contexts = commitment_contexts() + verification_contexts()
    with association(peer, contexts, handlers=[(evt.EVT_N_EVENT_REPORT, inbox.take)]) as assoc:
        if not any(context.abstract_syntax == StorageCommitmentPushModel for context in assoc.accepted_contexts):
            return CommitmentAnswer("the presentation context was rejected")
        serve_notifications(assoc, inbox.served)
        answered, _ = assoc.send_n_action(
            request_dataset(request), REQUEST_COMMITMENT, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
        )
        if answered.get("Status") in _NOT_OFFERED:
            return CommitmentAnswer(f"N-ACTION was answered with {in_words(answered.Status)}")
        require_status(peer, answered, "N-ACTION")
        return CommitmentAnswer(report=inbox.wait(assoc, wait_s))


def send_report(peer: Peer, report: CommitmentReport) -> None:
    """Report on an association of our own, in the role of the SCP.

    Raises
    ------
    PeerUnreachable, PeerRefused
        As for `dicom_node.scu.echo`.
    """
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    with association(peer, commitment_contexts(), roles=[role]) as assoc:
        answered, _ = assoc.send_n_event_report(
            report_dataset(report), report.event_type, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
        )
        require_status(peer, answered, "N-EVENT-REPORT")


def report_of(event: evt.Event) -> CommitmentReport | NormalizedStatus:
    """Return the report that an N-EVENT-REPORT carries, or the status that it has to be answered with."""
    if event.event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        return NormalizedStatus.NO_SUCH_EVENT_TYPE
    try:
        return read_report(event.event_information)
    except (*PARSE_ERRORS, UnreadableInstance) as error:
        _log.warning("a commitment report cannot be read", kind=type(error).__name__)
        return NormalizedStatus.INVALID_ARGUMENT_VALUE


class _Inbox:
    """Where the report to one request arrives."""

    def __init__(self, peer: Peer, request: CommitmentRequest) -> None:
        self._peer, self._request = peer, request
        self._arrived = threading.Event()
        self._report: CommitmentReport | None = None

    def take(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """N-EVENT-REPORT on the association of the request; Success, or why it is none that we wait for."""
        report = report_of(event)
        if not isinstance(report, CommitmentReport):
            return report, None
        if report.transaction_uid != self._request.transaction_uid:
            _log.warning("a commitment report of another transaction came", peer=self._peer.name)
            return NormalizedStatus.INVALID_ARGUMENT_VALUE, None
        self._report = report
        return NormalizedStatus.SUCCESS, None

    def served(self) -> None:
        """Note that an answer is on its way; the association may be released after that, not before."""
        if self._report is not None:
            self._arrived.set()

    def wait(self, assoc: Any, wait_s: float) -> CommitmentReport | None:
        """Return the report, None where the association ends or the time is over before it."""
        for _ in range(max(1, int(wait_s / _SLICE_S))):
            if self._arrived.wait(_SLICE_S) or not assoc.is_established:
                break
        return self._report
