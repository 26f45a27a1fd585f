"""What becomes of an order, as a FHIR Task: status, reason and outputs, so that a caller needs nothing but FHIR. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.identifiers import derive_fhir_id
from domain.ordering import JobNews, Order, OrderState
from fhir_adapter.codes import ERROR_SYSTEM
from fhir_adapter.ordering import codes

Json = dict[str, Any]

_STATUS_OF_ORDER = {
    OrderState.RECEIVED: "received",
    OrderState.WAITING: "on-hold",
    OrderState.IGNORED: "rejected",
    OrderState.REFUSED: "rejected",
    OrderState.REVOKED: "cancelled",
}
_ENDED = frozenset({"attested", "rejected", "failed", "cancelled"})
# FHIR R4 Task state machine: from these nobody goes on.
_FINAL = frozenset({"completed", "cancelled", "failed", "rejected", "entered-in-error"})
# What only the requester sets.
OF_THE_REQUESTER = frozenset({"cancelled", "entered-in-error"})
_CANCELLED_HERE = "somebody at this site cancelled what was asked for; ask them, or order again"
_SYNTHETIC = {"system": "https://veraicon.dev/CodeSystem/label", "code": "synthetic"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an order stands.

    Attributes
    ----------
    jobs : tuple of JobNews
        Its jobs, without draws that another one followed.
    reason : str
        Why it waits, or is not met, in words without patient data.
    error : mapping
        ``code``, ``found``, ``allowed``, ``next`` of the order's own error; empty where there is none.
    """

    state: OrderState
    jobs: tuple[JobNews, ...]
    reason: str
    error: Mapping[str, str]
    at: datetime


def task_status(progress: Progress) -> str:
    """Return Task.status: of the order, and once it has requests of its jobs.

    Volumes that were rejected by a check, and jobs that somebody here cancelled, are an execution that did not lead to
    anything: ``failed``; FHIR's ``rejected`` is an order that was never begun, and ``cancelled`` what its requester took back.

    References
    ----------
    FHIR R4 Task.status, Task state machine.
    """
    if progress.state is not OrderState.REQUESTED:
        return _STATUS_OF_ORDER[progress.state]
    states = [job.state for job in progress.jobs]
    if any(state not in _ENDED for state in states):
        return "on-hold" if all(state in _ENDED or state == "held" for state in states) else "in-progress"
    return "completed" if "attested" in states else "failed"


def amended_task(task: Mapping[str, Any], progress: Progress) -> Json | None:
    """Return somebody's Task with our answer in it; None where nothing changes, or where its requester has ended it.

    Everything that is not ours to say stays as it was read.
    """
    if str(task.get("status")) in OF_THE_REQUESTER:
        return None
    told = _told(progress)
    changed = {**task, **told}
    for name in ("statusReason", "output", "businessStatus"):
        if name not in told:
            changed.pop(name, None)
    same = {name: task.get(name) for name in changed if name != "lastModified"}
    return None if same == {name: value for name, value in changed.items() if name != "lastModified"} else changed


def has_ended(task: Mapping[str, Any]) -> bool:
    """Tell whether a Task has a status from which FHIR knows no next one."""
    return str(task.get("status")) in _FINAL


def report_task(order: Order, progress: Progress) -> Json:
    """Return a Task of our own that says what becomes of an order: for ServiceRequests and ImagingStudies, which are not ours.

    Its id derives from the order. It names the order, and no patient.
    """
    return {
        "resourceType": "Task",
        "id": report_id(order),
        "meta": {"tag": [_SYNTHETIC]},
        "intent": "order",
        "code": {"coding": [{"system": codes.TASK_SYSTEM, "code": codes.REPORT}], "text": "Generation of synthetic volumes"},
        "focus": {"reference": order.reference},
        "authoredOn": _instant(order.received_at),
        **_told(progress),
    }


