"""Who may associate with the node, and one audit line for each association."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What a named source may do.

    Attributes
    ----------
    hosts : tuple of str
        IP addresses that it may call from; empty for any.
    """

    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an association is rejected.

    Attributes
    ----------
    diagnostic : int
        Reason of the A-ASSOCIATE-RJ PDU, source "service user" (PS3.8 table 9-21).
    """

    diagnostic: int
    reason: str


CALLING_NOT_RECOGNISED = 3
CALLED_NOT_RECOGNISED = 7


def decide(
    *, called: str, calling: str, host: str, ae_title: str, allowed_sources: Mapping[str, SourcePolicy]
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

    Examples
    --------
    >>> decide(called="US", calling="CT1", host="10.0.0.9", ae_title="US", allowed_sources={"CT1": SourcePolicy(("10.0.0.7",))})
    Refusal(diagnostic=3, reason='the calling AE title may not call from this host')
    """
    if called.strip() != ae_title:
        return Refusal(CALLED_NOT_RECOGNISED, "the called AE title is not ours")
    if not allowed_sources:
        return None
    policy = allowed_sources.get(calling.strip())
    if policy is None:
        return Refusal(CALLING_NOT_RECOGNISED, "the calling AE title is not on the list of sources")
    if policy.hosts and host not in policy.hosts:
        return Refusal(CALLING_NOT_RECOGNISED, "the calling AE title may not call from this host")
    return None


@dataclass(slots=True)
class AssociationRecord:
    """What one association did, counted until its audit line is written."""

    association_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    opened_s: float = field(default_factory=time.monotonic)
    calling: str = ""
    host: str = ""
    outcome: str = "closed without association"
    reason: str = ""
    services: dict[str, int] = field(default_factory=dict)

    def count(self, service: str) -> None:
        """Count one use of a service (``stored``, ``found``, ``refused``...)."""
        self.services[service] = self.services.get(service, 0) + 1


class AuditTrail:
    """Records of the associations that are open now."""

    def __init__(self) -> None:
        self._records: WeakKeyDictionary[Any, AssociationRecord] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def record(self, assoc: Any) -> AssociationRecord:
        """Return the record of an association, new at its first use."""
        with self._lock:
            return self._records.setdefault(assoc, AssociationRecord())

    def close(self, assoc: Any) -> None:
        """Write the audit line of an association that has ended; a second call writes nothing."""
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
            outcome=record.outcome,
            reason=record.reason,
            duration_s=round(time.monotonic() - record.opened_s, 3),
            **record.services,
        )
