"""Answers commitment requests: what is held is looked at, and the report goes out until its requestor has it.

First on the association of the request, while that is open; then on one of our own where the requestor's address is known, with
growing pauses, over restarts.

References
----------
DICOM PS3.4 J.3.3: the SCP may report on the same association or on another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import structlog
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.association.notifications import Notifications
from dicom_node.commitment.messages import (
    WELL_KNOWN_INSTANCE,
    CommitmentReport,
    FailureReason,
    NamedInstance,
    report_dataset,
)
from dicom_node.commitment.records import ReceivedCommitments, ReceivedRequest
from dicom_node.commitment.requesting import send_report
from dicom_node.scu import Peer
from dicom_node.statuses import NormalizedStatus, in_words
from domain.errors import PeerError, UnreadableInstance
from domain.series import InstanceReference

_log = structlog.get_logger(__name__)

# A requestor that wants its report elsewhere releases at once; one that is still there after this pause waits for it here.
_PAUSE_S = 0.2
_LOOK_EVERY_S = 0.5
_LOOK_FOR_OLD_EVERY_S = 3600.0
_ANSWER_TIMEOUT_S = 30.0
_REPORTS_AT_ONCE = 4
_NAMES_AT_ONCE = 500


def assess(received: ReceivedRequest, archive: Archive, records: ReceivedCommitments) -> CommitmentReport:
    """Return what we commit to: instances with a row in the index, and a file whose digest is that of the row.

    An instance of which this requestor sent other bytes too is not committed: one of the two sets would be lost to it.
    """
    committed: list[NamedInstance] = []
    failed: list[tuple[NamedInstance, int]] = []
    names = iter(received.request.instances)
    while part := list(islice(names, _NAMES_AT_ONCE)):
        uids = [instance.sop_instance_uid for instance in part]
        held = {str(found.sop_instance_uid): found for found in archive.references({"SOPInstanceUID": uids})}
        doubtful = records.in_conflict(uids, received.requestor)
        for instance in part:
            reason = _why_not(instance, held.get(instance.sop_instance_uid), archive, doubtful)
            if reason is None:
                committed.append(instance)
            else:
                failed.append((instance, int(reason)))
    return CommitmentReport(received.request.transaction_uid, tuple(committed), tuple(failed))


def _why_not(
    instance: NamedInstance, held: InstanceReference | None, archive: Archive, doubtful: set[str]
) -> FailureReason | None:
    if held is None:
        return FailureReason.NO_SUCH_OBJECT_INSTANCE
    if held.sop_class_uid != instance.sop_class_uid:
        return FailureReason.CLASS_INSTANCE_CONFLICT
    if instance.sop_instance_uid in doubtful:
        return FailureReason.PROCESSING_FAILURE
    try:
        archive.checked_file(held).close()
    except (OSError, UnreadableInstance):
        _log.error("the bytes of a held instance are not those that were received", digest=held.digest)
        return FailureReason.PROCESSING_FAILURE
    return None


class CommitmentReporter:
    """Threads that send reports.

    Parameters
    ----------
    addresses : mapping of str to Peer
        AE titles that can be called back.
    """

    def __init__(self, records: ReceivedCommitments, archive: Archive, *, addresses: Mapping[str, Peer]) -> None:
        self._records, self._archive, self._addresses = records, archive, dict(addresses)
        self._stop = threading.Event()
        self._under_way: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_REPORTS_AT_ONCE, thread_name_prefix="commitment")
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        """Look for reports that are due, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is not delivered stays due."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self, received: ReceivedRequest, way_back: Notifications, context_id: int) -> None:
        """Answer a request whose association may still be open."""
        self._submit(received, lambda: self._answer_here(received, way_back, context_id))

    def _run(self) -> None:
        look_for_old_s = 0.0
        while not self._stop.wait(_LOOK_EVERY_S):
            try:
                if time.monotonic() >= look_for_old_s:
                    look_for_old_s = time.monotonic() + _LOOK_FOR_OLD_EVERY_S
                    self._abandon_old()
                due = self._records.due(self._addresses) if self._addresses else []
            except SQLAlchemyError as error:
                _log.warning("commitment reports wait for the database", kind=type(error).__name__)
                continue
            for received in due:
                self._submit(received, partial(self._answer_elsewhere, received))

    def _abandon_old(self) -> None:
        abandoned = self._records.abandon_old()
        if abandoned:
            _log.error("commitment reports were given up: nobody took them in time", requests=abandoned)

    def _submit(self, received: ReceivedRequest, answer: Callable[[], None]) -> None:
        with self._lock:
            if received.key in self._under_way or self._stop.is_set():
                return
            self._under_way.add(received.key)
        self._pool.submit(self._answer, received, answer)

    def _answer(self, received: ReceivedRequest, answer: Callable[[], None]) -> None:
        try:
            answer()
        except (SQLAlchemyError, OSError) as error:  # the row stays due
            _log.error("a commitment report waits", requestor=received.requestor, kind=type(error).__name__)
        finally:
            with self._lock:
                self._under_way.discard(received.key)

    def _answer_here(self, received: ReceivedRequest, way_back: Notifications, context_id: int) -> None:
        self._stop.wait(_PAUSE_S)
        report = assess(received, self._archive, self._records) if way_back.open else None
        if report is not None and way_back.open:
            status = way_back.send(
                context_id,
                sop_class_uid=StorageCommitmentPushModel,
                sop_instance_uid=WELL_KNOWN_INSTANCE,
                event_type=report.event_type,
                information=report_dataset(report),
                timeout_s=_ANSWER_TIMEOUT_S,
            )
            if status == NormalizedStatus.SUCCESS:
                self._delivered(received, report)
                return
            if status is not None:
                _log.warning("a commitment report was refused", requestor=received.requestor, status=in_words(status))
        if received.requestor in self._addresses:
            self._answer_elsewhere(received)
        else:
            _log.warning(
                "a commitment report has nowhere to go: its association has ended, and the requestor's port is not configured",
                requestor=received.requestor,
            )

    def _answer_elsewhere(self, received: ReceivedRequest) -> None:
        report = assess(received, self._archive, self._records)
        try:
            send_report(self._addresses[received.requestor], report)
        except PeerError as error:
            again = self._records.postponed(received)
            _log.warning("a commitment report was not delivered", requestor=received.requestor, code=error.code, again=again)
            return
        self._delivered(received, report)

    def _delivered(self, received: ReceivedRequest, report: CommitmentReport) -> None:
        self._records.delivered(received)
        _log.info(
            "commitment reported",
            action="commitment",
            requestor=received.requestor,
            committed=len(report.committed),
            failed=len(report.failed),
        )
