"""Whether a patient's data may condition a generator: what is checked, exactly, and nothing more. Pure.

1. ``meta.security`` of the Patient, of every Patient merged into it, and of the series' own ImagingStudy: confidentiality
   ``R`` or ``V``, a refrain policy (no reuse, no relinking, no disclosure or integration without consent) or ``OPTOUT``
   forbids the use (`codes.RESTRICTING_LABELS`). A label counts by its code where it names no system or an old one. On another
   resource the same label leaves that resource out, and it is counted. A search Bundle's own label only repeats the highest of
   its entries' (FHIR R4 Security Labels): the entries are what is looked at.
2. Each active ``Consent`` of the patient, and of those merged into it. It forbids the use
   - if its policy rule is an opt-out, whatever its scope;
   - of scope ``research``: by any provision in force today, at any depth, of type ``deny``;
   - of scope ``patient-privacy``: by one that has a purpose of research, or no purpose at all;
   - of another scope (``treatment``, ``adr``): by one that has a purpose of research. One without a purpose refuses an act of
     care and says nothing about data.
   A provision without a purpose has that of the provision above it. That a denial names only some data (class, code, label,
   period of the data), actors or actions does not narrow it: whether it means ours cannot be told for sure, so it forbids all.
   Exceptions below a denial do not lift it either, nor does another Consent. A permission that is narrowed in the same way is
   not counted as one. A rejected Consent about research forbids the use unless an active one of a later ``dateTime`` permits it
   in full. Consents of other states, and those whose provision is not in force, say nothing.
3. A Consent that cannot be read forbids the use: a nested provision without a type (FHIR R4 requires it), a modifier extension
   on the Consent or on any provision, a scope or purpose that is only text, or in a code system that is not HL7's.
4. Where the server does not offer Consent, nothing was checked: that is said, and it is enough only if the site says so.

Consent is judged at the time of use, not of imaging: a withdrawal counts from today on. Whether the absence of any Consent is
enough is the site's policy; the words returned say that none was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from domain.errors import ConsentMissing
from fhir_adapter.codes import (
    ACT_CODE,
    ACT_REASON,
    CONSENT_SCOPE,
    CONSENT_SCOPES,
    CONSENT_STATUSES,
    OLD_SYSTEMS,
    POLICY_DENIES,
    POLICY_LIMITS,
    POLICY_PERMITS,
    RESEARCH_PURPOSES,
    RESTRICTING_LABELS,
    SCOPE_PRIVACY,
    SCOPE_RESEARCH,
)
from fhir_adapter.elements import codes_in, objects, optional_object, optional_text, required_text
from fhir_adapter.moments import Moment, optional_moment
from fhir_adapter.store import RawResource

# What narrows a provision to some data, some people or some acts (FHIR R4 Consent.provision).
_NARROWING = ("actor", "action", "securityLabel", "class", "code", "dataPeriod", "data")
_Purposes = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Provision:
    """A provision in force; purposes and narrowing are also those of the provisions above it."""

    kind: str | None
    purposes: _Purposes
    narrowed: bool


@dataclass(frozen=True, slots=True)
class _Verdict:
    """``deny``, ``permit``, ``limited``, ``rejected``, or empty where a Consent says nothing about research; and when."""

    kind: str
    at: Moment | None = None


def require_consent(
    patient: RawResource, consents: Sequence[RawResource], *, now: datetime, merged: Sequence[RawResource] = ()
) -> str:
    """Return the result of the check in words, or stop the story.

    Parameters
    ----------
    merged : sequence of RawResource
        Patients that were merged into this one: their labels are this patient's.

    Raises
    ------
    ConsentMissing
        If a security label or a Consent forbids the use, or one cannot be read.

    References
    ----------
    FHIR R4 Consent (``scope``, ``status``, ``provision``); FHIR R4 Security Labels.
    """
    try:
        labels = frozenset[tuple[str, str]]().union(*(security_labels(one.body) for one in (patient, *merged)))
        labels &= RESTRICTING_LABELS
        if labels:
            raise _missing(f"security label {', '.join(sorted({code for _, code in labels}))} on the Patient")
        verdicts = [_verdict(consent.body, now) for consent in consents]
    except ValueError as error:
        raise _missing("a security label or Consent that cannot be read") from error
    kinds = [verdict.kind for verdict in verdicts]
    if "deny" in kinds:
        raise _missing("an active Consent that denies research")
    if "rejected" in kinds and not _overruled(verdicts):
        raise _missing("a rejected research Consent, and no later one that permits research")
    if "permit" in kinds:
        return f"research permitted by {kinds.count('permit')} active Consent(s); no restricting security label"
    if "limited" in kinds:
        return f"no denial found; {kinds.count('limited')} active Consent(s) permit research within limits that are not judged"
    return f"no restriction found: security labels of the Patient and {len(consents)} Consent(s) checked"


def consent_unchecked(patient: RawResource, *, now: datetime, allowed: bool, merged: Sequence[RawResource] = ()) -> str:
    """Return in words that the server offers no Consent, where the site allows that; labels are checked all the same.

    Raises
    ------
    ConsentMissing
        If the site does not allow it, or a security label forbids the use.
    """
    require_consent(patient, (), now=now, merged=merged)
    if not allowed:
        raise ConsentMissing(
            found="a FHIR server that does not offer Consent: consent could not be checked",
            allowed="a server that lists Consent in its CapabilityStatement, or a site that answers for consent otherwise",
            action="let the server offer Consent, or set [fhir] consent_elsewhere, then retry the job",
        )
    return "consent could not be checked: the server does not offer Consent; no restricting security label of the Patient"


def security_labels(resource: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return system and code of each ``meta.security``; a restricting code without a system, or of an old one, under its own.

    Raises
    ------
    ValueError
        If they are malformed.
    """
    found = {_coded(label) for label in objects(optional_object(resource, "meta") or {}, "security")}
    nameless = {code for system, code in found if not system}
    return frozenset(found | {label for label in RESTRICTING_LABELS if label[1] in nameless})


