"""The listeners for integration engines, and the thread that does what was kept and not done."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import sqlalchemy as sa
import structlog

from dicom_node.association.tls import server_context
from fhir_adapter.hl7v2.listener import Limits, MllpListener
from veraicon.hl7v2.book import MessageBook
from veraicon.hl7v2.inbox import Inbox
from veraicon.merges import MergeBook
from veraicon.sections_hl7v2 import Hl7v2Settings
from veraicon.wiring import Site

_log = structlog.get_logger()
_PAUSE_S = 5.0
# A message that is being done is not old; one that we were killed over is.
_LEFT_BEHIND = timedelta(seconds=30)


def inbox_of(site: Site) -> Inbox:
    """Return what takes the HL7 v2 messages of a site."""
    return Inbox(site.settings, MessageBook(site.engine), site.orders, MergeBook(site.engine))


class EngineService:
    """Listens where [hl7v2] says so, with and without TLS.

    Raises
    ------
    ConfigurationError
        If certificate, key or authorities cannot be used.
    """

    def __init__(self, site: Site) -> None:
        ours = site.settings.hl7v2
        self._inbox = inbox_of(site)
        self._listeners = _listeners(ours, self._inbox)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hl7v2", daemon=True)
        self._started_at = datetime.now(UTC)

    def start(self) -> None:
        """Listen in the background.

        Raises
        ------
        ConfigurationError
            If a port cannot be listened on.
        """
        for listener in self._listeners:
            listener.start()
        if self._listeners:
            self._thread.start()

    def stop(self) -> None:
        """Stop listening; what was not acknowledged is repeated by its sender."""
        self._stop.set()
        for listener in self._listeners:
            listener.stop()
        if self._listeners:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            try:
                # What was kept before this process began is nobody's else.
                self._inbox.sweep(before=max(self._started_at, datetime.now(UTC) - _LEFT_BEHIND))
            except sa.exc.OperationalError as error:  # the database is away: everything stays where it is
                _log.warning("messages wait for the database", action="hl7v2", error=type(error.orig).__name__)
            if self._stop.wait(_PAUSE_S):
                return


def admits(hosts: tuple[str, ...], host: str) -> bool:
    """Return whether an address is one of some addresses or networks; any is where there are none.

    Examples
    --------
    >>> admits(("10.0.0.0/24",), "10.0.0.7"), admits(("10.0.0.0/24",), "10.0.1.7"), admits((), "10.0.1.7")
    (True, False, True)
    """
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not hosts or any(mapped in ip_network(one) for one in hosts)


def _listeners(ours: Hl7v2Settings, inbox: Inbox) -> list[MllpListener]:
    limits = Limits(ours.maximum_message_mib * 2**20, ours.maximum_connections, ours.idle_timeout_s, ours.message_timeout_s)
    listen = partial(MllpListener, inbox.take, inbox.refuse, host=ours.host, limits=limits, admits=partial(admits, ours.hosts))
    found = [listen(port=ours.port)] if ours.port else []
    if ours.tls_port:
        authorities = Path(ours.tls_client_ca) if ours.tls_client_ca else None
        context = server_context(certificate=Path(ours.tls_certificate), key=Path(ours.tls_key), client_ca=authorities)
        found.append(listen(port=ours.tls_port, tls=context))
    return found
