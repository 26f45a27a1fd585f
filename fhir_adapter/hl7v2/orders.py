"""ORM^O01 and OMI^O23 as orders. Pure.

What names the patient and the images is read strictly: an order for the wrong images is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from domain.clinical import ClinicalFact, Coding
from domain.errors import BodyUnsupported, RequestInvalid, UnreadableInstance
from domain.identifiers import require_uid
from domain.ordering import Order, OrderOrigin
from fhir_adapter.hl7v2.identities import Issuers, patient_of
from fhir_adapter.hl7v2.message import Message, Segment, groups
from fhir_adapter.ordering.codes import GENERATE, TASK_SYSTEM
from fhir_adapter.ordering.reading import asked_value, with_parameter

KINDS = ("ORM^O01", "OMI^O23")
# The coding system by which a message asks for generated volumes, and for values, in so many words.
OURS = "99VERAICON"
# HL7 v2.5.1 table 0396 to the systems of FHIR (terminology.hl7.org, "Using HL7 V2 code systems").
_SYSTEMS = {
    "LN": "http://loinc.org",
    "SCT": "http://snomed.info/sct",
    "SNM3": "http://snomed.info/sct",
    "RADLEX": "http://www.radlex.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "C4": "http://www.ama-assn.org/go/cpt",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    OURS: TASK_SYSTEM,
}
# Defined terms of (0008,0060) by which OBR-24 says a modality; other values (RAD, LAB) are diagnostic services.
_MODALITIES = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "US", "XA"})
_MOST_REFERENCE = 200
# HL7 v2.5.1 table 0085: deleted, not asked, wrong, not to be had.
_WITHDRAWN = frozenset({"D", "N", "W", "X"})


class Action(Enum):
    """What ORC-1 means to us."""

    ASK = "ask"
    REVOKE = "revoke"
    NOTHING = "nothing"


# HL7 v2.5.1 table 0119.
_ACTIONS = {
    **dict.fromkeys(("NW", "XO", "SN", "PA", "CH"), Action.ASK),
    **dict.fromkeys(("CA", "DC", "OC", "OD", "CR", "DR"), Action.REVOKE),
    **dict.fromkeys(("SC", "OK", "NA", "XX", "XR", "HD", "RL", "HR", "OH", "OR", "SR", "SS", "LI"), Action.NOTHING),
}
# ORC-5 of a status change (table 0038): discontinued, cancelled.
_ENDED = frozenset({"CA", "DC"})


@dataclass(frozen=True, slots=True)
class OrderReading:
    """How a site's messages are read.

    Attributes
    ----------
    accession_fields : sequence of str
        Where the accession number stands, the first that is filled counts: ``IPC-1``, ``OBR-18``, ``OBR-3``, ...
    """

    issuers: Issuers = field(default_factory=Issuers)
    accession_fields: Sequence[str] = ("IPC-1", "OBR-18")


@dataclass(frozen=True, slots=True)
class AskedOrder:
    """One order group of a message, with what ORC-1 wants done."""

    action: Action
    order: Order


def orders_of(message: Message, reading: OrderReading, now: datetime) -> list[AskedOrder]:
    """Return the orders of a message, one for each number; several ORC of one number (IHE: the steps of a procedure) are one.

    Raises
    ------
    BodyUnsupported
        If the message is of another type, or ORC-1 wants something that we do not do.
    PatientMismatch
        If PID-3 names no patient that the site can tell.
    RequestInvalid
        If a field that says what is asked for is missing or malformed.

    References
    ----------
    HL7 v2.5.1 4.4.1 (ORM^O01), 4.4.12 (OMI^O23), 4.5.1 (ORC), 4.5.3 (OBR), 4.5.6 (IPC); IHE RAD TF-2 4.4 (RAD-4: ZDS).
    """
    if message.header.kind not in KINDS:
        raise _unsupported(f"message type {message.header.kind[:16]!r}", ", ".join(KINDS))
    pids = list(message.all("PID"))
    if len(pids) != 1:
        raise _invalid(f"{len(pids)} PID segments", "one patient in each message")
    patient = patient_of(pids[0], 3, reading.issuers)
    found = groups(message, "ORC")
    if not found:
        raise _invalid("no ORC", "an ORC for each order")
    # IHE sends one ZDS after all orders of a message: it is of all of them.
    study = list(message.all("ZDS"))
    common = study[0].text(1) if len(study) == 1 else ""
    base = Order(OrderOrigin.HL7V2, message.header.sender, "", message.header.kind, now, patient=patient)
    orders: dict[str, AskedOrder] = {}
    for group in found:
        one = _asked(base, _Group(group, common), reading)
        same = orders.get(one.order.reference)
        orders[one.order.reference] = _joined(same, one) if same else one
    return list(orders.values())


def _joined(first: AskedOrder, second: AskedOrder) -> AskedOrder:
    """Return what two groups of one number ask: they may name other procedure codes, never other images or other volumes.

    Raises
    ------
    RequestInvalid
        If they do: by its number one of them would take the place of the other.
    """
    one, two = first.order, second.order
    if first.action is not second.action or replace(one, codes=(), names_us=False) != replace(two, codes=(), names_us=False):
        raise _invalid(
            "two ORC of one order number that ask different things or are about different images",
            "a number of its own in ORC-2 for each accession number and study",
        )
    codes = tuple(dict.fromkeys((*one.codes, *two.codes)))
    return AskedOrder(first.action, replace(one, codes=codes, names_us=one.names_us or two.names_us))


@dataclass(frozen=True, slots=True)
class _Group:
    segments: Sequence[Segment]
    common_study: str

    def first(self, name: str) -> Segment | None:
        return next((one for one in self.segments if one.name == name), None)

    def text(self, field: str, component: int = 1) -> str:
        """Return a field by its name, ``OBR-18``."""
        name, _, number = field.partition("-")
        segment = self.first(name)
        return segment.text(int(number), component) if segment else ""


def _asked(base: Order, group: _Group, reading: OrderReading) -> AskedOrder:
    control = group.text("ORC-1").upper()
    action = _ACTIONS.get(control)
    if action is None:
        raise _unsupported(f"order control {control[:8]!r} in ORC-1", ", ".join(sorted(_ACTIONS)))
    if action is Action.NOTHING and group.text("ORC-5").upper() in _ENDED:
        action = Action.REVOKE
    order = replace(base, reference=reference_of(group.segments))
    if action is not Action.ASK:
        return AskedOrder(action, order)
    order = replace(
        order,
        accession=_accession(group, reading.accession_fields),
        study_uid=_study_uid(group),
        codes=_codes(group),
        modality=_modality(group),
    )
    if len({(step.text(1), step.text(3)) for step in group.segments if step.name == "IPC"}) > 1:
        raise _invalid("two IPC of one order with different accession numbers or studies", "an ORC for each study")
    order = _with_asked(order, group)
    names_us = any((one.system, one.code) == (TASK_SYSTEM, GENERATE) for one in order.codes)
    return AskedOrder(action, replace(order, names_us=names_us))


def reference_of(group: Sequence[Segment]) -> str:
    """Return the name of an order at its sender: the placer's number, else the filler's, as its cancellation has it too.

    Raises
    ------
    RequestInvalid
        If there is neither.
    """
    for who, number in (("placer", 2), ("filler", 3)):
        for name in ("ORC", "OBR"):
            segment = next((one for one in group if one.name == name), None)
            if segment is not None and segment.text(number):
                told = "^".join(filter(None, (segment.text(number), segment.text(number, 2))))
                if len(told) > _MOST_REFERENCE:
                    raise _invalid(f"an order number of {len(told)} characters", f"at most {_MOST_REFERENCE}")
                return f"{who} {told}"
    raise _invalid("no order number", "ORC-2 (placer) or ORC-3 (filler)")


def _accession(group: _Group, fields: Sequence[str]) -> str:
    return next((said for field in fields if (said := group.text(field))), "")


def _study_uid(group: _Group) -> str:
    said = {uid for uid in (group.text("IPC-3"), group.text("ZDS-1") or group.common_study) if uid}
    if len(said) > 1:
        raise _invalid("two different Study Instance UIDs in IPC-3 and ZDS-1", "one study for each order")
    try:
        return require_uid(said.pop(), attribute="IPC-3 or ZDS-1") if said else ""
    except UnreadableInstance as error:
        raise _invalid(error.found, error.allowed) from error


def _codes(group: _Group) -> tuple[Coding, ...]:
    """Return the code of OBR-4 and its alternate."""
    found = []
    for code, display, system in ((1, 2, 3), (4, 5, 6)):
        if value := group.text("OBR-4", code):
            name = group.text("OBR-4", system)
            found.append(Coding(_SYSTEMS.get(name, name), value, group.text("OBR-4", display)))
    return tuple(found)


def _modality(group: _Group) -> str:
    if said := group.text("IPC-5"):
        return said
    service = group.text("OBR-24")
    return service if service in _MODALITIES else ""


def _with_asked(order: Order, group: _Group) -> Order:
    """Take in what OBX of our coding system ask: ``model``, ``samples``, and values that volumes have to obey."""
    asked: list[ClinicalFact] = []
    for segment in group.segments:
        if segment.name != "OBX" or segment.text(3, 3) != OURS:
            continue
        name, value = segment.text(3), segment.text(5)
        if len(segment.components(5)) > 1:
            raise _invalid(f"an OBX of {OURS} with several values", "one value in OBX-5")
        if (status := segment.text(11).upper()) in _WITHDRAWN:
            raise _invalid(f"an OBX of {OURS} that OBX-11 {status} takes back", "only what is asked for")
        try:
            if name in ("model", "samples"):
                order = with_parameter(order, name, int(value) if name == "samples" else value)
            else:
                asked.append(asked_value(name, _quantity(value, segment.text(6))))
        except ValueError as error:
            raise _invalid(f"an OBX of {OURS} that cannot be used ({error})", "a number with its UCUM unit in OBX-6") from error
    return replace(order, asked=(*order.asked, *asked))


def _quantity(value: str, unit: str) -> Mapping[str, object]:
    return {"value": float(value), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def _unsupported(found: str, allowed: str) -> BodyUnsupported:
    return BodyUnsupported(found=found, allowed=allowed, action="have the engine send us only what docs/hl7v2.md lists")


def _invalid(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct the message at its source, then send it again")
