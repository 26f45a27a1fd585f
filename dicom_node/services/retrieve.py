"""Retrieve as SCP (PS3.4 C.4.2, C.4.3): C-GET and C-MOVE over the archive, in the Patient Root and Study Root models.

Both operations are answered here, message by message, in place of pynetdicom (see `pynetdicom_mends.take_over`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from types import MappingProxyType
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.association import pynetdicom_mends
from dicom_node.association.policy import AuditTrail
from dicom_node.association.waiting import has_ended
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.index import Holding
from dicom_node.presentation import GET_CLASSES, MOVE_CLASSES, UNCOMPRESSED, retrieve_contexts
from dicom_node.query import Root, parse_get
from dicom_node.scu import Peer
from dicom_node.services.cancelling import Cancellations
from dicom_node.services.service import Handler, refused_query
from dicom_node.services.sub_operations import (
    Outlet,
    SameAssociation,
    SubOperationCounts,
    attempt,
    destination_of,
    move_destination,
)
from dicom_node.statuses import Status, status_of
from domain.errors import PeerRefused, VeraiconError

_log = structlog.get_logger(__name__)

_NOWHERE: Mapping[str, Peer] = MappingProxyType({})

# PS3.7 9.1.3.1: the numbers of sub-operations are unsigned 16-bit.
_MAX_SUB_OPERATIONS = 65535

HandOut = Callable[[Collection[str], str, str], None]
"""Series Instance UIDs, recipient and protocol of what is about to be handed out; see `RetrieveService`."""

_Request = Any
_Respond = Callable[[Dataset, SubOperationCounts | None], None]

# A node always has a timeout for messages; this is for one that was told to have none.
_NEVER_S = 3600.0


def untold(_series_uids: Collection[str], _recipient: str, _protocol: str) -> None:
    """Nobody wants to know where instances go."""


class RetrieveService:
    """Answers C-GET and C-MOVE.

    Parameters
    ----------
    destinations : mapping of str to Peer
        Where C-MOVE may send, by AE title.
    hand_out : callable
        Told once an operation which series go to which AE title, by ``c-get`` or ``c-move``, before the first instance leaves.
    """

    def __init__(
        self,
        archive: Archive,
        audit: AuditTrail,
        *,
        destinations: Mapping[str, Peer] = _NOWHERE,
        hand_out: HandOut = untold,
    ) -> None:
        self._archive, self._audit, self._hand_out = archive, audit, hand_out
        self._destinations = {title.strip(): peer for title, peer in destinations.items()}
        self._cancellations = Cancellations()

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the contexts of each operation and model."""
        return retrieve_contexts()

    def handlers(self) -> Sequence[Handler]:
        """Return the handlers that take over both operations of each association."""
        return [
            (evt.EVT_REQUESTED, self._prefer_uncompressed),
            (evt.EVT_ESTABLISHED, self._take_over),
            *self._cancellations.handlers(),
        ]

    def _prefer_uncompressed(self, event: evt.Event) -> None:
        """Let C-GET choose a syntax that every instance can be sent in, where the caller leaves the choice to us.

        A caller that wants to receive by C-GET takes the SCP role for its storage classes, and may offer several syntaxes in
        one context, of which the first is accepted otherwise. One that offers each in a context of its own gets instances as
        they are.
        """
        request = event.assoc.requestor.primitive
        wanted = {item.sop_class_uid for item in event.assoc.requestor.role_selection.values() if item.scp_role}
        for context in request.presentation_context_definition_list:
            if context.abstract_syntax in wanted:
                context.transfer_syntax = sorted(context.transfer_syntax, key=_preference)

    def _take_over(self, event: evt.Event) -> None:
        pynetdicom_mends.take_over(event.assoc, (C_GET, C_MOVE), self._answer)

    def _answer(self, assoc: Any, request: _Request, context: PresentationContext) -> None:
        """C-GET and C-MOVE (PS3.4 C.4.2, C.4.3): a pending response after each sub-operation, then the final one.

        - 0xFF00 Pending, with the counts; then Success, 0xB000 where some sub-operations failed or had warnings, 0xA702 where
          all failed; the last two with the Failed SOP Instance UID List.
        - 0xFE00 Cancel, with the counts.
        - 0xA701 Refused, out of resources: the index cannot be read.
        - 0xA702 Refused, out of resources: more instances than sub-operations can be counted.
        - 0xA801 Refused, move destination unknown.
        - 0xA900 Identifier does not match SOP class: no level or no unique key of it.
        - 0xC000 Unable to process: the identifier does not parse.
        """
        record = self._audit.record(assoc)
        record.count("moves" if isinstance(request, C_MOVE) else "gets")
        respond = _responder(assoc, request, context)
        with ExitStack() as stack:
            try:
                outlet = self._outlet(assoc, request, stack)
                holdings = outlet.arranged(self._asked_for(request, context))
                self._tell(assoc, request, holdings)
            except PeerRefused as error:
                refusal = status_of(error)
                refusal.Status = int(Status.MOVE_DESTINATION_UNKNOWN)
                respond(refusal, None)
                return
            except (*PARSE_ERRORS, VeraiconError, SQLAlchemyError) as error:
                respond(_as_dataset(refused_query(error)), None)
                return
            if len(holdings) > _MAX_SUB_OPERATIONS:
                respond(_too_many(), None)
                return
            self._perform(assoc, request, outlet, holdings, respond)

    def _tell(self, assoc: Any, request: _Request, holdings: Sequence[Holding]) -> None:
        if isinstance(request, C_MOVE):
            recipient, protocol = str(request.MoveDestination).strip(), "c-move"
        else:
            recipient, protocol = self._audit.record(assoc).calling, "c-get"
        self._hand_out({holding.series_uid for holding in holdings}, recipient, protocol)

    def _perform(self, assoc: Any, request: _Request, outlet: Outlet, holdings: Sequence[Holding], respond: _Respond) -> None:
        counts = SubOperationCounts(remaining=len(holdings))
        record = self._audit.record(assoc)
        for number, holding in enumerate(holdings, start=1):
            if self._cancellations.asked(assoc, request.MessageID):
                respond(_as_dataset(Status.CANCEL), counts)
                return
            stored = counts.note(holding, attempt(outlet, holding, number))
            record.count("sent" if stored else "not_sent")
            if has_ended(assoc):
                _log.warning("a caller has gone in the middle of its retrieval", action="retrieve", remaining=counts.remaining)
                return
            if counts.remaining:
                respond(_as_dataset(Status.PENDING), counts)
        respond(_as_dataset(counts.status), counts)

    def _outlet(self, assoc: Any, request: _Request, stack: ExitStack) -> Outlet:
        if isinstance(request, C_GET):
            return SameAssociation(
                self._archive, assoc, request_id=request.MessageID, timeout_s=float(assoc.dimse_timeout or _NEVER_S)
            )
        peer = destination_of(self._destinations, str(request.MoveDestination))
        originator = (self._audit.record(assoc).calling, request.MessageID)
        return stack.enter_context(move_destination(self._archive, peer, originator=originator))

    def _asked_for(self, request: _Request, context: PresentationContext) -> list[Holding]:
        syntax = context.transfer_syntax[0]
        identifier = decode(request.Identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        patient_root = request.AffectedSOPClassUID in (GET_CLASSES[0], MOVE_CLASSES[0])
        query = parse_get(identifier, Root.PATIENT if patient_root else Root.STUDY)
        return self._archive.holdings({keyword: value.split("\\") for keyword, value in query.matching.items()})


def _too_many() -> Dataset:
    answer = _as_dataset(Status.UNABLE_TO_PERFORM_SUBOPERATIONS)
    answer.ErrorComment = f"more than {_MAX_SUB_OPERATIONS} instances: ask series by series"
    return answer


def _responder(assoc: Any, request: _Request, context: PresentationContext) -> _Respond:
    """Return how this request is answered: with a status and, where the operation began, its counts."""
    syntax = context.transfer_syntax[0]

    def respond(status: Dataset, counts: SubOperationCounts | None) -> None:
        response = type(request)()
        response.MessageIDBeingRespondedTo = request.MessageID
        response.AffectedSOPClassUID = request.AffectedSOPClassUID
        response.Status = status.Status
        response.ErrorComment = status.get("ErrorComment")
        if counts is not None:
            _count(response, counts)
            if status.Status not in (Status.PENDING, Status.SUCCESS):
                identifier = Dataset()
                identifier.FailedSOPInstanceUIDList = counts.failed_uid_list
                encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
                response.Identifier = BytesIO(encoded or b"")
        assoc.dimse.send_msg(response, context.context_id)

    return respond


def _count(response: Any, counts: SubOperationCounts) -> None:
    """Set the counts; what remains is said only while something does (PS3.7 9.1.3.1.6)."""
    if response.Status in (Status.PENDING, Status.CANCEL):
        response.NumberOfRemainingSuboperations = counts.remaining
    response.NumberOfCompletedSuboperations = counts.completed
    response.NumberOfFailedSuboperations = counts.failed
    response.NumberOfWarningSuboperations = counts.warning


def _as_dataset(status: int | Dataset) -> Dataset:
    if isinstance(status, Dataset):
        return status
    answer = Dataset()
    answer.Status = int(status)
    return answer


def _preference(syntax: str) -> int:
    return UNCOMPRESSED.index(syntax) if syntax in UNCOMPRESSED else len(UNCOMPRESSED)
