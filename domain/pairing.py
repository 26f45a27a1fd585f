"""The rule by which an imaging series and an EHR patient are shown to be one person. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.clinical import ClinicalContext
from domain.errors import PatientMismatch
from domain.identifiers import PatientIdentifier
from domain.series import ImagingSeries


@dataclass(frozen=True, slots=True)
class PatientCandidate:
    """A Patient resource that a search by identifier returned.

    Attributes
    ----------
    reference : str
        ``Patient/abc``.
    identifiers : tuple of PatientIdentifier
        All that the resource states.
    """

    reference: str
    identifiers: tuple[PatientIdentifier, ...]
    birth_date: str | None = None
    sex: str | None = None


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
    series: ImagingSeries, candidates: Sequence[PatientCandidate]
) -> tuple[PatientCandidate, tuple[PairingEvidence, ...]]:
    """Return the one candidate that carries the series' identifier, with the evidence.

    The identifier's value must be equal, and its system too where the series names one. Birth date and sex can only speak
    against a pairing. A name is never looked at.

    Raises
    ------
    PatientMismatch
        If no candidate, or more than one, carries the identifier, or if birth date or sex contradict it.
    """
    carrying = [c for c in candidates if _carries(c, series.patient)]
    wanted = f"the system {series.patient.system!r}" if series.patient.system else "any system (the series names no issuer)"
    if not carrying:
        raise PatientMismatch(
            found=f"no patient on the FHIR server with the series' Patient ID under {wanted}",
            allowed="one Patient whose identifier has the value of Patient ID (0010,0020) and the configured system",
            action="add the identifier to the Patient, or map the issuer in [pairing], then retry the job",
        )
    if len(carrying) > 1:
        raise PatientMismatch(
            found=f"{len(carrying)} patients with the series' Patient ID under {wanted}",
            allowed="exactly one",
            action="name the issuer's system in [pairing] or merge the patients, then retry the job",
        )
    chosen = carrying[0]
    evidence = [_identifier_evidence(series.patient)]
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
    return chosen, tuple(evidence)


def _carries(candidate: PatientCandidate, wanted: PatientIdentifier) -> bool:
    return any(
        held.value == wanted.value and (not wanted.system or held.system == wanted.system) for held in candidate.identifiers
    )


def _identifier_evidence(identifier: PatientIdentifier) -> PairingEvidence:
    if identifier.system:
        return PairingEvidence("identifier", f"identifier value and system {identifier.system} agree")
    return PairingEvidence(
        "identifier-value", "identifier value agrees and only one patient carries it; the series names no issuer"
    )