def requested_task(order: Order, task_id: str) -> Json:
    """Return the Task that stands for a call of ``$generate``: the caller polls it.

    It says what was asked for, and by its identifier that it is the call's, so that the very same order is read back from it.
    """
    inputs = [(codes.STUDY_UID, order.study_uid), (codes.SERIES_UID, order.series_uid), (codes.ACCESSION, order.accession)]
    texts = [*inputs, (codes.MODEL, order.model)]
    entries: list[Json] = [{"type": _type(name), "valueString": value} for name, value in texts if value]
    if order.samples:
        entries.append({"type": _type(codes.SAMPLES), "valueInteger": order.samples})
    entries += [_asked(fact.text, fact.value, fact.unit) for fact in order.asked]
    task = {
        "resourceType": "Task",
        "id": task_id,
        "meta": {"tag": [_SYNTHETIC]},
        "identifier": [{"system": codes.ORDER_SYSTEM, "value": order.order_id}],
        "status": "received",
        "intent": "order",
        "code": {"coding": [{"system": codes.TASK_SYSTEM, "code": codes.GENERATE}], "text": "Generate synthetic volumes"},
        "authoredOn": _instant(order.received_at),
        "lastModified": _instant(order.received_at),
    }
    if order.focus:
        task["focus"] = {"reference": order.focus}
    if order.subject_reference:
        task["for"] = {"reference": order.subject_reference}
    return task | ({"input": entries} if entries else {})


def report_id(order: Order) -> str:
    """Return the id of the Task that we make for an order."""
    return derive_fhir_id(order.order_id, "Task")


def _told(progress: Progress) -> Json:
    status = task_status(progress)
    told: Json = {"status": status, "lastModified": _instant(progress.at), "businessStatus": {"text": _business(progress)}}
    reason = _reason(progress)
    if reason:
        told["statusReason"] = reason
    outputs = [output for job in progress.jobs if job.state == "attested" for output in _outputs(job)]
    if outputs:
        told["output"] = outputs
    return told


def _business(progress: Progress) -> str:
    if progress.state is not OrderState.REQUESTED:
        return str(progress.state.value)
    counts: dict[str, int] = {}
    for job in progress.jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no volumes"


def _reason(progress: Progress) -> Json | None:
    """Return our error as a coded reason with its words: the order's, else that of the first job that did not succeed."""
    errors: Sequence[Mapping[str, str]] = [progress.error] if progress.error else []
    if progress.state is OrderState.REQUESTED:
        errors = [dict(job.error) for job in progress.jobs if job.state not in ("attested", "cancelled") and job.error]
    if errors:
        first = errors[0]
        words = f"found {first.get('found', '')}; allowed: {first.get('allowed', '')}; next: {first.get('next', '')}"
        return {"coding": [{"system": ERROR_SYSTEM, "code": first.get("code", "VI-0000")}], "text": words}
    cancelled = any(job.state == "cancelled" for job in progress.jobs) and task_status(progress) == "failed"
    words = progress.reason or (_CANCELLED_HERE if cancelled else "")
    return {"text": words} if words else None


def _outputs(job: JobNews) -> list[Json]:
    references = [(codes.IMAGING_STUDY, job.study_reference), (codes.PROVENANCE, job.provenance_reference)]
    references += [(codes.DOCUMENT, reference) for reference in job.document_references]
    outputs = [{"type": _type(name), "valueReference": {"reference": reference}} for name, reference in references if reference]
    return [*outputs, {"type": _type(codes.STUDY_UID_OUT), "valueUri": f"{codes.UID_PREFIX}{job.study_uid}"}]


def _asked(kind: str, value: object, unit: str) -> Json:
    quantity = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return {"type": {"coding": [{"system": codes.MEASUREMENT_SYSTEM, "code": kind}]}, "valueQuantity": quantity}


def _type(name: str) -> Json:
    return {"coding": [{"system": codes.TASK_SYSTEM, "code": name}]}


def _instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
