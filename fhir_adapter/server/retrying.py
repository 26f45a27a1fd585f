"""When a request may be sent again, and how long to wait before. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# RFC 9110 section 15.5 and 15.6, RFC 6585 section 4: the server asks for patience. 429 and 503 were not acted upon.
_NOT_ACTED_UPON = frozenset({429, 503})
_MAYBE_ACTED_UPON = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try.

    Attributes
    ----------
    attempts : int
        Number of requests at most, the first one included.
    first_wait_s : float
        Wait before the second attempt; it doubles with each further one.
    longest_wait_s : float
        No wait is longer, whatever ``Retry-After`` says.
    """

    attempts: int = 4
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def wait_s(self, attempt: int, retry_after: str | None, *, now: datetime) -> float:
        """Return the seconds to wait after the given attempt (1 is the first).

        Examples
        --------
        >>> policy = RetryPolicy(first_wait_s=0.5, longest_wait_s=30)
        >>> policy.wait_s(3, None, now=datetime(2026, 1, 1, tzinfo=UTC))
        2.0
        >>> policy.wait_s(1, "7", now=datetime(2026, 1, 1, tzinfo=UTC))
        7.0
        """
        asked = _retry_after_s(retry_after, now)
        wait = self.first_wait_s * 2.0 ** (attempt - 1) if asked is None else asked
        return min(max(wait, 0.0), self.longest_wait_s)


def may_retry(status: int, *, idempotent: bool) -> bool:
    """Tell whether a request that was answered with `status` may be sent again.

    Examples
    --------
    >>> may_retry(503, idempotent=False), may_retry(504, idempotent=False), may_retry(404, idempotent=True)
    (True, False, False)
    """
    return status in _NOT_ACTED_UPON or (idempotent and status in _MAYBE_ACTED_UPON)


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds or an HTTP date (RFC 9110 section 10.2.3); None where the header is absent or unreadable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value, now)
    return seconds if math.isfinite(seconds) else None


def _seconds_until(value: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    # RFC 5322 "-0000" gives a naive time: it is UTC without a statement about the local zone.
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
