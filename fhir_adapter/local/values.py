"""How a search value reads: tokens, references and dates. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.errors import RequestInvalid
from fhir_adapter.moments import Moment, parse_moment
from fhir_adapter.search import split_escaped, unescape

_PREFIXED = re.compile(r"(eq|ge|gt|le|lt)?(\d.*)")


@dataclass(frozen=True, slots=True)
class Token:
    """A token to look for; a system of None means any, an empty value each value of the system."""

    value: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class DateBound:
    """A date to compare with: prefix, first moment, first moment after it; UTC without a zone."""

    prefix: str
    starts_at: datetime
    ends_at: datetime


def alternatives(value: str) -> list[str]:
    r"""Return the alternatives of a search value, escapes kept.

    Raises
    ------
    RequestInvalid
        If one is empty: it would mean nothing, or everything.

    Examples
    --------
    >>> alternatives("a,b")
    ['a', 'b']
    """
    found = split_escaped(value, ",")
    if "" in found:
        raise _unreadable("a search parameter without a value", "a value in each alternative")
    return found


def tokens(value: str) -> list[Token]:
    r"""Return the alternatives of a token parameter.

    Raises
    ------
    RequestInvalid
        If one names neither a system nor a value.

    References
    ----------
    FHIR R4 search, "token": ``code``, ``system|code``, ``|code``, ``system|``; alternatives by comma.

    Examples
    --------
    >>> tokens("urn:a|1,2,|3")
    [Token(value='1', system='urn:a'), Token(value='2', system=None), Token(value='3', system='')]
    """
    found = [_token(alternative) for alternative in alternatives(value)]
    if any(not token.value and not token.system for token in found):
        raise _unreadable("a token without a system and a value", "code, system|code, |code or system|")
    return found


def any_references(value: str) -> list[str]:
    """Return the alternatives of a reference parameter, without versions. Absolute ones stay: they are another server's.

    Examples
    --------
    >>> any_references("ServiceRequest/a,http://server/fhir/Task/b/_history/2")
    ['ServiceRequest/a', 'http://server/fhir/Task/b']
    """
    return [unescape(alternative).split("/_history/", 1)[0] for alternative in alternatives(value)]


def subjects(value: str) -> list[str]:
    """Return the alternatives of a patient or subject parameter as references; an id without a type is a Patient's.

    Examples
    --------
    >>> subjects("a,Patient/b,Group/c,http://server/fhir/Patient/d")
    ['Patient/a', 'Patient/b', 'Group/c', 'http://server/fhir/Patient/d']
    """
    return [one if "/" in one else f"Patient/{one}" for one in any_references(value)]


def date_bound(value: str) -> DateBound:
    """Return what a date parameter compares with; partial dates are read as UTC.

    Raises
    ------
    RequestInvalid
        If it is no date, or has a prefix that is not supported.
    """
    matched = _PREFIXED.fullmatch(value)
    try:
        if matched is None:
            raise ValueError("no date with a prefix")
        starts_at, ends_at = span(parse_moment(matched[2], UTC))
    except ValueError as error:
        found, allowed = "a date parameter that cannot be read", "eq, ge, gt, le or lt and a FHIR date or dateTime"
        raise _unreadable(found, allowed) from error
    return DateBound(matched[1] or "eq", starts_at, ends_at)


def naive_utc(moment: datetime) -> datetime:
    """Return a time in UTC without a zone, as it is stored; what lies outside the calendar becomes its first or last moment."""
    try:
        return moment.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return datetime.min if moment.year == 1 else datetime.max


def span(moment: Moment) -> tuple[datetime, datetime]:
    """Return the first moment of a date and the first one after it; UTC without a zone."""
    start = naive_utc(moment.start)
    if moment.last_day is None:
        return start, _later(start, timedelta(microseconds=1))
    return start, _later(datetime.combine(moment.last_day, datetime.min.time()), timedelta(days=1))


def _later(moment: datetime, step: timedelta) -> datetime:
    # Records write 9999-12-31 for an end that never comes; the calendar has no day after it.
    return moment + step if moment <= datetime.max - step else datetime.max


def _token(text: str) -> Token:
    parts = [unescape(part) for part in split_escaped(text, "|")]
    return Token(parts[0]) if len(parts) == 1 else Token("|".join(parts[1:]), parts[0])


def _unreadable(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct the search")
