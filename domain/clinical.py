"""What the EHR knew about a patient at a stated time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Coding:
    """A code in a system, with its display text."""

    system: str
    code: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class ClinicalFact:
    """One statement about the patient.

    Attributes
    ----------
    codings : tuple of Coding
        All codings of the concept, as found.
    text : str
        Human text of the concept (``CodeableConcept.text`` or the first display).
    value : float or str or bool or None
        Number in `unit`, coded or free text, truth; None where the fact is its presence (a Condition).
    unit : str
        UCUM code; empty where the value is no quantity.
    effective_at : datetime or None
        When it was true of the patient; aware.
    source_reference : str
        ``Observation/abc``; ``request`` where someone asked for the value.
    body_site : tuple of Coding
        Where in the body; it can tell left from right.
    value_codings : tuple of Coding
        All codings of a coded value; its text is `value`.
    interpretation : tuple of Coding
        What the laboratory or reader says of the value: high, low, abnormal.
    verification : str
        How sure the record is: ``confirmed``, ``provisional``, ``unconfirmed``, ``differential`` of a diagnosis,
        ``preliminary``, ``final`` of an observation or report; empty where it does not say.
    negated : bool
        The record says that it is not so. A fact of presence then has the value False, so it is never read as present.
    """

    codings: tuple[Coding, ...]
    text: str
    value: float | str | bool | None
    unit: str
    effective_at: datetime | None
    source_reference: str
    body_site: tuple[Coding, ...] = ()
    value_codings: tuple[Coding, ...] = ()
    interpretation: tuple[Coding, ...] = ()
    verification: str = ""
    negated: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A count of resources that were not turned into facts, and why."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class ClinicalContext:
    """EHR snapshot of one patient as of the imaging time.

    Attributes
    ----------
    patient_reference : str
        ``Patient/abc`` on the server that answered.
    as_of : datetime
        Facts recorded later are not used.
    snapshot_digest : str
        ``sha256:`` over the salted digests of the raw resources: shows later that the same snapshot was read, tells no value.
    left_out : tuple of LeftOut
        What was not used, counted by reason.
    consent : str
        Result of the consent and security-label check, in words.
    missing : tuple of str
        What the record does not state, and which types of resources its server does not offer, in words.
    """

    patient_reference: str
    birth_date: str | None
    sex: str | None
    as_of: datetime
    facts: tuple[ClinicalFact, ...]
    snapshot_digest: str
    left_out: tuple[LeftOut, ...] = ()
    consent: str = "no restriction found"
    missing: tuple[str, ...] = ()
