"""Resources of one patient -> `ClinicalContext` as of the imaging time. Pure: no I/O, no clock.

Nothing is dropped silently: what is not used is counted by reason. Time is ruled by `fhir_adapter.moments` and
`fhir_adapter.clinical.recording`: a fact counts if it was true and recorded by the imaging time. Where no time of truth is
stated, the record time decides, and the fact carries no time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from domain.clinical import ClinicalContext, ClinicalFact, LeftOut
from domain.errors import ConfigurationError, PeerAnswerInvalid, RequestInvalid
from fhir_adapter.clinical.consent import security_labels
from fhir_adapter.clinical.demographics import Lifetime, demographics, lifetime, missing_demographics
from fhir_adapter.clinical.recording import RecordedBy
from fhir_adapter.clinical.statements import READERS, Stated
from fhir_adapter.clinical.statements.medications import medications_named, with_medication
from fhir_adapter.codes import RESTRICTING_LABELS
from fhir_adapter.json_text import salted_digest
from fhir_adapter.moments import ImpossibleDate
from fhir_adapter.search import own_reference
from fhir_adapter.store import RawResource

_SALT_BYTES = 16
_DIGEST_PURPOSE = b"veraicon snapshot digest 2"
_OF_THE_SERVER = ("versionId", "lastUpdated", "source")


def clinical_context(
    patient: RawResource,
    resources: Iterable[RawResource],
    *,
    as_of: datetime,
    salt: bytes,
    consent: str,
    consents: Sequence[RawResource] = (),
    medications: Mapping[str, RawResource] | None = None,
    not_offered: Sequence[str] = (),
    merged: Sequence[RawResource] = (),
    base_url: str = "",
) -> ClinicalContext:
    """Return what the EHR knew about the patient at the imaging time.

    Parameters
    ----------
    patient : RawResource
        The Patient.
    resources : iterable of RawResource
        Everything else that was read; types that state no clinical facts are counted as left out.
    as_of : datetime
        Imaging time; aware. Its zone is the one in which partial dates are read.
    salt : bytes
        Secret of this site, 16 bytes or more.
    consent : str
        Result of the consent check, in words.
    consents : sequence of RawResource
        Consents that were checked: part of the snapshot's digest.
    medications : mapping or None
        The Medications that the resources refer to, by ``Medication/x``.
    not_offered : sequence of str
        Types that the server does not offer: nothing is known of them, which is not the same as none.
    merged : sequence of RawResource
        Patients that were merged into this one: what is recorded of them is recorded of this person.
    base_url : str
        Where the resources were read: an absolute reference elsewhere names another person, whatever its id.

    Raises
    ------
    RequestInvalid
        If `as_of` has no time zone.
    PeerAnswerInvalid
        If a resource belongs to another patient, or the Patient is malformed.
    ConfigurationError
        If the salt is too short.
    """
    if as_of.tzinfo is None:
        raise RequestInvalid(found="an imaging time without a zone", allowed="an aware time", action="give the UTC offset")
    left_out: Counter[str] = Counter()
    facts: list[ClinicalFact] = []
    held, lived = medications or {}, lifetime(patient.body, as_of.tzinfo)
    used = {raw.reference: raw for raw in (patient, *merged, *consents)}
    person = frozenset(one.reference for one in (patient, *merged))
    for consent_read in consents:
        require_of_patient(consent_read, person, base_url)
    read = list(resources)
    recorded_by = RecordedBy.of(read, as_of)
    for raw in read:
        if _of_another_server(raw, base_url):
            left_out[f"{raw.resource_type}: subject on another server"] += 1
            continue
        require_of_patient(raw, person, base_url)
        found, reasons = _facts(with_medication(raw, held), recorded_by, lived)
        left_out.update(reasons)
        facts += found
        if found:
            used |= {one.reference: one for one in (raw, *(held[name] for name in medications_named([raw]) if name in held))}
    birth_date, sex = demographics(patient.body)
    return ClinicalContext(
        patient_reference=patient.reference,
        birth_date=birth_date,
        sex=sex,
        as_of=as_of,
        facts=tuple(sorted(facts, key=_order)),
        snapshot_digest=snapshot_digest(used.values(), salt=salt),
        left_out=tuple(LeftOut(reason, left_out[reason]) for reason in sorted(left_out)),
        consent=consent,
        missing=(*missing_demographics(patient.body), *(f"{kind}: not offered by the server" for kind in sorted(not_offered))),
    )


def without_facts(context: ClinicalContext) -> ClinicalContext:
    """Return the snapshot of a series without an imaging time: nobody can tell what was known by then, so no fact is used."""
    gap = "imaging time: the series states none, so no fact is used"
    left_out = (*context.left_out, LeftOut("no imaging time", len(context.facts))) if context.facts else context.left_out
    return replace(context, facts=(), left_out=left_out, missing=(*context.missing, gap))


def snapshot_digest(resources: Iterable[RawResource], *, salt: bytes) -> str:
    """Return ``sha256:`` over the sorted HMAC-SHA-256 digests of the resources' canonical JSON.

    What a server writes into ``meta`` (version, time of the last update, source) is left out: the same records that are loaded
    again, elsewhere or later, give the same digest.

    The key is derived from `salt` for this purpose alone. The order in which a server answered does not matter; a value cannot
    be guessed by hashing candidates without the site's secret.

    References
    ----------
    RFC 8785 (canonical JSON); RFC 2104 (HMAC).
    """
    if len(salt) < _SALT_BYTES:
        raise ConfigurationError(
            found=f"a snapshot salt of {len(salt)} bytes",
            allowed=f"{_SALT_BYTES} random bytes or more",
            action="configure the site's snapshot secret",
        )
    key = hmac.new(salt, _DIGEST_PURPOSE, hashlib.sha256).digest()
    try:
        digests = sorted(salted_digest(_content(resource.body), salt=key) for resource in resources)
    except ValueError as error:
        raise _invalid("a resource with a number that JSON cannot carry between programs") from error
    return f"sha256:{hashlib.sha256(b''.join(digests)).hexdigest()}"


def _content(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resource without what its server wrote."""
    content = {name: value for name, value in body.items() if name != "meta"}
    meta = body.get("meta")
    kept = {name: value for name, value in meta.items() if name not in _OF_THE_SERVER} if isinstance(meta, Mapping) else meta
    return content | ({"meta": kept} if kept else {})


