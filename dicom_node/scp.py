"""The node that others call: it listens, lets in whom the policy allows, and hands each message to its service.

References
----------
DICOM PS3.8 (Upper Layer): association establishment, rejection, release and abort.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog
from pynetdicom import AE, evt

from dicom_node.archive import Archive
from dicom_node.association import pynetdicom_mends
from dicom_node.association.bounding import MessageRoom, bound_messages, bound_reads
from dicom_node.association.listening import BoundedServer
from dicom_node.association.policy import NO_REASON, AuditTrail, Refusal, SourcePolicy, decide, plain_address
from dicom_node.association.tls import subject_of
from dicom_node.association.wire import SHORTEST_PDU
from dicom_node.holding.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.scu import Peer
from dicom_node.services.find import FindService
from dicom_node.services.retrieve import HandOut, RetrieveService, untold
from dicom_node.services.service import Service
from dicom_node.services.storage import StorageService
from dicom_node.services.verification import VerificationService
from domain.errors import ConfigurationError

_log = structlog.get_logger(__name__)

_ANYONE: Mapping[str, SourcePolicy] = MappingProxyType({})
_NOWHERE: Mapping[str, Peer] = MappingProxyType({})

# The bottom of what a PDU may be, so that nobody configures a node into a crawl; the top is where buffers stay small.
_PDU_RANGE = (4096, 2**22)

_UNBOUNDED = 2**20


class StorageNode:
    """A DICOM AE that receives into an archive and answers from it, one thread an association.

    Parameters
    ----------
    archive : Archive
        Where instances land.
    ae_title : str
        Ours; an association that calls another title is rejected.
    host, port : str, int or None
        Where to listen; port 0 takes a free one, see `port`; None listens over TLS only.
    tls, tls_port : ssl.SSLContext or None, int
        How and where to listen over TLS, see `dicom_node.association.tls.server_context`; None does not.
    services : sequence of Service
        Beside Verification, Storage, Query and Retrieve, which every node offers.
    audit : AuditTrail or None
        Where services count what an association did; None makes one.
    allowed_sources : mapping of str to SourcePolicy
        Calling AE titles that may associate; empty for anyone, which the log says at start.
    move_destinations : mapping of str to Peer
        Where C-MOVE may send, by AE title; to others it is refused.
    hand_out : callable
        Told what C-GET and C-MOVE give to whom, see `dicom_node.services.retrieve.RetrieveService`.
    maximum_pdu : int
        Longest P-DATA-TF PDU that we take, bytes; a longer one is answered with A-ABORT.
    maximum_associations : int
        At the same time; connections without association have bounds of their own (`dicom_node.association.listening`).
    acse_timeout_s, dimse_timeout_s, network_timeout_s : float
        For an association request after the connection and for the TLS handshake (the ARTIM timer), for an answer within an
        association, for any sign of life.
    pdu_timeout_s : float
        For the whole of one PDU, so that half a PDU cannot hold a place.
    maximum_message_bytes : int
        Of the messages of one association that wait in memory, together; more is answered with A-ABORT. All associations
        may hold four times as much. C-STORE goes to disk.
    unknown_storage_classes : bool
        Whether storage classes are accepted that the standard does not name, private ones too.

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
        port: int | None,
        tls: ssl.SSLContext | None = None,
        tls_port: int = 0,
        services: Sequence[Service] = (),
        audit: AuditTrail | None = None,
        allowed_sources: Mapping[str, SourcePolicy] = _ANYONE,
        move_destinations: Mapping[str, Peer] = _NOWHERE,
        hand_out: HandOut = untold,
        maximum_pdu: int = 131072,
        maximum_associations: int = 32,
        acse_timeout_s: float = 10.0,
        dimse_timeout_s: float = 30.0,
        network_timeout_s: float = 60.0,
        pdu_timeout_s: float = 30.0,
        maximum_message_bytes: int = 2**23,
        unknown_storage_classes: bool = True,
    ) -> None:
        _require_settings(ae_title, maximum_pdu)
        self._ae_title = ae_title
        self._host = host
        self._ports = {"plain": (port, None), "tls": (tls_port if tls else None, tls)}
        self._servers: dict[str, BoundedServer] = {}
        self._maximum_associations = maximum_associations
        self._room = MessageRoom(maximum_message_bytes)
        self._unknown_storage_classes = unknown_storage_classes
        self._allowed_sources = dict(allowed_sources)
        self._pdu_timeout_s = pdu_timeout_s
        self._audit = audit or AuditTrail()
        self._services: tuple[Service, ...] = (
            VerificationService(self._audit),
            StorageService(archive, self._audit),
            FindService(archive, self._audit, ae_title=ae_title),
            RetrieveService(archive, self._audit, destinations=move_destinations, hand_out=hand_out),
            *services,
        )
        self._ae = AE(ae_title)
        self._ae.maximum_pdu_size = maximum_pdu
        # `_requested` counts who holds a place; pynetdicom counts connections, which `BoundedServer` bounds.
        self._ae.maximum_associations = _UNBOUNDED
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
        """TCP port on which the node listens without TLS; 0 where it does not."""
        return self._port_of("plain")

    @property
    def tls_port(self) -> int:
        """TCP port on which the node listens over TLS; 0 where it does not."""
        return self._port_of("tls")

    @property
    def running(self) -> bool:
        """Whether the node listens."""
        return bool(self._servers)

    def start(self) -> None:
        """Listen, in threads of its own; return when connections are accepted."""
        pynetdicom_mends.configure()
        try:
            for kind, (port, context) in self._ports.items():
                if port is not None:
                    self._servers[kind] = self._listen(port, context)
        except ConfigurationError:
            for server in self._servers.values():
                server.server_close()
            self._servers.clear()
            raise
        for server in self._servers.values():
            server.serve_in_background()
        _log.info("the DICOM node listens", action="start", ae_title=self._ae_title, port=self.port, tls_port=self.tls_port)
        if not self._allowed_sources:
            _log.warning("the DICOM node takes associations from anyone: no sources are listed", ae_title=self._ae_title)

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Stop accepting, let open associations finish for `grace_s`, then abort them. Nothing acknowledged is lost."""
        if not self._servers:
            return
        for server in self._servers.values():
            server.shutdown()
        end = time.monotonic() + grace_s
        while self._ae.active_associations and time.monotonic() < end:
            time.sleep(0.05)
        self._ae.shutdown()
        self._servers.clear()
        _log.info("the DICOM node has stopped", action="stop", ae_title=self._ae_title)

    def _port_of(self, kind: str) -> int:
        if kind in self._servers:
            return int(self._servers[kind].server_address[1])
        return self._ports[kind][0] or 0

    def _listen(self, port: int, context: ssl.SSLContext | None) -> BoundedServer:
        try:
            server: BoundedServer = self._ae.make_server(
                (self._host, port),
                ae_title=self._ae_title,
                contexts=[context for service in self._services for context in service.contexts()],
                ssl_context=context,
                evt_handlers=self._handlers(),
                server_class=BoundedServer,
                places=self._maximum_associations,
                handshake_timeout_s=self._ae.acse_timeout,
                on_failure=self._failed,
                on_end=self._ended,
            )
        except OSError as error:
            raise ConfigurationError(
                found=f"an address that cannot be listened on (port {port}: {error.strerror})",
                allowed="a free port on an address of this machine",
                action="change host or port of the DICOM node, or stop the other program",
            ) from error
        return server

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._note_outcome, ["established"]),
            (evt.EVT_REJECTED, self._note_outcome, ["rejected"]),
            (evt.EVT_RELEASED, self._note_outcome, ["released"]),
            (evt.EVT_ABORTED, self._note_outcome, ["aborted"]),
            *(handler for service in self._services for handler in service.handlers()),
        ]

    def _opened(self, event: evt.Event) -> None:
        record = self._audit.record(event.assoc)
        record.host = str(plain_address(event.address[0]))
        pynetdicom_mends.send_at_once(event.assoc)
        pynetdicom_mends.rest_when_idle(event.assoc)
        bound_reads(event.assoc, maximum_pdu_bytes=self._ae.maximum_pdu_size, pdu_timeout_s=self._pdu_timeout_s)
        bound_messages(event.assoc, self._room, on_violation=lambda reason: setattr(record, "reason", reason))

    def _failed(self, assoc: Any, reason: str) -> None:
        self._audit.record(assoc).reason = reason

    def _requested(self, event: evt.Event) -> None:
        """Reject whom the policy does not let in (PS3.8 9.3.4)."""
        record = self._audit.record(event.assoc)
        # pynetdicom goes on after a handler that fails: without a decision nobody comes in.
        refusal: Refusal | None = Refusal(0x02, 0x02, 0x01, "no decision was reached")
        try:
            if not self._unknown_storage_classes:
                pynetdicom_mends.refuse_unknown_storage(event.assoc)
            refusal = self._decide(event)
        finally:
            if refusal is not None:
                record.outcome, record.reason = "rejected", refusal.reason
                event.assoc.acse.send_reject(refusal.result, refusal.source, refusal.diagnostic)
                event.assoc.kill()  # waits until the rejection is sent, else the connection is closed before it

    def _decide(self, event: evt.Event) -> Refusal | None:
        request, record = event.assoc.requestor.primitive, self._audit.record(event.assoc)
        transport = event.assoc.dul.socket.socket
        record.calling = request.calling_ae_title.strip()
        record.tls_subject = subject_of(transport)
        refusal = decide(
            called=request.called_ae_title,
            calling=record.calling,
            host=record.host,
            ae_title=self._ae_title,
            allowed_sources=self._allowed_sources,
            over_tls=isinstance(transport, ssl.SSLSocket),
        )
        source = self._allowed_sources.get(record.calling, SourcePolicy())
        if refusal is None and 0 < (event.assoc.requestor.maximum_length or 0) < SHORTEST_PDU:
            refusal = Refusal(0x01, 0x01, NO_REASON, f"a maximum PDU length below {SHORTEST_PDU} takes no message")
        return refusal or self._audit.admit(
            event.assoc, maximum=self._maximum_associations, maximum_of_source=source.maximum_associations
        )

    def _ended(self, assoc: Any) -> None:
        record = self._audit.record(assoc)
        if record.outcome == "established":
            # Neither side released or aborted it: the connection broke, or a thread of it did.
            record.outcome = "aborted" if assoc.is_aborted else "broken off"
        self._audit.close(assoc)
        self._room.leave(assoc)

    def _note_outcome(self, event: evt.Event, outcome: str) -> None:
        self._audit.record(event.assoc).outcome = outcome


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
