"""Storage Commitment (PS3.4 Annex J): N-ACTION of those who ask us, and N-EVENT-REPORT of those whom we asked."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.association.notifications import notifications_of
from dicom_node.association.policy import AuditTrail
from dicom_node.commitment.messages import (
    REQUEST_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    CommitmentReport,
    commitment_contexts,
    read_request,
)
from dicom_node.commitment.records import ReceivedCommitments, ReceivedRequest, SentCommitments
from dicom_node.commitment.reporter import CommitmentReporter
from dicom_node.commitment.requesting import report_of
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.services.service import Handler
from dicom_node.statuses import NormalizedStatus
from domain.errors import UnreadableInstance

_log = structlog.get_logger(__name__)


class CommitmentService:
    """Takes commitment requests and commitment reports.

    Parameters
    ----------
    received, sent : ReceivedCommitments, SentCommitments
        Where they are kept.
    reporter : CommitmentReporter
        Answers the requests, each after its N-ACTION response.
    """

    def __init__(
        self, received: ReceivedCommitments, sent: SentCommitments, reporter: CommitmentReporter, audit: AuditTrail
    ) -> None:
        self._received, self._sent, self._reporter, self._audit = received, sent, reporter, audit

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the push model's context; a requestor may be SCU, or SCP to bring us a report (PS3.7 D.3.3.4)."""
        contexts = commitment_contexts()
        for context in contexts:
            context.scu_role = context.scp_role = True
        return contexts

    def handlers(self) -> Sequence[Handler]:
        """Return the handlers of N-ACTION and N-EVENT-REPORT."""
        return [(evt.EVT_N_ACTION, self._action), (evt.EVT_N_EVENT_REPORT, self._report)]

    def _action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """N-ACTION (PS3.4 J.3.2), answered after the request is durable; the report follows.

        - 0x0000 Success: the request is kept, and answered by N-EVENT-REPORT.
        - 0x0112 No such SOP instance: another than the well-known one.
        - 0x0115 Invalid argument value: no transaction UID, no references, or UIDs that are none.
        - 0x0123 No such action: another type than 1.
        - 0x0213 Resource limitation: the request cannot be kept now.
        """
        record = self._audit.record(event.assoc)
        if event.request.RequestedSOPInstanceUID != WELL_KNOWN_INSTANCE:
            return NormalizedStatus.NO_SUCH_SOP_INSTANCE, None
        if event.action_type != REQUEST_COMMITMENT:
            return NormalizedStatus.NO_SUCH_ACTION, None
        try:
            received = ReceivedRequest(read_request(event.action_information), record.calling)
            self._received.keep(received)
        except (*PARSE_ERRORS, UnreadableInstance) as error:
            _log.warning("a commitment request cannot be read", source=record.calling, kind=type(error).__name__)
            return NormalizedStatus.INVALID_ARGUMENT_VALUE, None
        except SQLAlchemyError as error:
            _log.error("a commitment request cannot be kept", source=record.calling, kind=type(error).__name__)
            return NormalizedStatus.RESOURCE_LIMITATION, None
        record.count("commitment_requests")
        way_back, context_id = notifications_of(event.assoc), event.context.context_id
        way_back.after_answer(event.request.MessageID, lambda: self._reporter.offer(received, way_back, context_id))
        return NormalizedStatus.SUCCESS, None

    def _report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """N-EVENT-REPORT (PS3.4 J.3.3) of a peer that we asked, on an association of its own.

        - 0x0000 Success: kept.
        - 0x0110 Processing failure: cannot be kept now.
        - 0x0113 No such event type.
        - 0x0115 Invalid argument value: unreadable, or of no transaction that we asked this peer for.
        """
        record = self._audit.record(event.assoc)
        report = report_of(event)
        if not isinstance(report, CommitmentReport):
            return report, None
        try:
            known = self._sent.reported(report, reporter=record.calling)
        except SQLAlchemyError as error:
            _log.error("a commitment report cannot be kept", source=record.calling, kind=type(error).__name__)
            return NormalizedStatus.PROCESSING_FAILURE, None
        if not known:
            _log.warning("a commitment report came that we did not ask this peer for", source=record.calling)
            return NormalizedStatus.INVALID_ARGUMENT_VALUE, None
        record.count("commitment_reports")
        return NormalizedStatus.SUCCESS, None
