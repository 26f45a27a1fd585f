"""Storage as SCP (PS3.4 Annex B): Success is answered when bytes and index row are durable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.association import wire
from dicom_node.association.direct_storage import DirectStorage
from dicom_node.association.policy import AssociationRecord, AuditTrail
from dicom_node.holding.files import DurableFile, part10_head
from dicom_node.services.service import Handler
from dicom_node.statuses import Status, status_of
from domain.errors import UnreadableInstance, VeraiconError
from domain.identifiers import require_uid

_log = structlog.get_logger(__name__)

# Message ID of a C-MOVE of ours that brings priors. Its sub-operations name it, so that no request is made of what they bring.
PRIOR_MOVE_ID = 0x5052


class StorageService:
    """Answers C-STORE, in the thread that reads it (`dicom_node.association.direct_storage`).

    It lists no context: the unrestricted storage service (see `pynetdicom_mends.configure`) accepts each storage
    class, private and future ones too, in the first transfer syntax that the requestor proposes. Bytes are kept as they come;
    whether a codec is installed is a question of reading.
    """

    def __init__(self, archive: Archive, audit: AuditTrail) -> None:
        self._archive, self._audit = archive, audit
        self._direct: WeakKeyDictionary[Any, DirectStorage] = WeakKeyDictionary()

    def contexts(self) -> Sequence[PresentationContext]:
        """Return none: see above."""
        return []

    def handlers(self) -> Sequence[Handler]:
        """Return what attaches to a connection before its first message, and lets go of it."""
        return [(evt.EVT_CONN_OPEN, self._opened), (evt.EVT_CONN_CLOSE, self._closed)]

    def _opened(self, event: evt.Event) -> None:
        self._direct[event.assoc] = DirectStorage(event.assoc, self._begin)

    def _closed(self, event: evt.Event) -> None:
        direct = self._direct.pop(event.assoc, None)
        if direct is not None:
            direct.abandon()

    def _begin(
        self, assoc: Any, request: wire.Command, abstract_syntax_uid: str, transfer_syntax_uid: str
    ) -> InstanceReception | RefusedReception:
        if wire.text(request, wire.SOP_CLASS_UID) != abstract_syntax_uid:
            self._audit.record(assoc).count("refused")
            return RefusedReception()
        origin = "pulled" if _brings_a_prior(assoc, request) else "received"
        return InstanceReception(self._archive, self._audit.record(assoc), request, transfer_syntax_uid, origin=origin)


def _brings_a_prior(assoc: Any, request: wire.Command) -> bool:
    """Return whether an instance comes of a C-MOVE with which we fetch priors (PS3.7 9.1.1.1, Move Originator)."""
    if wire.number(request, wire.MOVE_ORIGINATOR_ID) != PRIOR_MOVE_ID:
        return False
    return wire.text(request, wire.MOVE_ORIGINATOR) == str(assoc.requestor.primitive.called_ae_title).strip()


class RefusedReception:
    """C-STORE of an instance whose SOP class is not that of its presentation context (PS3.7 9.1.1.1.4): nothing is kept.

    - 0x0122 Refused, SOP class not supported (PS3.7 C.5.9).
    """

    def write(self, data: memoryview) -> None:
        """Let it go."""

    def finish(self) -> tuple[int, str]:
        """Return status and comment."""
        return Status.SOP_CLASS_NOT_SUPPORTED, "the presentation context is of another SOP class"

    def abandon(self) -> None:
        """Nothing was written."""


class InstanceReception:
    """C-STORE of one instance (PS3.4 B.2.3), answered after bytes and index row are durable.

    - 0x0000 Success: stored, or held already, or kept aside because other bytes hold its UID (the log says so).
    - 0xA700 Refused, out of resources: too little room, or the index cannot be written; send again later.
    - 0x0122 Refused, SOP class not supported: another one than that of its presentation context, see `RefusedReception`.
    - 0xA900 Error, data set does not match SOP class: it names another class or instance than its command; kept as below.
    - 0xC000 Error, cannot understand: no DICOM or no valid UIDs; the bytes are kept among the refused.
    """

    def __init__(
        self,
        archive: Archive,
        record: AssociationRecord,
        request: wire.Command,
        transfer_syntax_uid: str,
        *,
        origin: str = "received",
    ) -> None:
        self._archive, self._record, self._origin = archive, record, origin
        self._file: DurableFile | None = None
        self._nameless: UnreadableInstance | None = None
        self._failure: VeraiconError | SQLAlchemyError | OSError | None = None
        self._attempt(lambda: self._open(request, transfer_syntax_uid))

    def write(self, data: memoryview) -> None:
        """Take a piece of the dataset; after a failure the rest is let go."""
        self._attempt(lambda: self._written().write(data))

    def finish(self) -> tuple[int, str]:
        """Land the instance; return status and comment."""
        self._attempt(self._land)
        self.abandon()
        if self._failure is None:
            return Status.SUCCESS, ""
        return self._refused(self._failure)

    def abandon(self) -> None:
        """Remove what has no name yet."""
        if self._file is not None:
            self._file.discard()

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._failure is None:
            try:
                action()
            except (VeraiconError, SQLAlchemyError, OSError) as error:
                self._failure = error

    def _written(self) -> DurableFile:
        if self._file is None:
            raise OSError("no file was begun")
        return self._file

    def _open(self, request: wire.Command, transfer_syntax_uid: str) -> None:
        self._file = self._archive.begin_landing()
        try:
            head = part10_head(
                require_uid(wire.text(request, wire.SOP_CLASS_UID), attribute="AffectedSOPClassUID"),
                require_uid(wire.text(request, wire.SOP_INSTANCE_UID), attribute="AffectedSOPInstanceUID"),
                transfer_syntax_uid,
            )
        except UnreadableInstance as error:
            self._nameless = error  # its bytes are taken all the same, and kept among the refused
        else:
            self._file.write(head)

    def _land(self) -> None:
        file, source = self._written(), self._record.calling
        if self._nameless is not None:
            self._archive.refuse_landing(file, self._nameless, source=source)
            raise self._nameless
        landed = self._archive.finish_landing(file, source=source, origin=self._origin)
        self._record.count(landed.landing.name.lower())

    def _refused(self, failure: VeraiconError | SQLAlchemyError | OSError) -> tuple[int, str]:
        self._record.count("refused")
        if isinstance(failure, VeraiconError):
            answer = status_of(failure)
            _log.warning(
                "an instance was not stored",
                association_id=self._record.association_id,
                code=failure.code,
                source=self._record.calling,
            )
            return int(answer.Status), str(answer.ErrorComment)
        _log.error(
            "archive or index cannot be written", association_id=self._record.association_id, kind=type(failure).__name__
        )
        return Status.OUT_OF_RESOURCES, "archive or index cannot be written; send again later"
