"""Storage as SCP (PS3.4 Annex B): Success is answered when bytes and index row are durable."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.associations import AuditTrail
from dicom_node.files import wrap_encoded
from dicom_node.index import Landing
from dicom_node.services.service import Handler
from dicom_node.statuses import Status, status_of
from domain.errors import UnreadableInstance, VeraiconError
from domain.identifiers import require_uid

_log = structlog.get_logger(__name__)


class StorageService:
    """Answers C-STORE.

    It lists no context: the unrestricted storage service (see `dicom_node.pynetdicom_mends.configure`) accepts each storage
    class, private and future ones too, in the first transfer syntax that the requestor proposes.
    """

    def __init__(self, archive: Archive, audit: AuditTrail) -> None:
        self._archive, self._audit = archive, audit

    def contexts(self) -> Sequence[PresentationContext]:
        """Return none: see above."""
        return []

    def handlers(self) -> Sequence[Handler]:
        """Return the handler of C-STORE."""
        return [(evt.EVT_C_STORE, self._store)]

    def _store(self, event: evt.Event) -> int | Dataset:
        """C-STORE (PS3.4 B.2.3), answered after bytes and index row are durable.

        - 0x0000 Success: stored, or held already, or kept aside because other bytes hold its UID (the log says so).
        - 0xA700 Refused, out of resources: too little room, or the index cannot be written; send again later.
        - 0xC000 Error, cannot understand: no DICOM or no valid UIDs; the bytes are kept among the refused.
        """
        record = self._audit.record(event.assoc)
        try:
            landed = self._archive.land(self._received_file(event), source=record.calling)
        except VeraiconError as error:
            record.count("refused")
            _log.warning(
                "an instance was not stored", association_id=record.association_id, code=error.code, source=record.calling
            )
            return status_of(error)
        except (SQLAlchemyError, OSError) as error:
            record.count("refused")
            _log.error("archive or index cannot be written", association_id=record.association_id, kind=type(error).__name__)
            return Status.OUT_OF_RESOURCES
        record.count(landed.landing.name.lower() if landed.landing is not Landing.STORED else "stored")
        return Status.SUCCESS

    def _received_file(self, event: evt.Event) -> bytes:
        request = event.request
        encoded = event.encoded_dataset(include_meta=False)
        try:
            return wrap_encoded(
                encoded,
                sop_class_uid=require_uid(request.AffectedSOPClassUID, attribute="AffectedSOPClassUID"),
                sop_instance_uid=require_uid(request.AffectedSOPInstanceUID, attribute="AffectedSOPInstanceUID"),
                transfer_syntax_uid=event.context.transfer_syntax,
            )
        except UnreadableInstance as error:
            self._archive.refuse(encoded, error, source=self._audit.record(event.assoc).calling)
            raise