def require_of_patient(raw: RawResource, person: frozenset[str], base_url: str = "") -> None:
    """Refuse a resource that states another subject than one of `person`: a snapshot never mixes two people.

    Raises
    ------
    PeerAnswerInvalid
        If the subject is somebody else.
    """
    for reference in _subjects(raw):
        if own_reference(reference, base_url) not in person:
            raise _invalid(f"{raw.resource_type or 'a resource'} of another subject in one patient's snapshot")


def _of_another_server(raw: RawResource, base_url: str) -> bool:
    return any(
        isinstance(one, str) and one.startswith(("http://", "https://")) and own_reference(one, base_url) is None
        for one in _subjects(raw)
    )


def _subjects(raw: RawResource) -> list[object]:
    named = [raw.body.get(name) for name in ("subject", "patient")]
    references = [one.get("reference") for one in named if isinstance(one, Mapping)]
    return [one for one in references if one is not None]


def _facts(raw: RawResource, recorded_by: RecordedBy, lived: Lifetime) -> tuple[list[ClinicalFact], list[str]]:
    """Return the facts of one resource, and why the rest of it is left out."""
    kind, as_of = raw.resource_type, recorded_by.as_of
    if kind not in READERS:
        return [], [f"{kind}: no clinical facts" if kind.isalpha() else "invalid resource"]
    try:
        stated = _read(raw, as_of)
    except ImpossibleDate:
        return [], [f"{kind}: impossible date"]
    except ValueError:
        return [], [f"invalid {kind}"]
    untimely = lived.excludes(stated.effective) or recorded_by.untimely(stated, raw) if stated.claims else ""
    if untimely:
        return [], [f"{kind}: {untimely}"]
    return _timed(stated, raw.reference, as_of), [f"{kind}: {reason}" for reason in stated.left_out]


def _read(raw: RawResource, as_of: datetime) -> Stated:
    """Return what a resource states."""
    if security_labels(raw.body) & RESTRICTING_LABELS:
        return Stated(left_out=("security label",))
    return READERS[raw.resource_type](raw.body, as_of.tzinfo)


def _timed(stated: Stated, reference: str, as_of: datetime) -> list[ClinicalFact]:
    effective_at = stated.effective.start if stated.effective else None
    # A Condition that ended only after the imaging time was still active then, whatever its status says today.
    ended = bool(stated.past) and (stated.abated is None or stated.abated.known_by(as_of))
    return [
        ClinicalFact(
            codings=claim.codings,
            text=claim.text,
            value=stated.past if ended else claim.value,
            unit=claim.unit,
            effective_at=effective_at,
            source_reference=reference,
            body_site=claim.body_site,
            value_codings=claim.value_codings,
            interpretation=claim.interpretation,
            verification=stated.verification,
            negated=claim.negated,
        )
        for claim in stated.claims
    ]


def _order(fact: ClinicalFact) -> tuple[bool, float, str]:
    at = fact.effective_at
    return at is None, at.timestamp() if at else 0.0, fact.source_reference


def _invalid(found: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=found,
        allowed="resources of one patient as FHIR R4 defines them",
        action="correct the data on the FHIR server, then retry the job",
    )
