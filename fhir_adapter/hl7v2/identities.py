"""Patient identifiers of PID-3 and MRG-1, under the systems that the site maps their issuers to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domain.errors import PatientMismatch
from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.message import Segment, without_null

# HL7 v2.5.1 table 0203: identifiers of a patient, not those of an account, a visit or an insurance. MRN is not in the table and
# is what many send.
OF_A_PATIENT = ("MR", "MRN", "PI", "PT")


@dataclass(frozen=True, slots=True)
class Issuers:
    """How an assigning authority becomes a system.

    Attributes
    ----------
    systems : mapping
        Assigning authority (CX-4.1, or CX-4.2) to system.
    default : str
        System of identifiers that name no authority.
    types : sequence of str
        Types (CX-5) that are identifiers of a patient; one without a type is too.
    """

    systems: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    types: Sequence[str] = OF_A_PATIENT

    def is_of_a_patient(self, kind: str) -> bool:
        """Return whether a type of CX-5 is one of a patient."""
        return not kind or kind in self.types

    def system_of(self, authority: Sequence[str]) -> str | None:
        """Return the system of CX-4's subcomponents; None where the authority is one that the site does not map."""
        named = [one for one in map(without_null, authority[:2]) if one]
        if not named:
            return self.default
        return next((self.systems[one] for one in named if one in self.systems), None)


def identifiers(segment: Segment, number: int, issuers: Issuers) -> list[tuple[PatientIdentifier, str]]:
    """Return the identifiers of a CX field whose authority the site maps, each with its type (CX-5)."""
    found = []
    for one in segment.components(number):
        parts = [part.strip() for part in one] + [""] * 5
        system = issuers.system_of(parts[3].split(segment.delimiters.subcomponent))
        if parts[0] and system is not None:
            found.append((PatientIdentifier(parts[0], system), parts[4]))
    return found


def patient_of(segment: Segment, number: int, issuers: Issuers) -> PatientIdentifier:
    """Return whom PID-3 or MRG-1 names: the identifier of a patient under a mapped authority, of the default system first.

    Raises
    ------
    PatientMismatch
        If there is none, or two different values under one system: which one is meant is not ours to guess.
    """
    where = f"{segment.name}-{number}"
    mapped = identifiers(segment, number, issuers)
    usable = [one for one, kind in mapped if issuers.is_of_a_patient(kind)]
    if mapped and not usable:
        raise PatientMismatch(
            found=f"identifiers in {where} of types {', '.join(sorted({kind[:8] for _, kind in mapped}))} (CX-5) only",
            allowed=f"an identifier of type {', '.join(issuers.types)}, or without a type",
            action="add the type in [hl7v2] identifier_types if it is that of a patient, then retry the message",
        )
    if not usable:
        raise PatientMismatch(
            found=f"no identifier in {where} whose assigning authority the settings map to a system",
            allowed="an identifier whose CX-4 is a key of [pairing] issuers, or that names no authority",
            action="map the assigning authority in [pairing] issuers, then retry the message",
        )
    for one in usable:
        if any(other.system == one.system and other.value != one.value for other in usable):
            raise PatientMismatch(
                found=f"two different identifiers of one assigning authority in {where}",
                allowed="one identifier under each authority",
                action="correct the message at its source: it may speak of two patients",
            )
    return next((one for one in usable if one.system == issuers.default), usable[0])
