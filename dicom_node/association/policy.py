"""Who may associate with the node, how many at once, and one audit line for each association."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from domain.errors import ConfigurationError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What a named source may do.

    Attributes
    ----------
    hosts : tuple of str
        Addresses (``10.0.0.7``) and networks (``10.0.0.0/24``) that it may call from; empty for any.
    maximum_associations : int or None
        At the same time; None for as many as the node takes.
    tls_required : bool
        Whether it may call over TLS only.

    Raises
    ------
    ConfigurationError
        If a host is neither address nor network.
    """

    hosts: tuple[str, ...] = ()
    maximum_associations: int | None = None
    tls_required: bool = False

    def __post_init__(self) -> None:
        for host in self.hosts:
            _network(host)

    def covers(self, host: str) -> bool:
        """Return whether the source may call from an IP address."""
        return not self.hosts or any(plain_address(host) in _network(allowed) for allowed in self.hosts)


def plain_address(host: str) -> IPv4Address | IPv6Address:
    """Return an IP address; the IPv4 one where a caller reached an IPv6 listener by IPv4."""
    address = ip_address(host.partition("%")[0])
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _network(host: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(host)
    except ValueError as error:
        raise ConfigurationError(
            found=f"a host of a source that is neither address nor network ({host})",
            allowed="an address such as 10.0.0.7, or a network such as 10.0.0.0/24 without bits beyond its prefix",
            action="correct host of the source in the settings",
        ) from error


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is rejected, as the A-ASSOCIATE-RJ PDU says it (PS3.8 table 9-21).

    Attributes
    ----------
    result : int
        1 permanent, 2 transient.
    source : int
        1 service user, 2 provider (ACSE), 3 provider (presentation).
    diagnostic : int
        Reason within its source.
    reason : str
        For the audit line.
    """

    result: int
    source: int
    diagnostic: int
    reason: str


NO_REASON = 1
CALLING_NOT_RECOGNISED = 3
CALLED_NOT_RECOGNISED = 7


def decide(
    *,
    called: str,
    calling: str,
    host: str,
    ae_title: str,
    allowed_sources: Mapping[str, SourcePolicy],
    over_tls: bool = False,
) -> Refusal | None:
    """Return why an association must be rejected, or None where it may go on. Pure.

    Parameters
    ----------
    called, calling : str
        AE titles of the request.
    host : str
        IP address of the caller.
    ae_title : str
        Our own title.
    allowed_sources : mapping of str to SourcePolicy
        Calling titles that may associate; empty for anyone.
    over_tls : bool
        Whether the caller came over TLS.

    Examples
    --------
    >>> refusal = decide(
    ...     called="US", calling="CT1", host="10.0.1.9", ae_title="US", allowed_sources={"CT1": SourcePolicy(("10.0.0.0/24",))}
    ... )
    >>> refusal.diagnostic, refusal.reason
    (3, 'the calling AE title may not call from this host')
    """
    if called.strip() != ae_title:
        return _permanent(CALLED_NOT_RECOGNISED, "the called AE title is not ours")
    if not allowed_sources:
        return None
    policy = allowed_sources.get(calling.strip())
    if policy is None:
        return _permanent(CALLING_NOT_RECOGNISED, "the calling AE title is not on the list of sources")
    if not policy.covers(host):
        return _permanent(CALLING_NOT_RECOGNISED, "the calling AE title may not call from this host")
    if policy.tls_required and not over_tls:
        return _permanent(NO_REASON, "the calling AE title may call over TLS only")
    return None


def _permanent(diagnostic: int, reason: str) -> Refusal:
    return Refusal(0x01, 0x01, diagnostic, reason)


def _local_limit_exceeded(reason: str) -> Refusal:
    # PS3.8 table 9-21: transient, service provider (presentation related), local limit exceeded. The caller may try again.
    return Refusal(0x02, 0x03, 0x02, reason)


@dataclass(slots=True)
class AssociationRecord:
    """What one association did, counted until its audit line is written."""

    association_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    opened_s: float = field(default_factory=time.monotonic)
    calling: str = ""
    host: str = ""
    tls_subject: str = ""
    outcome: str = "closed without association"
    reason: str = ""
    admitted: bool = False
    services: dict[str, int] = field(default_factory=dict)

    def count(self, service: str) -> None:
        """Count one use of a service (``stored``, ``found``, ``refused``...)."""
        self.services[service] = self.services.get(service, 0) + 1


class AuditTrail:
    """Records of the associations that are open now: they count who holds a place, and leave one line each."""

    def __init__(self) -> None:
        self._records: WeakKeyDictionary[Any, AssociationRecord] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def record(self, assoc: Any) -> AssociationRecord:
        """Return the record of an association, new at its first use."""
        with self._lock:
            return self._records.setdefault(assoc, AssociationRecord())

    def admit(self, assoc: Any, *, maximum: int, maximum_of_source: int | None) -> Refusal | None:
        """Give an association its place, or return why there is none. Connections without a request hold no place."""
        with self._lock:
            record = self._records[assoc]
            others = [other for other in self._records.values() if other.admitted]
            if len(others) >= maximum:
                return _local_limit_exceeded("as many associations as the node takes are open")
            of_source = sum(other.calling == record.calling for other in others)
            if maximum_of_source is not None and of_source >= maximum_of_source:
                return _local_limit_exceeded("as many associations as the source may have are open")
            record.admitted = True
        return None

    def close(self, assoc: Any) -> None:
        """Write the audit line of an association that has ended, and free its place; a second call writes nothing."""
        with self._lock:
            record = self._records.pop(assoc, None)
        if record is None:
            return
        _log.info(
            "association ended",
            action="association",
            association_id=record.association_id,
            source=record.calling,
            host=record.host,
            tls_subject=record.tls_subject,
            outcome=record.outcome,
            reason=record.reason,
            duration_s=round(time.monotonic() - record.opened_s, 3),
            **record.services,
        )
