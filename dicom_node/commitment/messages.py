"""Storage commitment as data: which instances are asked about, which are committed, and both as the datasets of the wire. Pure.

References
----------
DICOM PS3.4 Annex J (Storage Commitment Push Model); PS3.3 C.14 (Storage Commitment Module).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.presentation import UNCOMPRESSED
from domain.errors import UnreadableInstance
from domain.identifiers import require_uid

# PS3.4 J.3.5: the one instance that every request and every report names.
WELL_KNOWN_INSTANCE = UID("1.2.840.10008.1.20.1.1")

# PS3.4 J.3.2 (action) and J.3.3 (events).
REQUEST_COMMITMENT = 1
ALL_COMMITTED = 1
FAILURES_EXIST = 2


class FailureReason(IntEnum):
    """Why an instance is not committed (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119


@dataclass(frozen=True, slots=True)
class NamedInstance:
    """An instance by its class and UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One transaction: who should commit to what."""

    transaction_uid: str
    instances: tuple[NamedInstance, ...]


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """The answer to a transaction.

    Attributes
    ----------
    committed : tuple of NamedInstance
        Kept for good.
    failed : tuple of (NamedInstance, int)
        Not kept, each with its failure reason (PS3.3 C.14.1.1).
    """

    transaction_uid: str
    committed: tuple[NamedInstance, ...]
    failed: tuple[tuple[NamedInstance, int], ...] = ()

    @property
    def event_type(self) -> int:
        """Event Type ID of this report (PS3.4 J.3.3)."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED

    @property
    def reasons(self) -> Counter[int]:
        """How many instances failed for which reason."""
        return Counter(reason for _, reason in self.failed)


def commitment_contexts() -> list[PresentationContext]:
    """Return what a requestor of commitment, or a reporter of it, proposes."""
    return [build_context(StorageCommitmentPushModel, list(UNCOMPRESSED))]


def request_dataset(request: CommitmentRequest) -> Dataset:
    """Return the Action Information of a request (PS3.4 table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [_item(instance) for instance in request.instances]
    return ds


def read_request(ds: Dataset) -> CommitmentRequest:
    """Return the request that an Action Information holds.

    Raises
    ------
    UnreadableInstance
        If a UID is missing or none, or nothing is referenced.
    """
    request = CommitmentRequest(_transaction(ds), _named(ds.get("ReferencedSOPSequence")))
    if not request.instances:
        raise UnreadableInstance(
            found="a commitment request without referenced instances",
            allowed="at least one item of Referenced SOP Sequence (PS3.4 table J.3-1)",
            action="mend the requestor",
        )
    return request


def report_dataset(report: CommitmentReport) -> Dataset:
    """Return the Event Information of a report (PS3.4 table J.3-2); an empty sequence is left out, as that table has it."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.ReferencedSOPSequence = [_item(instance) for instance in report.committed]
    if report.failed:
        ds.FailedSOPSequence = [_item(instance, reason) for instance, reason in report.failed]
    return ds


def read_report(ds: Dataset) -> CommitmentReport:
    """Return the report that an Event Information holds; its sequences count, whatever the event type says.

    Raises
    ------
    UnreadableInstance
        If a UID is missing or none.
    """
    failed_items = ds.get("FailedSOPSequence") or []
    failed = tuple(
        (instance, int(item.get("FailureReason") or FailureReason.PROCESSING_FAILURE))
        for instance, item in zip(_named(failed_items), failed_items, strict=True)
    )
    return CommitmentReport(_transaction(ds), _named(ds.get("ReferencedSOPSequence")), failed)


def held_against(report: CommitmentReport, asked: Iterable[NamedInstance]) -> CommitmentReport:
    """Return what a report says of the instances that were asked about; one that it does not name has failed."""
    committed = {instance.sop_instance_uid for instance in report.committed}
    reasons = {instance.sop_instance_uid: reason for instance, reason in report.failed}
    asked = tuple(asked)
    failed = tuple(
        (instance, reasons.get(instance.sop_instance_uid, int(FailureReason.NO_SUCH_OBJECT_INSTANCE)))
        for instance in asked
        if instance.sop_instance_uid in reasons or instance.sop_instance_uid not in committed
    )
    lost = {instance.sop_instance_uid for instance, _ in failed}
    kept = tuple(instance for instance in asked if instance.sop_instance_uid not in lost)
    return CommitmentReport(report.transaction_uid, kept, failed)


def named_instances(datasets: Iterable[Dataset]) -> tuple[NamedInstance, ...]:
    """Return the names of instances."""
    return tuple(NamedInstance(str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in datasets)


def _item(instance: NamedInstance, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class_uid
    item.ReferencedSOPInstanceUID = instance.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def _named(items: Sequence[Dataset] | None) -> tuple[NamedInstance, ...]:
    return tuple(
        NamedInstance(
            require_uid(item.get("ReferencedSOPClassUID"), attribute="ReferencedSOPClassUID"),
            require_uid(item.get("ReferencedSOPInstanceUID"), attribute="ReferencedSOPInstanceUID"),
        )
        for item in items or ()
    )


def _transaction(ds: Dataset) -> str:
    return require_uid(ds.get("TransactionUID"), attribute="TransactionUID")
