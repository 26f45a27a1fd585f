"""ADT messages that merge patients or change their identifiers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from domain.errors import BodyUnsupported, PatientMismatch, RequestInvalid
from domain.identifiers import PatientIdentifier
from fhir_adapter.hl7v2.identities import Issuers, identifiers, patient_of
from fhir_adapter.hl7v2.message import Message, Segment

# HL7 v2.5.1 3.3: the identifier of MRG-1 gives way to that of PID-3.
MERGES = frozenset({"A18", "A30", "A34", "A36", "A39", "A40", "A46", "A47"})
# Links, their undoing, and identifiers, accounts or visits that move to another patient: no merge, and not to be ignored.
REFUSED = frozenset({"A24", "A37", "A43", "A44", "A45"})


@dataclass(frozen=True, slots=True)
class Merge:
    """An identifier that is no longer used, and the one that stands for it."""

    retired: PatientIdentifier
    survivor: PatientIdentifier


def merges_of(message: Message, issuers: Issuers) -> list[Merge]:
    """Return what an ADT message merges; nothing for events that change no patient identifier (visits, accounts).

    An identifier gives way only to one under the same system: an MRG-1 without its like in PID-3 is refused.

    Raises
    ------
    BodyUnsupported
        If it links, unlinks or moves: such a change is seen to by a person.
    PatientMismatch
        If PID-3 or MRG-1 names no patient that the site can tell, or they are under different systems.
    RequestInvalid
        If a PID or an MRG is missing.

    References
    ----------
    HL7 v2.5.1 3.3.18 (A18), 3.3.30 (A30), 3.3.34 to 3.3.47, 3.4.9 (MRG), 3.6.2 (which identifier survives).
    """
    event = message.header.trigger
    if event in REFUSED:
        raise BodyUnsupported(
            found=f"ADT^{event}, which links, unlinks or moves patients",
            allowed=", ".join(sorted(MERGES)) + ", and events that change no patient identifier",
            action="where it undoes a merge: `veraicon merge undo`; then have the engine keep this event from us",
        )
    if event not in MERGES:
        return []
    pairs = _pairs(message)
    if not pairs:
        raise RequestInvalid(
            found=f"ADT^{event} without an MRG after a PID",
            allowed="PID with the surviving identifier, then MRG with the one that gives way",
            action="correct the message at its source, then send it again",
        )
    return [merge for pid, mrg in pairs for merge in _merges(pid, mrg, issuers)]


def _pairs(message: Message) -> list[tuple[Segment, Segment]]:
    pairs, pid = [], None
    for segment in message.segments:
        if segment.name == "PID":
            pid = segment
        elif segment.name == "MRG" and pid is not None:
            pairs.append((pid, segment))
    return pairs


def _merges(pid: Segment, mrg: Segment, issuers: Issuers) -> list[Merge]:
    patient_of(pid, 3, issuers)
    patient_of(mrg, 1, issuers)
    survivors = {one.system: one for one, kind in reversed(identifiers(pid, 3, issuers)) if issuers.is_of_a_patient(kind)}
    found = []
    for retired, kind in identifiers(mrg, 1, issuers):
        if not issuers.is_of_a_patient(kind):
            continue
        survivor = survivors.get(retired.system)
        if survivor is None:
            raise PatientMismatch(
                found="an identifier in MRG-1 whose assigning authority has no identifier in PID-3",
                allowed="for each identifier of MRG-1 one of the same authority in PID-3",
                action="correct the message at its source, then send it again",
            )
        if survivor != retired:
            found.append(Merge(retired, survivor))
    return found
