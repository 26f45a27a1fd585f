"""Asks a FHIR server what has changed since the last time: closes the gaps of every subscription, and needs none.

The time that counts is the server's (``meta.lastUpdated``); ours only says which of them lie ahead and count for nothing.
Every resource is looked at by two polls at least: a page of a result that shifts while it is read may lack one, the next poll
finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlencode

from domain.errors import ConfigurationError, PeerAnswerInvalid
from fhir_adapter.moments import optional_moment
from fhir_adapter.ordering.codes import OPEN, REVOKED
from fhir_adapter.search import PAGE_SIZE
from fhir_adapter.store import FhirStore, RawResource

_RESULT_PARAMETERS = ("_lastUpdated", "_count", "_sort")


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is watched, as a search: ``Type?parameters``."""

    resource_type: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """As it was written."""
        return f"{self.resource_type}?{urlencode(self.parameters, safe=':/|,$')}"


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the polls of one criteria have come.

    Attributes
    ----------
    newest : datetime or None
        Latest ``meta.lastUpdated`` of the last finished poll; None before the first.
    before : datetime or None
        The same of the poll before it: the next one begins there, and with everything where there is none.
    """

    newest: datetime | None = None
    before: datetime | None = None


def parse_criteria(text: str) -> Criteria:
    """Return criteria as the settings and Subscriptions write them.

    Raises
    ------
    ConfigurationError
        If it is no ``Type?parameters``, or says what a poll says by itself.

    Examples
    --------
    >>> parse_criteria("Task?status=requested").parameters
    (('status', 'requested'),)
    """
    kind, mark, query = text.partition("?")
    parameters = tuple(parse_qsl(query, keep_blank_values=True))
    names = {name.split(":")[0] for name, _ in parameters}
    repeated = len(dict(parameters)) < len(parameters)
    if not mark or not kind.isalpha() or not kind[0].isupper() or repeated or names & set(_RESULT_PARAMETERS):
        raise ConfigurationError(
            found=f"subscription criteria {text[:120]!r}",
            allowed="Type?parameters, each once, without _lastUpdated, _count and _sort",
            action="correct [subscriptions] criteria",
        )
    return Criteria(kind, parameters)


def with_revocations(criteria: Criteria) -> Criteria:
    """Return criteria that find what they found after it was taken back too: a search for what is active loses sight of it.

    Examples
    --------
    >>> with_revocations(parse_criteria("ServiceRequest?status=active")).text
    'ServiceRequest?status=active,entered-in-error,revoked'
    """
    revoked = REVOKED.get(criteria.resource_type, frozenset())

    def widened(name: str, value: str) -> str:
        asked = value.split(",")
        codes = [one.rpartition("|")[2] for one in asked]
        opens = name == "status" and OPEN.get(criteria.resource_type, frozenset()) & set(codes)
        return ",".join([*asked, *sorted(revoked - set(codes))]) if opens else value

    return replace(criteria, parameters=tuple((name, widened(name, value)) for name, value in criteria.parameters))


def poll(
    store: FhirStore,
    criteria: Criteria,
    watermark: Watermark,
    take: Callable[[RawResource], None],
    *,
    overlap: timedelta,
    now: datetime,
) -> Watermark:
    """Give every resource that changed to `take`, and return the watermark of the next poll.

    Parameters
    ----------
    take : callable
        Keeps what it is given before it returns; an error of it ends the poll, and the watermark stays.
    overlap : timedelta
        How far before the watermark the poll begins: transactions do not end in the order of their times.
    now : datetime
        Time of our clock; aware. What has a later time is taken too, but never moves the watermark: a resource that was
        imported with a time in the future would hide all that comes until then. Where the server's clock is ahead of ours,
        the poll only reads more than it had to.

    Raises
    ------
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        If the server does not answer in full.

    References
    ----------
    FHIR R4 search, ``_lastUpdated``; Resource.meta.lastUpdated.
    """
    watermark = Watermark(*(at if at is not None and at <= now else None for at in (watermark.newest, watermark.before)))
    newest, timeless = watermark.newest, None
    for raw in store.search(criteria.resource_type, _parameters(criteria, watermark, overlap)):
        take(raw)
        try:
            at = last_updated(raw)
        except PeerAnswerInvalid as error:  # told at the end: what comes after it must not wait
            timeless = error
            continue
        newest = at if at <= now and (newest is None or at > newest) else newest
    if timeless is not None:
        raise timeless
    return replace(watermark, newest=newest, before=watermark.newest)


def last_updated(raw: RawResource) -> datetime:
    """Return ``meta.lastUpdated``, aware.

    Raises
    ------
    PeerAnswerInvalid
        If the server does not say it: then nobody can ask what has changed.
    """
    meta = raw.body.get("meta")
    try:
        moment = optional_moment(meta, "lastUpdated", None) if isinstance(meta, Mapping) else None
    except ValueError:
        moment = None
    if moment is None or moment.last_day is not None:
        raise PeerAnswerInvalid(
            found=f"a {raw.resource_type} without meta.lastUpdated",
            allowed="an instant with a time zone in each resource that a search returns",
            action="use a FHIR server that keeps it: changes cannot be followed without",
        )
    return moment.start


def _parameters(criteria: Criteria, watermark: Watermark, overlap: timedelta) -> dict[str, str]:
    parameters = {**dict(with_revocations(criteria).parameters), "_count": str(PAGE_SIZE)}
    if watermark.before is not None:
        parameters["_lastUpdated"] = f"ge{(watermark.before - overlap).isoformat(timespec='milliseconds')}"
    return parameters
