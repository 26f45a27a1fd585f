"""The node that others call: Verification, Storage, Query/Retrieve FIND and GET, each handler with its contract.

References
----------
DICOM PS3.4 Annexes A (Verification), B (Storage), C (Query/Retrieve); PS3.7; PS3.8.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import pynetdicom_mends
from dicom_node.archive import Archive
from dicom_node.associations import AuditTrail, SourcePolicy, decide
from dicom_node.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, wrap_encoded
from dicom_node.headers import PARSE_ERRORS
from dicom_node.index import Landing
from dicom_node.presentation import FIND_CLASSES, accepted_contexts, is_accepted
from dicom_node.query import Query, Root, answer, parse_find, parse_get, select
from dicom_node.statuses import Status, status_of
from domain.errors import ConfigurationError, RequestInvalid, UnreadableInstance, VeraiconError
from domain.identifiers import require_uid
from domain.series import InstanceReference

_log = structlog.get_logger(__name__)

_ANYONE: Mapping[str, SourcePolicy] = MappingProxyType({})

# The bottom of what a PDU may be, so that nobody configures a node into a crawl; the top is where buffers stay small.
_PDU_RANGE = (4096, 2**22)

_Response = tuple[int | Dataset, Dataset | None]


class StorageNode:
    """A DICOM AE that receives into an archive and answers from it, one thread an association.

    Parameters
    ----------
    archive : Archive
        Where instances land.
    ae_title : str
        Ours; an association that calls another title is rejected.
    host, port : str, int
        Where to listen; port 0 takes a free one, see `port`.
    allowed_sources : mapping of str to SourcePolicy
        Calling AE titles that may associate; empty for anyone, which the log says at start.
    maximum_pdu : int
        Longest PDU that we take, bytes; longer ones end the connection.
    maximum_associations : int
        At the same time; a host that has not said who it is may hold half of them.
    acse_timeout_s, dimse_timeout_s, network_timeout_s : float
        For an association request after the connection, a message within an association, any sign of life.
    pdu_timeout_s : float
        For the whole of one PDU, so that half a PDU cannot hold a place.

    Raises
    ------
    ConfigurationError
        If the AE title, the PDU length or (at `start`) the address cannot be used.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        ae_title: str,
        host: str,
        port: int,
        allowed_sources: Mapping[str, SourcePolicy] = _ANYONE,
        maximum_pdu: int = 131072,
        maximum_associations: int = 32,
        acse_timeout_s: float = 10.0,
        dimse_timeout_s: float = 30.0,
        network_timeout_s: float = 60.0,
        pdu_timeout_s: float = 30.0,
    ) -> None:
        _require_settings(ae_title, maximum_pdu)
        self._archive = archive
        self._ae_title = ae_title
        self._address = (host, port)
        self._allowed_sources = dict(allowed_sources)
        self._pdu_timeout_s = pdu_timeout_s
        self._audit = AuditTrail()
        self._server: Any = None
        self._ae = AE(ae_title)
        self._ae.maximum_pdu_size = maximum_pdu
        self._ae.maximum_associations = maximum_associations
        self._ae.acse_timeout = acse_timeout_s
        self._ae.dimse_timeout = dimse_timeout_s
        self._ae.network_timeout = network_timeout_s
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        # `_requested` decides, with a reason for the log. A failing notification handler would let the request pass, so
        # pynetdicom looks at the titles once more.
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(self._allowed_sources)

    @property
    def port(self) -> int:
        """TCP port on which the node listens."""
        return int(self._server.server_address[1]) if self._server is not None else self._address[1]

    @property
    def running(self) -> bool:
        """Whether the node listens."""
        return self._server is not None

    def start(self) -> None:
        """Listen, in threads of its own; return when connections are accepted."""
        pynetdicom_mends.configure()
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._note_outcome, ["established"]),
            (evt.EVT_REJECTED, self._note_outcome, ["rejected"]),
            (evt.EVT_RELEASED, self._note_outcome, ["released"]),
            (evt.EVT_ABORTED, self._note_outcome, ["aborted"]),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
        ]
        try:
            self._server = self._ae.make_server(
                self._address,
                ae_title=self._ae_title,
                contexts=accepted_contexts(),
                evt_handlers=handlers,
                server_class=pynetdicom_mends.BoundedServer,
            )
        except OSError as error:
            raise ConfigurationError(
                found=f"an address that cannot be listened on (port {self._address[1]}: {error.strerror})",
                allowed="a free port on an address of this machine",
                action="change host or port of the DICOM node, or stop the other program",
            ) from error
        self._server.serve_in_background()
        _log.info("the DICOM node listens", action="start", ae_title=self._ae_title, port=self.port)
        if not self._allowed_sources:
            _log.warning("the DICOM node takes associations from anyone: no sources are listed", ae_title=self._ae_title)

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting, let open associations finish for `grace_s`, then abort them. Nothing acknowledged is lost."""
        if self._server is None:
            return
        self._server.shutdown()
        end = time.monotonic() + grace_s
        while self._ae.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        self._ae.shutdown()
        self._server = None
        _log.info("the DICOM node has stopped", action="stop", ae_title=self._ae_title)

    def _opened(self, event: evt.Event) -> None:
        self._audit.record(event.assoc).host = event.address[0]
        pynetdicom_mends.send_at_once(event.assoc)
        pynetdicom_mends.bound_reads(
            event.assoc, maximum_pdu_bytes=self._ae.maximum_pdu_size, pdu_timeout_s=self._pdu_timeout_s
        )

    def _requested(self, event: evt.Event) -> None:
        """Reject whom the policy does not let in (PS3.8 9.3.4: result 1 permanent, source 1 service user)."""
        request = event.assoc.requestor.primitive
        record = self._audit.record(event.assoc)
        record.calling = request.calling_ae_title.strip()
        refusal = decide(
            called=request.called_ae_title,
            calling=request.calling_ae_title,
            host=record.host,
            ae_title=self._ae_title,
            allowed_sources=self._allowed_sources,
        )
        if refusal is not None:
            record.outcome, record.reason = "rejected", refusal.reason
            event.assoc.acse.send_reject(0x01, 0x01, refusal.diagnostic)
            event.assoc.kill()  # waits until the rejection is sent, else the connection is closed before it

    def _note_outcome(self, event: evt.Event, outcome: str) -> None:
        self._audit.record(event.assoc).outcome = outcome

    def _closed(self, event: evt.Event) -> None:
        self._audit.close(event.assoc)

    def _echo(self, event: evt.Event) -> int:
        """C-ECHO (PS3.4 A.4): Success (0x0000)."""
        self._audit.record(event.assoc).count("echoes")
        return Status.SUCCESS

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

    def _find(self, event: evt.Event) -> Iterator[_Response]:
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
            yield _refused_query(error), None
            return
        for entity in select(query, found):
            if event.is_cancelled:
                yield Status.CANCEL, None
                return
            yield Status.PENDING, answer(query, entity, retrieve_ae_title=self._ae_title)

    def _get(self, event: evt.Event) -> Iterator[int | _Response]:
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
            yield _refused_query(error), None
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


def _refused_query(error: BaseException) -> int | Dataset:
    if isinstance(error, RequestInvalid):
        answered = status_of(error)
        answered.Status = int(Status.IDENTIFIER_DOES_NOT_MATCH)
        return answered
    if isinstance(error, VeraiconError):
        return status_of(error)
    _log.error("a query was not answered", kind=type(error).__name__)
    return Status.UNABLE_TO_CALCULATE_MATCHES if isinstance(error, SQLAlchemyError) else Status.CANNOT_UNDERSTAND


def _require_settings(ae_title: str, maximum_pdu: int) -> None:
    # PS3.8 9.3.2: 16 characters of the default repertoire, leading and trailing spaces carry no meaning.
    if not 1 <= len(ae_title) <= 16 or ae_title != ae_title.strip() or not ae_title.isascii() or "\\" in ae_title:
        raise ConfigurationError(
            found="an AE title that is empty, too long or not plain",
            allowed="1 to 16 ASCII characters without backslash or outer spaces",
            action="change the AE title of the DICOM node",
        )
    if not _PDU_RANGE[0] <= maximum_pdu <= _PDU_RANGE[1]:
        raise ConfigurationError(
            found=f"a maximum PDU of {maximum_pdu} bytes",
            allowed=f"{_PDU_RANGE[0]} to {_PDU_RANGE[1]} bytes",
            action="change the maximum PDU of the DICOM node",
        )
