"""Whether a patient's data may condition a generator: what is checked, exactly, and nothing more. Pure.

1. ``Patient.meta.security``, and that of the series' own ImagingStudy: confidentiality ``R`` or ``V``, a refrain policy (no
   reuse, no relinking, no disclosure or integration without consent) or ``OPTOUT`` forbids the use
   (`codes.RESTRICTING_LABELS`). On another resource the same label leaves that resource out, and it is counted. A search
   Bundle's own label only repeats the highest of its entries' (FHIR R4 Security Labels): the entries are what is looked at.
2. Each ``Consent`` of the patient that is about research: scope ``research``, or a provision whose purpose is research.
   An active one forbids the use if its policy rule is an opt-out, or if any of its provisions in force today, at any depth, is
   of type ``deny``. That a denial names only some data (class, code, label, period of the data), actors or actions does not
   narrow it: whether it means ours cannot be told for sure, so it forbids all. Exceptions below a denial do not lift it either.
   A permission that is narrowed in the same way is not counted as one. A rejected Consent of scope ``research`` forbids the use
   unless an active one permits it in full. Consents of other states, and those whose provision is not in force, say nothing.
3. A Consent that cannot be read forbids the use; so does one with a nested provision that states no type (FHIR R4 requires it).

Consent is judged at the time of use, not of imaging: a withdrawal counts from today on. Whether the absence of any Consent is
enough is the site's policy; the words returned say that none was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from domain.errors import ConsentMissing
from fhir_adapter.codes import (
    ACT_CODE,
    CONSENT_SCOPE,
    CONSENT_STATUSES,
    POLICY_DENIES,
    POLICY_LIMITS,
    POLICY_PERMITS,
    RESEARCH_PURPOSES,
    RESTRICTING_LABELS,
    SCOPE_PRIVACY,
    SCOPE_RESEARCH,
)
from fhir_adapter.elements import codes_in, objects, optional_object, required_text
from fhir_adapter.moments import Moment, optional_moment
from fhir_adapter.store import RawResource

# What narrows a provision to some data, some people or some acts (FHIR R4 Consent.provision).
_NARROWING = ("actor", "action", "securityLabel", "class", "code", "dataPeriod", "data")


def require_consent(patient: RawResource, consents: Sequence[RawResource], *, now: datetime) -> str:
    """Return the result of the check in words, or stop the story.

    Raises
    ------
    ConsentMissing
        If a security label or a Consent forbids the use, or one cannot be read.

    References
    ----------
    FHIR R4 Consent (``scope``, ``status``, ``provision``); FHIR R4 Security Labels.
    """
    try:
        labels = security_labels(patient.body) & RESTRICTING_LABELS
        if labels:
            raise _missing(f"security label {', '.join(sorted(code for _, code in labels))} on the Patient")
        verdicts = [_verdict(consent.body, now) for consent in consents]
    except ValueError as error:
        raise _missing("a security label or Consent that cannot be read") from error
    if "deny" in verdicts:
        raise _missing("an active Consent that denies research")
    if "rejected" in verdicts and "permit" not in verdicts:
        raise _missing("a rejected research Consent")
    if "permit" in verdicts:
        return f"research permitted by {verdicts.count('permit')} active Consent(s); no restricting security label"
    if "limited" in verdicts:
        return (
            f"no denial found; {verdicts.count('limited')} active Consent(s) permit research within limits that are not judged"
        )
    return f"no restriction found: security labels of the Patient and {len(consents)} Consent(s) checked"


def security_labels(resource: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return system and code of each ``meta.security``.

    Raises
    ------
    ValueError
        If they are malformed.
    """
    labels = objects(optional_object(resource, "meta") or {}, "security")
    return frozenset((str(label.get("system", "")), str(label.get("code", ""))) for label in labels)


def _verdict(consent: Mapping[str, Any], now: datetime) -> str:
    """Return ``deny``, ``permit``, ``limited``, ``rejected``, or empty where the Consent says nothing about research."""
    if consent.get("resourceType") != "Consent":
        raise ValueError("no Consent")
    status = required_text(consent, "status")
    if status not in CONSENT_STATUSES:
        raise ValueError("status outside its value set")
    scope = codes_in(optional_object(consent, "scope"), CONSENT_SCOPE)
    if consent.get("scope") is None or consent.get("modifierExtension"):
        raise ValueError("a Consent without a scope, or with a modifier extension")
    research = SCOPE_RESEARCH in scope
    if status == "rejected":
        return "rejected" if research else ""
    if status != "active":
        return ""
    root, policy = optional_object(consent, "provision"), _policy_verdict(consent)
    if root is None:
        return (policy or "permit") if research else ""
    return _provisions_verdict(root, now, policy, research=research, privacy=SCOPE_PRIVACY in scope)


def _policy_verdict(consent: Mapping[str, Any]) -> str:
    """Return what the policy rule says where no provision says otherwise: the root provision has no type of its own in R4."""
    codes = codes_in(optional_object(consent, "policyRule"), ACT_CODE)
    if codes & POLICY_DENIES:
        return "deny"
    if codes & POLICY_LIMITS:
        return "limited"
    return "permit" if codes & POLICY_PERMITS else ""


def _provisions_verdict(root: Mapping[str, Any], now: datetime, policy: str, *, research: bool, privacy: bool) -> str:
    provisions = list(_in_force(root, now))
    named = {purpose for provision in provisions for purpose in _purposes(provision)}
    if not (research or (privacy and named & RESEARCH_PURPOSES)) or not provisions:
        return ""
    relevant = [p for p in provisions if research or _purposes(p) & RESEARCH_PURPOSES]
    types = {required_text(p, "type") for p in provisions if p is not root or p.get("type") is not None}
    if types - {"deny", "permit"}:
        raise ValueError("provision type outside its value set")
    if policy == "deny" or any(p.get("type") == "deny" for p in relevant):
        return "deny"
    narrowed = policy == "limited" or any(p.get(name) for p in relevant for name in _NARROWING)
    return "limited" if narrowed else "permit"


def _in_force(provision: Mapping[str, Any], now: datetime) -> Iterator[Mapping[str, Any]]:
    """Yield the provision and those below it whose period holds `now`."""
    period = optional_object(provision, "period") or {}
    start, end = optional_moment(period, "start", now.tzinfo), optional_moment(period, "end", now.tzinfo)
    if (start is not None and start.start > now) or (end is not None and _over(end, now)):
        return
    yield provision
    for below in objects(provision, "provision"):
        yield from _in_force(below, now)


def _over(end: Moment, now: datetime) -> bool:
    # FHIR R4 Period: an end of day precision includes the day.
    return end.last_day < now.date() if end.last_day else end.start < now


def _purposes(provision: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(str(purpose.get("system", "")), str(purpose.get("code", ""))) for purpose in objects(provision, "purpose")}


def _missing(found: str) -> ConsentMissing:
    return ConsentMissing(
        found=found,
        allowed="no restricting security label, and no Consent that denies or rejects research",
        action="nothing was used; settle the patient's consent in the EHR before asking again",
    )
