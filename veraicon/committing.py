"""A publication is complete when the PACS has committed to it, where it offers that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import sqlalchemy as sa
import structlog
from pydicom import Dataset

from dicom_node.commitment.messages import CommitmentReport, CommitmentRequest, named_instances
from dicom_node.commitment.records import SentCommitments
from dicom_node.commitment.requesting import request_commitment
from dicom_node.scu import Peer
from dicom_node.statuses import in_words
from domain.errors import PeerRefused, PublicationError
from domain.identifiers import derive_uid
from veraicon.sections import DestinationSettings

_log = structlog.get_logger(__name__)

# Most PACS that report on the association of the request do so at once; the others open one to our node.
_SAME_ASSOCIATION_S = 3.0


@dataclass(frozen=True)
class Committer:
    """Asks one PACS to commit to what we sent it, and waits for its report, whichever process of the site hears it.

    Attributes
    ----------
    required : bool
        Whether a PACS that does not commit is an error, or only noted.
    timeout_s : float
        From the request to the report.
    """

    peer: Peer
    sent: SentCommitments
    required: bool
    timeout_s: float

    def commit(self, instances: Sequence[Dataset]) -> bool | None:
        """Return True once the PACS has committed to every instance.

        Where commitment is not required: None if it does not offer it, False if its report is not here in time.

        Raises
        ------
        PeerUnreachable, PeerRefused
            If it cannot be asked; where commitment is required also if it does not offer it.
        PublicationError
            If it reports that it does not hold every instance, or, where commitment is required, reports nothing in time. The
            next attempt sends the instances again and asks again.
        """
        names, asked = named_instances(instances), self._asked(instances)
        report = self.sent.answer(asked)
        if report is None or report.failed:
            refusal, report = self._ask(CommitmentRequest(self._transaction(instances, len(asked)), names), asked)
            if refusal:
                self._not_offered(refusal)
                return None
        if report is None:
            return self._not_reported(len(instances))
        if report.failed:
            raise _not_committed(self.peer, report, len(instances))
        _log.info("a destination has committed", action="commitment", peer=self.peer.name, instances=len(instances))
        return True

    def _asked(self, instances: Sequence[Dataset]) -> list[str]:
        """Return the transactions in which this peer was asked about these instances, the latest last.

        Any of them may still be answered; each N-ACTION has one of its own (PS3.4 J.3.2).
        """
        numbered = (self._transaction(instances, number) for number in count())
        return list(takewhile(self.sent.knows, numbered))

    def _transaction(self, instances: Sequence[Dataset], number: int) -> str:
        uids = sorted(str(ds.SOPInstanceUID) for ds in instances)
        return derive_uid(str(instances[0].StudyInstanceUID), "transaction", self.peer.name, *uids, str(number))

    def _ask(self, request: CommitmentRequest, asked: Sequence[str]) -> tuple[str, CommitmentReport | None]:
        end = time.monotonic() + self.timeout_s
        self.sent.asking(request, self.peer.ae_title)
        answer = request_commitment(self.peer, request, wait_s=min(_SAME_ASSOCIATION_S, self.timeout_s))
        if answer.refusal:
            return answer.refusal, None
        if answer.report is not None:
            self.sent.reported(answer.report, reporter=self.peer.ae_title)
        return "", self.sent.await_answer([*asked, request.transaction_uid], max(0.0, end - time.monotonic()))

    def _not_offered(self, refusal: str) -> None:
        if self.required:
            raise PeerRefused(
                found=f"{self.peer.name} does not offer storage commitment to us: {refusal}",
                allowed="storage commitment, which the settings require of this destination",
                action='enable it on the peer, or set its commitment to "if-supported" or "off"',
            )
        _log.info("a destination does not offer storage commitment", peer=self.peer.name, answer=refusal)

    def _not_reported(self, total: int) -> bool:
        if self.required:
            raise PublicationError(
                found=f"no commitment report of {self.peer.name} over {total} instances within {self.timeout_s:g} s",
                allowed="a report on the association of the request, or on one to our node",
                action="see that serve runs, that the peer knows our node's address, and that it is listed among the sources "
                "where any are; it is sent and asked again",
            )
        _log.warning("a destination has not reported its commitment in time", peer=self.peer.name, waited_s=self.timeout_s)
        return False


def _not_committed(peer: Peer, report: CommitmentReport, total: int) -> PublicationError:
    reasons = "; ".join(f"{number} with {in_words(reason)}" for reason, number in sorted(report.reasons.items()))
    return PublicationError(
        found=f"{peer.name} committed to {len(report.committed)} of {total} instances, the others failed: {reasons}",
        allowed=f"commitment to all {total}",
        action="nothing has to be undone: the same instances are sent again by the next attempt, and it is asked again",
    )


def committer_of(destination: DestinationSettings, peer: Peer, engine: sa.Engine) -> Committer | None:
    """Return who asks a configured destination to commit; None where the settings say that nobody does."""
    if destination.commitment == "off":
        return None
    return Committer(
        peer, SentCommitments(engine), required=destination.commitment == "required", timeout_s=destination.commitment_timeout_s
    )
