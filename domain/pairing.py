"""The rule by which an imaging series and an EHR patient are shown to be one person. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from domain.clinical import ClinicalContext
from domain.errors import PatientMismatch
from domain.identifiers import PatientIdentifier
from domain.series import ImagingSeries

STUDY_UID, ACCESSION, ORDER = "study-uid", "accession", "order"
"""Kinds of evidence beside the identifier."""

_WORDS = {
    STUDY_UID: "an ImagingStudy with the series' Study Instance UID is this patient's",
    ACCESSION: "the accession number, under the configured system, is this patient's",
    ORDER: "the order names this patient",
}
_SHORT = {STUDY_UID: "the study UID", ACCESSION: "the accession number", ORDER: "the order"}


@dataclass(frozen=True, slots=True)
class PatientCandidate:
    """A Patient in use on the EHR.

    Attributes
    ----------
    reference : str
        ``Patient/abc``.
    identifiers : tuple of PatientIdentifier
        All that the resource states, and those of the patients that were merged into it.
    not_of_record : frozenset of PatientIdentifier
        Those that number a person and no record (social security, licence, passport): they count under their own system only.
    merged : tuple of str
        References of the patients that were merged into this one.
    """

    reference: str
    identifiers: tuple[PatientIdentifier, ...]
    birth_date: str | None = None
    sex: str | None = None
    not_of_record: frozenset[PatientIdentifier] = frozenset()
    merged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pointer:
    """Something beside the identifier that names a patient.

    Attributes
    ----------
    kind : str
        `STUDY_UID`, `ACCESSION` or `ORDER`.
    reference : str
        ``Patient/abc`` after merges; empty where it names somebody whom the EHR does not know, which speaks against anyone.
    """

    kind: str
    reference: str


@dataclass(frozen=True, slots=True)
class PairingEvidence:
    """Why two sources are one patient, in words without the identifier's value."""

    kind: str
    statement: str


@dataclass(frozen=True, slots=True)
class PairedContext:
    """Imaging and clinical context shown to be one patient."""

    series: ImagingSeries
    context: ClinicalContext
    evidence: tuple[PairingEvidence, ...]


def choose_patient(
    series: ImagingSeries,
    candidates: Sequence[PatientCandidate],
    pointers: Iterable[Pointer] = (),
    *,
    accept: Collection[str] = (),
    survivors: Sequence[PatientIdentifier] = (),
) -> tuple[PatientCandidate, tuple[PairingEvidence, ...]]:
    """Return the one candidate to whom all evidence points, with the evidence.

    The series' identifier has to be carried: its value, and its system too where the series names one. The rest supports it,
    and what points elsewhere is a contradiction, which nothing outvotes. Birth date and sex can only speak against a pairing. A
    name is never looked at.

    Parameters
    ----------
    series : ImagingSeries
    candidates : sequence of PatientCandidate
        Every Patient that any evidence leads to; one given twice counts once.
    pointers : iterable of Pointer
        What study, accession and order say.
    accept : collection of str
        Kinds of evidence that may pair alone, where no patient carries the identifier.
    survivors : sequence of PatientIdentifier
        What the series' identifier has become by merges that were announced to us: as good as the identifier itself.

    Raises
    ------
    PatientMismatch
        If the evidence names nobody, several patients, or one whom birth date, sex or another identifier contradict.
    """
    known = _once(candidates)
    named = {(pointer.kind, pointer.reference) for pointer in pointers}
    ours = (series.patient, *survivors)
    carrying = {candidate.reference for candidate in known.values() if any(carries(candidate, one) for one in ours)}
    _require_one_carrier(series, carrying)
    _require_agreement(carrying, named)
    alone = sorted({kind for kind, reference in named if kind in accept and reference in known})
    if not carrying and not alone:
        raise _nobody(series, named)
    chosen = known[next(iter(carrying or {reference for _, reference in named}))]
    if carrying:
        evidence = [_identifier_evidence(series.patient, chosen)]
    else:
        _require_no_other_identifier(series.patient, chosen)
        evidence = []
    evidence += [PairingEvidence(kind, _WORDS[kind]) for kind in sorted({kind for kind, _ in named})]
    return chosen, (*evidence, *_demographic_evidence(series, chosen))


