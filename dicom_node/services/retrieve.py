"""Retrieve as SCP (PS3.4 C.4.3): C-GET over the archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.archive import Archive
from dicom_node.associations import AuditTrail
from dicom_node.headers import PARSE_ERRORS
from dicom_node.presentation import get_contexts, is_accepted
from dicom_node.query import Query, Root, parse_get
from dicom_node.services.service import Handler, Response, refused_query
from dicom_node.statuses import Status
from domain.errors import VeraiconError
from domain.series import InstanceReference

_log = structlog.get_logger(__name__)


class RetrieveService:
    """Answers C-GET."""

    def __init__(self, archive: Archive, audit: AuditTrail) -> None:
        self._archive, self._audit = archive, audit

    def contexts(self) -> Sequence[PresentationContext]:
        """Return the context of each model."""
        return get_contexts()

    def handlers(self) -> Sequence[Handler]:
        """Return the handler of C-GET."""
        return [(evt.EVT_C_GET, self._get)]

    def _get(self, event: evt.Event) -> Iterator[int | Response]:
        """C-GET, Study Root (PS3.4 C.4.3): the number of sub-operations, then each instance.

        - 0xFF00 Pending with an instance; then Success, or 0xB000 where sub-operations failed (by pynetdicom).
        - 0xFE00 Cancel.
        - 0xA701 Refused, out of resources: the index cannot be read.
        - 0xA900 Identifier does not match SOP class: no level, or its unique key is missing.
        - 0xC000 Unable to process: the identifier does not parse.
        """
        record = self._audit.record(event.assoc)
        record.count("gets")
        try:
            references = self._archive.references(_retrieval(parse_get(event.identifier, Root.STUDY)))
        except (*PARSE_ERRORS, VeraiconError, SQLAlchemyError) as error:
            yield 1  # pynetdicom answers Success to none, and takes a failure only as the result of a sub-operation
            yield refused_query(error), None
            return
        yield len(references)
        for reference in references:
            if event.is_cancelled:
                yield Status.CANCEL, None
                return
            yield Status.PENDING, self._readable(reference, event.assoc)

    def _readable(self, reference: InstanceReference, assoc: Any) -> Dataset:
        """Return an instance in a transfer syntax that the peer accepted; one that cannot be read fails alone, by its UID."""
        try:
            ds = self._archive.read(reference)
            syntax = UID(ds.file_meta.TransferSyntaxUID)
            if (
                syntax.is_transfer_syntax
                and syntax.is_encapsulated
                and not is_accepted(assoc.accepted_contexts, ds.SOPClassUID, syntax)
            ):
                ds.decompress(generate_instance_uid=False)
        except (*PARSE_ERRORS, RuntimeError, VeraiconError) as error:
            _log.error("a held instance cannot be sent", digest=reference.digest, kind=type(error).__name__)
            ds = Dataset()
            ds.SOPInstanceUID = reference.sop_instance_uid
        return ds


def _retrieval(query: Query) -> dict[str, list[str]]:
    return {keyword: value.split("\\") for keyword, value in query.matching.items()}
