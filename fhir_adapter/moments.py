"""FHIR dates of any precision, and the rule by which something was known at the imaging time. Pure.

The rule: a time stamp counts if it is not after the imaging time. A partial date (``2020-03-01``, ``2020-03``, ``2020``) is
read in the time zone of the imaging time and counts if its last day is not after the imaging day. So a date-only fact of the
imaging day counts, and a month or a year counts only when it is certain that nothing of it lies in the future.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from typing import Any

# FHIR R4 datatypes: date, dateTime, instant. Where a time is given, seconds and zone are required.
_DATE_TIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(T(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))?)?)?",
    re.ASCII,
)


class ImpossibleDate(ValueError):
    """A date in FHIR's form that no calendar has, such as 2024-02-30. Never leaves the package."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A FHIR date or time.

    Attributes
    ----------
    start : datetime
        The stated time, or the first midnight of a partial date; aware.
    last_day : date or None
        Last day of a partial date; None where a time was stated.
    """

    start: datetime
    last_day: date | None = None

    def known_by(self, as_of: datetime) -> bool:
        """Tell whether nothing of it lies after `as_of` (see the module's rule).

        Examples
        --------
        >>> from datetime import UTC
        >>> scan = datetime(2020, 3, 15, 9, 0, tzinfo=UTC)
        >>> [parse_moment(text, UTC).known_by(scan) for text in ("2020-03-15", "2020-03", "2020-03-15T09:00:01Z")]
        [True, False, False]
        """
        if self.last_day is None:
            return self.start <= as_of
        return self.last_day <= as_of.date()


def parse_moment(text: object, zone: tzinfo | None) -> Moment:
    """Return the moment that a FHIR date, dateTime or instant states; partial dates are read in `zone`.

    Raises
    ------
    ImpossibleDate
        If it is written as one, and the calendar does not have it.
    ValueError
        If it is none of them.
    """
    matched = _DATE_TIME.fullmatch(text) if isinstance(text, str) else None
    if matched is None:
        raise ValueError("no FHIR date or time")
    try:
        return _moment(matched, zone)
    except (ValueError, calendar.IllegalMonthError) as error:
        raise ImpossibleDate("a date that no calendar has") from error


def _moment(matched: re.Match[str], zone: tzinfo | None) -> Moment:
    year, month, day, clock = int(matched[1]), matched[2], matched[3], matched[4]
    if clock is not None:
        # A leap second exists in FHIR and not in datetime.
        return Moment(datetime.fromisoformat(matched[0].replace(":60", ":59")))
    first = date(year, int(month or 1), int(day or 1))
    last_month = int(month or 12)
    last = date(year, last_month, int(day or calendar.monthrange(year, last_month)[1]))
    return Moment(datetime.combine(first, time(), tzinfo=zone), last)


def optional_moment(body: Mapping[str, Any], name: str, zone: tzinfo | None) -> Moment | None:
    """Return the moment in an element, or None where the element is absent."""
    return parse_moment(body[name], zone) if body.get(name) is not None else None


def end_of_period(period: object, zone: tzinfo | None) -> Moment | None:
    """Return the end of a Period, else its start: from then on, all of it had happened or was going on."""
    if not isinstance(period, Mapping):
        raise ValueError("no Period")
    return optional_moment(period, "end", zone) or optional_moment(period, "start", zone)


def start_of_period(period: object, zone: tzinfo | None) -> Moment | None:
    """Return the start of a Period, or None where it states none."""
    if not isinstance(period, Mapping):
        raise ValueError("no Period")
    return optional_moment(period, "start", zone)
