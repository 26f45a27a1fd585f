"""The node that others call: it listens, lets in whom the policy allows, and hands each message to its service.

References
----------
DICOM PS3.8 (Upper Layer): association establishment, rejection, release and abort.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog
from pynetdicom import AE, evt

from dicom_node import pynetdicom_mends
from dicom_node.archive import Archive
from dicom_node.associations import AuditTrail, SourcePolicy, decide
from dicom_node.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.services.find import FindService
from dicom_node.services.retrieve import RetrieveService
from dicom_node.services.service import Service
from dicom_node.services.storage import StorageService
from dicom_node.services.verification import VerificationService
from domain.errors import ConfigurationError

_log = structlog.get_logger(__name__)

_ANYONE: Mapping[str, SourcePolicy] = MappingProxyType({})

# The bottom of what a PDU may be, so that nobody configures a node into a crawl; the top is where buffers stay small.
_PDU_RANGE = (4096, 2**22)


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
    services : sequence of Service
        Beside Verification, Storage, Query and Retrieve, which every node offers.
    audit : AuditTrail or None
        Where services count what an association did; None makes one.
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
        services: Sequence[Service] = (),
        audit: AuditTrail | None = None,
        allowed_sources: Mapping[str, SourcePolicy] = _ANYONE,
        maximum_pdu: int = 131072,
        maximum_associations: int = 32,
        acse_timeout_s: float = 10.0,
        dimse_timeout_s: float = 30.0,
        network_timeout_s: float = 60.0,
        pdu_timeout_s: float = 30.0,
    ) -> None:
        _require_settings(ae_title, maximum_pdu)
        self._ae_title = ae_title
        self._address = (host, port)
        self._allowed_sources = dict(allowed_sources)
        self._pdu_timeout_s = pdu_timeout_s
        self._audit = audit or AuditTrail()
        self._services: tuple[Service, ...] = (
            VerificationService(self._audit),
            StorageService(archive, self._audit),
            FindService(archive, self._audit, ae_title=ae_title),
            RetrieveService(archive, self._audit),
            *services,
        )
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
            *(handler for service in self._services for handler in service.handlers()),
        ]
        try:
            self._server = self._ae.make_server(
                self._address,
                ae_title=self._ae_title,
                contexts=[context for service in self._services for context in service.contexts()],
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
