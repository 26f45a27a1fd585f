"""FHIR resources that ask for something, as orders: Task, ServiceRequest, ImagingStudy. Pure.

A resource that cannot be read is refused by name and never half read: an order for the wrong images is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from domain.clinical import ClinicalFact, Coding
from domain.errors import RequestInvalid, VeraiconError
from domain.identifiers import PatientIdentifier, require_uid
from domain.ordering import Order, OrderOrigin, require_storable
from fhir_adapter.elements import (
    codes_in,
    concept,
    objects,
    optional_concept,
    optional_object,
    optional_text,
    quantity,
    required_text,
)
from fhir_adapter.moments import parse_moment
from fhir_adapter.ordering import codes
from fhir_adapter.store import RawResource

_MOST_SAMPLES = 1000


class Standing(Enum):
    """What the status of a resource means to us."""

    OPEN = "open"
    REVOKED = "revoked"
    NEITHER = "neither"


def standing(raw: RawResource) -> Standing:
    """Return whether a resource asks for something now, was taken back, or neither (a draft; one that is done).

    Examples
    --------
    >>> standing(RawResource({"resourceType": "Task", "status": "cancelled"})).value
    'revoked'
    """
    kind, status = raw.resource_type, str(raw.body.get("status"))
    if kind == "Task" and _is_report(raw.body):
        return Standing.NEITHER
    if status in codes.OPEN.get(kind, ()):
        return Standing.OPEN
    return Standing.REVOKED if status in codes.REVOKED.get(kind, ()) else Standing.NEITHER


def _is_report(body: Mapping[str, Any]) -> bool:
    """Tell whether a Task is one that we wrote to say what becomes of an order: it asks for nothing."""
    code = body.get("code")
    codings = code.get("coding") if isinstance(code, Mapping) else None
    report = (codes.TASK_SYSTEM, codes.REPORT)
    found = [one for one in codings if isinstance(one, Mapping)] if isinstance(codings, list) else []
    return any((one.get("system"), one.get("code")) == report for one in found)


def asks_anew(raw: RawResource, kept: object) -> bool:
    """Tell whether a requester set a Task back to ``requested``: no status of ours, in a newer version than one kept before.

    Parameters
    ----------
    kept : object
        Parsed JSON of the version that was read before; one without a version is older than any other.

    Examples
    --------
    >>> task = {"resourceType": "Task", "status": "requested", "meta": {"versionId": "3"}}
    >>> [asks_anew(RawResource(task), {"meta": {"versionId": version}}) for version in ("2", "3", "10")]
    [True, False, False]
    """
    if raw.resource_type != "Task" or raw.body.get("status") != codes.REQUESTED:
        return False
    number, updated = _version(raw.body)
    kept_number, kept_updated = _version(kept)
    if number is not None and kept_number is not None:
        return number > kept_number
    if updated is not None and kept_updated is not None:
        return updated > kept_updated
    return (number, updated) != (None, None) and (kept_number, kept_updated) == (None, None)


def _version(body: object) -> tuple[int | None, datetime | None]:
    """Return version and time of a resource on its server; None for each where it says none that can be compared."""
    meta = body.get("meta") if isinstance(body, Mapping) else None
    if not isinstance(meta, Mapping):
        return None, None
    text = meta.get("versionId")
    number = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else None
    try:
        return number, parse_moment(meta.get("lastUpdated"), UTC).start
    except ValueError:
        return number, None


def order_of_resource(raw: RawResource, sender: str, now: datetime) -> Order:
    """Return what a Task, a ServiceRequest or an ImagingStudy asks for.

    Parameters
    ----------
    raw : RawResource
        As it was read from the server.
    sender : str
        How the settings name the server.
    now : datetime
        When it came; aware.

    Raises
    ------
    RequestInvalid
        If it is of another type, an element that says what is asked for is malformed, or a string of it cannot be kept.

    References
    ----------
    FHIR R4 Task (``code``, ``for``, ``focus``, ``input``), ServiceRequest (``identifier``, ``subject``, ``code``),
    ImagingStudy (``identifier``, ``subject``, ``modality``).
    """
    reader = _READERS.get(raw.resource_type)
    if reader is None:
        raise _invalid(f"a resource of type {raw.resource_type[:32]!r}", ", ".join(_READERS))
    order = Order(OrderOrigin.FHIR, sender, raw.reference, raw.resource_type, now)
    try:
        required_text(raw.body, "id")
        read = reader(order, raw.body)
    except ValueError as error:
        raise _invalid(f"a {raw.resource_type} in which {error}", f"a {raw.resource_type} as FHIR R4 defines it") from error
    require_storable(read)
    return read


def asked_value(kind: str, value: object) -> ClinicalFact:
    """Return a number that a volume has to obey, from a Quantity.

    Raises
    ------
    ValueError
        If it is no single number in a UCUM unit.
    """
    read = quantity(value)
    if isinstance(read, str):
        raise ValueError(f"the value asked for {kind[:64]!r} cannot be used: {read}")
    return ClinicalFact((Coding(codes.MEASUREMENT_SYSTEM, kind),), kind, read[0], read[1], None, "request")


def with_parameter(order: Order, name: str, value: object) -> Order:
    """Return an order with one of `order_codes.INPUTS` taken in.

    Raises
    ------
    ValueError
        If the value is not of the kind that the name needs.
    """
    if name == codes.SAMPLES:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_SAMPLES:
            raise ValueError(f"samples is no whole number from 1 to {_MOST_SAMPLES}")
        return replace(order, samples=value)
    if name == codes.IMAGES:
        return _about(order, value)
    if name == codes.ACCESSION and isinstance(value, Mapping):
        return replace(order, accession=required_text(value, "value"))
    text = required_text({name: value}, name)
    return _TEXT_PARAMETERS[name](order, text)


def study_of_focus(raw: RawResource) -> tuple[str, str]:
    """Return study UID and accession number of the ImagingStudy or ServiceRequest that an order points to.

    Raises
    ------
    RequestInvalid
        If it says neither, or what it says cannot be kept.
    """
    try:
        study_uid, accession = study_uid_of(raw.body), accession_of(raw.body)
    except ValueError as error:
        raise _invalid(f"a {raw.resource_type} in which {error}", "identifiers as FHIR R4 defines them") from error
    if not study_uid and not accession:
        raise _invalid(
            f"a {raw.resource_type} without a study UID and an accession number", "one of them among its identifiers"
        )
    require_storable(study_uid, accession)
    return study_uid, accession


def accession_of(body: Mapping[str, Any]) -> str:
    """Return the accession number of a resource: the identifier of type ACSN; empty where there is none."""
    found = {
        value for item, value in _identifiers(body) if codes.ACSN in codes_in(_object(item, "type"), codes.IDENTIFIER_TYPE)
    }
    if len(found) > 1:
        raise ValueError("two accession numbers stand")
    return next(iter(found), "")


def study_uid_of(body: Mapping[str, Any]) -> str:
    """Return the Study Instance UID of an ImagingStudy; empty where it states none."""
    wanted = [value for item, value in _identifiers(body) if item.get("system") in codes.STUDY_UID_SYSTEMS]
    found = {_uid(value) for value in wanted if value.startswith(codes.UID_PREFIX)}
    if len(found) > 1:
        raise ValueError("two study UIDs stand")
    return next(iter(found), "")


def _task(order: Order, body: Mapping[str, Any]) -> Order:
    code = optional_concept(body, "code")
    patient, subject = _person(body, "for")
    order = replace(order, patient=patient, subject_reference=subject, codes=code[0] if code else ())
    order = replace(order, names_us=any((one.system, one.code) == (codes.TASK_SYSTEM, codes.GENERATE) for one in order.codes))
    if (focus := optional_object(body, "focus")) is not None:
        order = _about(order, focus)
    for item in objects(body, "input"):
        kind = item.get("type")
        value = next((item[name] for name in item if name.startswith("value")), None)
        for name in codes_in(_object(item, "type"), codes.TASK_SYSTEM) if isinstance(kind, Mapping) else ():
            if name not in codes.INPUTS:
                raise ValueError(f"an input {name[:64]!r} stands that we do not know")
            order = with_parameter(order, name, value)
        for name in codes_in(_object(item, "type"), codes.MEASUREMENT_SYSTEM):
            order = replace(order, asked=(*order.asked, asked_value(name, value)))
    return _of_call(order, body)


def _of_call(order: Order, body: Mapping[str, Any]) -> Order:
    """Return the order of the call of ``$generate`` for which a Task stands, if it is one: the call asks, not its Task."""
    call = replace(order, origin=OrderOrigin.OPERATION, sender=codes.CALLER, kind="$generate", codes=())
    named = {value for item, value in _identifiers(body) if item.get("system") == codes.ORDER_SYSTEM}
    return call if call.order_id in named else order


def _service_request(order: Order, body: Mapping[str, Any]) -> Order:
    code = optional_concept(body, "code")
    patient, subject = _person(body, "subject")
    order = replace(
        order, patient=patient, subject_reference=subject, codes=code[0] if code else (), accession=accession_of(body)
    )
    for study in objects(body, "supportingInfo"):
        if not order.accession and str(study.get("reference", "")).split("/")[0] == "ImagingStudy":
            return _about(order, study)
    return order


def _imaging_study(order: Order, body: Mapping[str, Any]) -> Order:
    patient, subject = _person(body, "subject")
    modalities = [required_text(item, "code") for item in objects(body, "modality")]
    procedures = [coding for item in objects(body, "procedureCode") for coding in concept(item)[0]]
    study_uid = study_uid_of(body)
    if not study_uid:
        raise ValueError("no study UID stands")
    return replace(
        order,
        patient=patient,
        subject_reference=subject,
        study_uid=study_uid,
        accession=accession_of(body),
        modality=modalities[0] if len(modalities) == 1 else "",
        codes=tuple(procedures),
    )


_READERS: Mapping[str, Callable[[Order, Mapping[str, Any]], Order]] = {
    "Task": _task,
    "ServiceRequest": _service_request,
    "ImagingStudy": _imaging_study,
}


_TEXT_PARAMETERS: Mapping[str, Callable[[Order, str], Order]] = {
    codes.ACCESSION: lambda order, text: replace(order, accession=text),
    codes.STUDY_UID: lambda order, text: replace(order, study_uid=_uid(text)),
    codes.SERIES_UID: lambda order, text: replace(order, series_uid=_uid(text)),
    codes.MODEL: lambda order, text: replace(order, model=text),
}


def _about(order: Order, value: object) -> Order:
    """Take in a Reference to the images: by the study's UID where it is a logical one, else by the resource that it names."""
    if not isinstance(value, Mapping):
        raise ValueError("a reference is no object")
    identifier = optional_object(value, "identifier")
    if identifier is not None:
        uid = required_text(identifier, "value")
        if identifier.get("system") in codes.STUDY_UID_SYSTEMS and uid.startswith(codes.UID_PREFIX):
            return replace(order, study_uid=_uid(uid))
    reference = optional_text(value, "reference") or ""
    if "/".join(reference.split("/")[-2:]).split("/")[0] not in ("ImagingStudy", "ServiceRequest"):
        raise ValueError("the focus is neither an ImagingStudy nor a ServiceRequest")
    return replace(order, focus=reference)


def _person(body: Mapping[str, Any], name: str) -> tuple[PatientIdentifier | None, str]:
    """Return whom a resource is about: by identifier where it is a logical reference, and by literal reference."""
    reference = optional_object(body, name)
    if reference is None:
        return None, ""
    identifier = optional_object(reference, "identifier")
    known = None
    if identifier is not None and optional_text(identifier, "value"):
        known = PatientIdentifier(required_text(identifier, "value"), optional_text(identifier, "system") or "")
    literal = optional_text(reference, "reference") or ""
    if literal and "/".join(literal.split("/")[-2:]).split("/")[0] != "Patient":
        raise ValueError(f"{name} is no Patient")
    return known, literal


def _identifiers(body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for item in objects(body, "identifier"):
        value = optional_text(item, "value")
        if value and item.get("use") != "old":
            yield item, value


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return optional_object(body, name) or {}


def _uid(text: str) -> str:
    try:
        return require_uid(text.removeprefix(codes.UID_PREFIX), attribute="StudyInstanceUID")
    except VeraiconError as error:
        raise ValueError("a UID is none") from error


def _invalid(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct the resource on the FHIR server, then order again")
