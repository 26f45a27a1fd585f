"""Modality Performed Procedure Step as SCP (PS3.4 F.7): N-CREATE and N-SET, each answered when its rows are durable."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pydicom.dataset import Dataset
from pynetdicom import build_context, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import ModalityPerformedProcedureStep
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.association.policy import AuditTrail
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.procedure_steps import Change, ProcedureSteps, StepState, read_listing
from dicom_node.presentation import UNCOMPRESSED
from dicom_node.services.service import Handler
from dicom_node.statuses import NormalizedStatus, comment_of
from domain.errors import UnreadableInstance
from domain.identifiers import require_uid

_log = structlog.get_logger(__name__)

# PS3.4 table F.7.2-1: attributes of type 1 at N-CREATE.
REQUIRED = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "PerformedProcedureStepStatus",
    "Modality",
)

# PS3.4 table F.7.2-2: the specific error of a change after the end.
_MAY_NO_LONGER_BE_UPDATED = 0xA710

Answer = tuple[int | Dataset, Dataset | None]


class ProcedureStepService:
    """Takes what modalities tell of their procedure steps."""

    def __init__(self, steps: ProcedureSteps, audit: AuditTrail) -> None:
        self._steps, self._audit = steps, audit

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the context of Modality Performed Procedure Step."""
        return [build_context(ModalityPerformedProcedureStep, list(UNCOMPRESSED))]

    def handlers(self) -> Sequence[Handler]:
        """Return the handlers of N-CREATE and N-SET."""
        return [(evt.EVT_N_CREATE, self._create), (evt.EVT_N_SET, self._set)]

    def _create(self, event: evt.Event) -> Answer:
        """N-CREATE (PS3.4 F.7.2.1).

        - 0x0000 Success: the step is kept.
        - 0x0106 Invalid attribute value: not IN PROGRESS, or a UID that is none.
        - 0x0111 Duplicate SOP instance: a step has this UID.
        - 0x0117 Invalid SOP instance: no UID; the SCU has to give one.
        - 0x0120 Missing attribute, 0x0121 Missing attribute value: of type 1.
        - 0x0110 Processing failure: the dataset cannot be read. 0x0213 Resource limitation: it cannot be kept now.
        """
        record = self._audit.record(event.assoc)
        try:
            uid = require_uid(event.request.AffectedSOPInstanceUID, attribute="AffectedSOPInstanceUID")
        except UnreadableInstance:
            return NormalizedStatus.INVALID_SOP_INSTANCE, None
        try:
            ds = event.attribute_list
            refusal = _refusal_of_new(ds)
            listed = read_listing(ds) or frozenset()
        except (*PARSE_ERRORS, UnreadableInstance) as error:
            return _unreadable(error, record.calling), None
        if refusal is not None:
            return refusal, None
        try:
            created = self._steps.create(uid, listed, source=record.calling)
        except SQLAlchemyError as error:
            return _not_kept(error), None
        record.count("procedure_steps_created" if created else "refused")
        return (NormalizedStatus.SUCCESS if created else NormalizedStatus.DUPLICATE_SOP_INSTANCE), None

    def _set(self, event: evt.Event) -> Answer:
        """N-SET (PS3.4 F.7.2.2).

        - 0x0000 Success: the change is kept.
        - 0x0106 Invalid attribute value: an unknown status, or a UID that is none.
        - 0x0110 Processing failure, with Error ID 0xA710: the step is completed or discontinued already.
        - 0x0112 No such SOP instance.
        - 0x0213 Resource limitation: it cannot be kept now.
        """
        record = self._audit.record(event.assoc)
        try:
            ds = event.modification_list
            stated = str(ds.get("PerformedProcedureStepStatus") or "")
            listed = read_listing(ds)
        except (*PARSE_ERRORS, UnreadableInstance) as error:
            return _unreadable(error, record.calling), None
        if stated and stated not in {state.value for state in StepState}:
            return NormalizedStatus.INVALID_ATTRIBUTE_VALUE, None
        try:
            change = self._steps.change(
                str(event.request.RequestedSOPInstanceUID), state=StepState(stated) if stated else None, listed=listed
            )
        except SQLAlchemyError as error:
            return _not_kept(error), None
        if change is Change.UNKNOWN:
            return NormalizedStatus.NO_SUCH_SOP_INSTANCE, None
        if change is Change.FINAL:
            return _final(), None
        record.count("procedure_steps_changed")
        return NormalizedStatus.SUCCESS, None


def _refusal_of_new(ds: Dataset) -> Dataset | NormalizedStatus | None:
    """Return why a new step is not taken: what PS3.4 table F.7.2-1 requires is not there."""
    missing = [keyword for keyword in REQUIRED if keyword not in ds]
    empty = [keyword for keyword in REQUIRED if keyword in ds and not ds[keyword].value]
    studies = [item.get("StudyInstanceUID") for item in ds.get("ScheduledStepAttributesSequence") or ()]
    if missing:
        return _attributes(NormalizedStatus.MISSING_ATTRIBUTE, missing)
    if not empty and not all(studies):
        empty = ["StudyInstanceUID"]
    if empty:
        return _attributes(NormalizedStatus.MISSING_ATTRIBUTE_VALUE, empty)
    if ds.PerformedProcedureStepStatus != StepState.IN_PROGRESS.value:
        return NormalizedStatus.INVALID_ATTRIBUTE_VALUE
    return None


def _attributes(status: NormalizedStatus, keywords: Sequence[str]) -> Dataset:
    """Return a status whose comment names the attributes in question: pynetdicom has no place for their list."""
    answer = Dataset()
    answer.Status = int(status)
    answer.ErrorComment = comment_of(", ".join(keywords))
    return answer


def _final() -> Dataset:
    answer = Dataset()
    answer.Status = int(NormalizedStatus.PROCESSING_FAILURE)
    answer.ErrorComment = "Performed Procedure Step Object may no longer be updated"
    answer.ErrorID = _MAY_NO_LONGER_BE_UPDATED
    return answer


def _unreadable(error: Exception, source: str) -> NormalizedStatus:
    _log.warning("a procedure step cannot be read", source=source, kind=type(error).__name__)
    if isinstance(error, UnreadableInstance):
        return NormalizedStatus.INVALID_ATTRIBUTE_VALUE
    return NormalizedStatus.PROCESSING_FAILURE


def _not_kept(error: SQLAlchemyError) -> NormalizedStatus:
    _log.error("a procedure step cannot be kept", kind=type(error).__name__)
    return NormalizedStatus.RESOURCE_LIMITATION
