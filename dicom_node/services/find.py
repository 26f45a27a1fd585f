"""Query as SCP (PS3.4 C.4.1): C-FIND in the Patient Root and Study Root models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.association.policy import AuditTrail
from dicom_node.association.waiting import await_room
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.presentation import FIND_CLASSES, GET_CLASSES, MOVE_CLASSES, find_contexts
from dicom_node.query import Root, answer, parse_find, select
from dicom_node.services.cancelling import Cancellations
from dicom_node.services.service import Handler, Response, refused_query
from dicom_node.statuses import Status
from domain.errors import VeraiconError

# What may be granted of the application information that a caller proposes, octet by octet.
_GRANTS = dict.fromkeys(map(str, FIND_CLASSES), (1, 1, 0, 0)) | dict.fromkeys(map(str, (*GET_CLASSES, *MOVE_CLASSES)), (1, 0))


class FindService:
    """Answers C-FIND from the archive's index."""

    def __init__(self, archive: Archive, audit: AuditTrail, *, ae_title: str) -> None:
        self._archive, self._audit, self._ae_title = archive, audit, ae_title
        self._cancellations = Cancellations()

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the context of each model."""
        return [context for uid in FIND_CLASSES for context in find_contexts(uid)]

    def handlers(self) -> Sequence[Handler]:
        """Return the handlers of C-FIND and of what is negotiated about it."""
        return [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_SOP_EXTENDED, self._negotiate),
            *self._cancellations.handlers(),
        ]

    def _negotiate(self, event: evt.Event) -> dict[str, bytes]:
        """Grant relational queries and retrievals, which we answer anyway, and combined ranges of date and time.

        References
        ----------
        DICOM PS3.4 C.5.1.1 (C-FIND: relational, date-time, fuzzy, timezone), C.5.2.1, C.5.3.1 (relational).
        """
        return {
            uid: bytes(value & grant for value, grant in zip(asked, _GRANTS[uid], strict=False))
            for uid, asked in event.app_info.items()
            if uid in _GRANTS
        }

    def _find(self, event: evt.Event) -> Iterator[Response]:
        """C-FIND, Patient Root and Study Root (PS3.4 C.4.1).

        - 0xFF00 Pending, with each match; 0xFF01 where keys of the request are not supported; then Success (by pynetdicom).
        - 0xFE00 Cancel.
        - 0xA700 Refused, out of resources: the index cannot be read.
        - 0xA900 Identifier does not match SOP class: no level of the model.
        - 0xC000 Unable to process: the identifier does not parse.
        """
        model = event.request.AffectedSOPClassUID
        root = Root.PATIENT if model == FIND_CLASSES[0] else Root.STUDY
        granted = event.assoc.acceptor.sop_class_extended.get(model, b"")
        self._audit.record(event.assoc).count("finds")
        try:
            query = parse_find(event.identifier, root, combined=granted[1:2] == b"\1")
            found = self._archive.search(query.level, query.narrowing, counted=query.counted)
            pending = Status.PENDING if query.supported else Status.PENDING_WITHOUT_OPTIONAL_KEYS
            for entity in select(query, found):
                if self._cancellations.asked(event.assoc, event.request.MessageID):
                    yield Status.CANCEL, None
                    return
                await_room(event.assoc)
                yield pending, answer(query, entity, retrieve_ae_title=self._ae_title)
        except (*PARSE_ERRORS, VeraiconError, SQLAlchemyError) as error:
            # PS3.4 Table C.4-1 has no 0xA701.
            yield refused_query(error, unreadable_index=Status.OUT_OF_RESOURCES), None