def _once(candidates: Iterable[PatientCandidate]) -> dict[str, PatientCandidate]:
    """Return the candidates by reference; one that is stated twice in different words is a contradiction."""
    known: dict[str, PatientCandidate] = {}
    for candidate in candidates:
        other = known.setdefault(candidate.reference, candidate)
        if (other.birth_date, other.sex, set(other.identifiers)) != (
            candidate.birth_date,
            candidate.sex,
            set(candidate.identifiers),
        ):
            raise PatientMismatch(
                found="one patient of the FHIR server in two different versions",
                allowed="the same answer about one patient",
                action="somebody is changing the patient: retry the job",
            )
    return known


def _require_one_carrier(series: ImagingSeries, carrying: Collection[str]) -> None:
    if len(carrying) > 1:
        raise PatientMismatch(
            found=f"{len(carrying)} patients with the series' Patient ID under {_wanted(series)}",
            allowed="exactly one",
            action="name the issuer's system in [pairing] or merge the patients, then retry the job",
        )


def _require_agreement(carrying: Collection[str], named: Collection[tuple[str, str]]) -> None:
    """Refuse evidence that leads to more than one patient."""
    everybody = set(carrying) | {reference for _, reference in named}
    if len(everybody) <= 1:
        return
    sides = (["the Patient ID"] if carrying else []) + [_SHORT[kind] for kind in sorted({kind for kind, _ in named})]
    raise PatientMismatch(
        found=f"evidence for different patients, from {', '.join(sides)}",
        allowed="one patient to whom all of the evidence points",
        action="find out whose images these are and correct the side that is wrong, then retry the job",
    )


def _nobody(series: ImagingSeries, named: Collection[tuple[str, str]]) -> PatientMismatch:
    pointing = [_SHORT[kind] for kind in sorted({kind for kind, reference in named if reference})]
    also = f"; {' and '.join(pointing)} lead to a patient, which alone does not pair here" if pointing else ""
    return PatientMismatch(
        found=f"no patient on the FHIR server with the series' Patient ID under {_wanted(series)}{also}",
        allowed="one Patient whose identifier has the value of Patient ID (0010,0020) and the configured system",
        action="add the identifier to the Patient, or map the issuer in [pairing], then retry the job",
    )


def _require_no_other_identifier(wanted: PatientIdentifier, chosen: PatientCandidate) -> None:
    """Refuse a patient who has another identifier of the very system that the series names."""
    if wanted.value and wanted.system and any(held.system == wanted.system for held in chosen.identifiers):
        raise PatientMismatch(
            found=f"a patient who carries another identifier of the system {wanted.system!r} than the series",
            allowed="the series' Patient ID, or none of this system",
            action="merge the patients or correct the side that is wrong, then retry the job",
        )


def _demographic_evidence(series: ImagingSeries, chosen: PatientCandidate) -> list[PairingEvidence]:
    evidence = []
    for name, ours, theirs in (
        ("birth date", series.birth_date, chosen.birth_date),
        ("sex", series.sex, chosen.sex),
    ):
        if not ours or not theirs:
            continue
        if ours != theirs:
            raise PatientMismatch(
                found=f"the same identifier but another {name} in the series than in the EHR",
                allowed=f"equal {name} wherever both sides state one",
                action="correct the side that is wrong, then retry the job",
            )
        evidence.append(PairingEvidence(name.replace(" ", "-"), f"{name} agrees"))
    return evidence


def carries(candidate: PatientCandidate, wanted: PatientIdentifier) -> bool:
    """Tell whether a candidate carries an identifier; one without a system is no social security or passport number."""
    if not wanted.value:
        return False
    if wanted.system:
        return wanted in candidate.identifiers
    return any(held.value == wanted.value and held not in candidate.not_of_record for held in candidate.identifiers)


def _wanted(series: ImagingSeries) -> str:
    return f"the system {series.patient.system!r}" if series.patient.system else "any system (the series names no issuer)"


def _identifier_evidence(identifier: PatientIdentifier, chosen: PatientCandidate) -> PairingEvidence:
    if not carries(chosen, identifier):
        return PairingEvidence(
            "merged-identifier", "the identifier that an announced merge made of the series' Patient ID agrees"
        )
    if identifier.system:
        return PairingEvidence("identifier", f"identifier value and system {identifier.system} agree")
    return PairingEvidence(
        "identifier-value", "identifier value agrees and only one patient carries it; the series names no issuer"
    )
