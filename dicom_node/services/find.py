"""Query as SCP (PS3.4 C.4.1): C-FIND in the Patient Root and Study Root models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.associations import AuditTrail
from dicom_node.headers import PARSE_ERRORS
from dicom_node.presentation import FIND_CLASSES, find_contexts
from dicom_node.query import Root, answer, parse_find, select
from dicom_node.services.service import Handler, Response, refused_query
from dicom_node.statuses import Status
from domain.errors import VeraiconError


class FindService:
    """Answers C-FIND from the archive's index."""

    def __init__(self, archive: Archive, audit: AuditTrail, *, ae_title: str) -> None:
        self._archive, self._audit, self._ae_title = archive, audit, ae_title

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the context of each model."""
        return [context for uid in FIND_CLASSES for context in find_contexts(uid)]

    def handlers(self) -> Sequence[Handler]:
        """Return the handler of C-FIND."""
        return [(evt.EVT_C_FIND, self._find)]

    def _find(self, event: evt.Event) -> Iterator[Response]:
        """C-FIND, Patient Root and Study Root (PS3.4 C.4.1).

        - 0xFF00 Pending, with each match; then Success (by pynetdicom).
        - 0xFE00 Cancel.
        - 0xA700 Refused, out of resources: the index cannot be read.
        - 0xA900 Identifier does not match SOP class: no level of the model.
        - 0xC000 Unable to process: the identifier does not parse.
        """
        root = Root.PATIENT if event.request.AffectedSOPClassUID == FIND_CLASSES[0] else Root.STUDY
        self._audit.record(event.assoc).count("finds")
        try:
            query = parse_find(event.identifier, root)
            found = self._archive.find(query.level, query.narrowing)
        except (*PARSE_ERRORS, VeraiconError, SQLAlchemyError) as error:
            yield refused_query(error), None
            return
        for entity in select(query, found):
            if event.is_cancelled:
                yield Status.CANCEL, None
                return
            yield Status.PENDING, answer(query, entity, retrieve_ae_title=self._ae_title)