def _coded(coding: Mapping[str, Any]) -> tuple[str, str]:
    system = optional_text(coding, "system") or ""
    return OLD_SYSTEMS.get(system, system), optional_text(coding, "code") or ""


def _overruled(verdicts: Sequence[_Verdict]) -> bool:
    """Tell whether one permission is later than every rejection; what states no time is later than nothing."""
    rejected = [verdict.at for verdict in verdicts if verdict.kind == "rejected"]
    permitted = [verdict.at for verdict in verdicts if verdict.kind == "permit"]
    return any(all(_later(permission, rejection) for rejection in rejected) for permission in permitted)


def _later(one: Moment | None, other: Moment | None) -> bool:
    if one is None or other is None:
        return False
    if other.last_day is None:
        return one.start > other.start
    # Of a partial date, the whole has to be over: from the midnight after it.
    if other.last_day == date.max:
        return False
    return one.start >= datetime.combine(other.last_day + timedelta(days=1), time(), tzinfo=other.start.tzinfo)


def _verdict(consent: Mapping[str, Any], now: datetime) -> _Verdict:
    if consent.get("resourceType") != "Consent":
        raise ValueError("no Consent")
    status = required_text(consent, "status")
    if status not in CONSENT_STATUSES:
        raise ValueError("status outside its value set")
    if consent.get("modifierExtension"):
        raise ValueError("a Consent with a modifier extension")
    if status not in ("active", "rejected"):
        return _Verdict("")
    scopes, root = _scopes(consent), optional_object(consent, "provision")
    provisions = list(_in_force(root, now)) if root is not None else []
    purposes = {purpose for provision in provisions for purpose in provision.purposes}
    research = SCOPE_RESEARCH in scopes or (SCOPE_PRIVACY in scopes and bool(purposes & RESEARCH_PURPOSES))
    at = optional_moment(consent, "dateTime", now.tzinfo)
    if status == "rejected":
        return _Verdict("rejected" if research else "", at)
    if root is not None and not provisions:
        return _Verdict("")
    return _Verdict(_active_verdict(scopes, provisions, _policy_verdict(consent), research=research), at)


def _scopes(consent: Mapping[str, Any]) -> set[str]:
    scopes = codes_in(optional_object(consent, "scope"), CONSENT_SCOPE) & CONSENT_SCOPES
    if not scopes:
        raise ValueError("a Consent without a scope that HL7 defines")
    return scopes


def _policy_verdict(consent: Mapping[str, Any]) -> str:
    """Return what the policy rule says where no provision says otherwise: the root provision has no type of its own in R4."""
    coded = {_coded(coding) for coding in objects(optional_object(consent, "policyRule") or {}, "coding")}
    codes = {code for system, code in coded if system in (ACT_CODE, "")}
    if codes & POLICY_DENIES:
        return "deny"
    if codes & POLICY_LIMITS:
        return "limited"
    return "permit" if codes & POLICY_PERMITS else ""


def _active_verdict(scopes: set[str], provisions: Sequence[_Provision], policy: str, *, research: bool) -> str:
    if policy == "deny" or any(one.kind == "deny" and _denies_us(one, scopes) for one in provisions):
        return "deny"
    if not research:
        return ""
    relevant = [one for one in provisions if SCOPE_RESEARCH in scopes or one.purposes & RESEARCH_PURPOSES]
    return "limited" if policy == "limited" or any(one.narrowed for one in relevant) else "permit"


def _denies_us(denial: _Provision, scopes: set[str]) -> bool:
    if SCOPE_RESEARCH in scopes or denial.purposes & RESEARCH_PURPOSES:
        return True
    return SCOPE_PRIVACY in scopes and not denial.purposes


def _in_force(
    provision: Mapping[str, Any], now: datetime, above: _Provision | None = None, *, holds: bool = True
) -> Iterator[_Provision]:
    """Yield the provision and those below it that hold at `now`; each is read, whether it holds or not."""
    if provision.get("modifierExtension"):
        raise ValueError("a provision with a modifier extension")
    kind = optional_text(provision, "type") if above is None else required_text(provision, "type")
    if kind not in (None, "deny", "permit"):
        raise ValueError("provision type outside its value set")
    inherited = above or _Provision(None, frozenset(), narrowed=False)
    narrowed = inherited.narrowed or any(provision.get(name) for name in _NARROWING)
    read = _Provision(kind, _purposes(provision) or inherited.purposes, narrowed)
    period = optional_object(provision, "period") or {}
    start, end = optional_moment(period, "start", now.tzinfo), optional_moment(period, "end", now.tzinfo)
    holds = holds and not (start is not None and start.start > now) and not (end is not None and _over(end, now))
    if holds:
        yield read
    for below in objects(provision, "provision"):
        yield from _in_force(below, now, read, holds=holds)


def _over(end: Moment, now: datetime) -> bool:
    # FHIR R4 Period: an end of day precision includes the day.
    return end.last_day < now.date() if end.last_day else end.start < now


def _purposes(provision: Mapping[str, Any]) -> _Purposes:
    found = frozenset(_coded(purpose) for purpose in objects(provision, "purpose"))
    if any(system not in (ACT_REASON, ACT_CODE) or not code for system, code in found):
        raise ValueError("a purpose in a code system that is not HL7's")
    return found


def _missing(found: str) -> ConsentMissing:
    return ConsentMissing(
        found=found,
        allowed="no restricting security label, and no Consent that denies or rejects research",
        action="nothing was used; settle the patient's consent in the EHR before asking again",
    )
