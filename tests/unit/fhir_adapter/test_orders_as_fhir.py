"""Resources and Parameters that ask for something, as orders; and what becomes of orders, as Tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from domain.errors import RequestInvalid
from domain.identifiers import PatientIdentifier
from domain.ordering import JobNews, Order, OrderOrigin, OrderState
from fhir_adapter.ordering import codes
from fhir_adapter.ordering.generate_operation import order_of_parameters
from fhir_adapter.ordering.reading import Standing, order_of_resource, standing
from fhir_adapter.ordering.tasks import Progress, amended_task, report_task, requested_task, task_status
from fhir_adapter.store import RawResource

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_ACCESSION = {"type": {"coding": [{"system": codes.IDENTIFIER_TYPE, "code": "ACSN"}]}, "value": "A-1"}
_STUDY = {"system": "urn:dicom:uid", "value": "urn:oid:2.25.7"}
_QUANTITY = {"value": 3.1, "unit": "cm3", "system": "http://unitsofmeasure.org", "code": "cm3"}


def order_of(resource: dict[str, Any]) -> Order:
    return order_of_resource(RawResource({"id": "x", **resource}), "ehr", _NOW)


def typed(name: str, system: str = codes.TASK_SYSTEM, **value: Any) -> dict[str, Any]:
    return {"type": {"coding": [{"system": system, "code": name}]}, **value}


def task(*inputs: dict[str, Any], code: str = codes.GENERATE, **elements: Any) -> dict[str, Any]:
    coding = {"system": codes.TASK_SYSTEM, "code": code}
    return {"resourceType": "Task", "status": "requested", "code": {"coding": [coding]}, "input": list(inputs), **elements}


def parameters(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": list(entries)}


def job(state: str, **elements: Any) -> JobNews:
    return JobNews("r", state, "m", _NOW, **elements)


def progress(state: OrderState = OrderState.REQUESTED, *jobs: JobNews, reason: str = "", **error: str) -> Progress:
    return Progress(state, jobs, reason, error, _NOW)


@pytest.mark.requirement("ORDER-FHIR-006")
def test_a_task_says_images_model_samples_and_values() -> None:
    order = order_of(
        task(
            typed("study-uid", valueString="2.25.7"),
            typed("accession", valueIdentifier=_ACCESSION),
            typed("model", valueString="hippocampus-t1"),
            typed("samples", valueInteger=3),
            typed("hippocampus-volume", codes.MEASUREMENT_SYSTEM, valueQuantity=_QUANTITY),
            **{"for": {"reference": "Patient/p", "identifier": {"system": "urn:mrn", "value": "1"}}},
        )
    )
    assert (order.study_uid, order.accession, order.model, order.samples) == ("2.25.7", "A-1", "hippocampus-t1", 3)
    assert (order.patient, order.subject_reference) == (PatientIdentifier("1", "urn:mrn"), "Patient/p")
    assert [(fact.text, fact.value, fact.unit) for fact in order.asked] == [("hippocampus-volume", 3.1, "cm3")]
    assert order.names_us
    assert not order_of(task(code="report")).names_us, "a Task for somebody else is not for us"


@pytest.mark.requirement("ORDER-FHIR-006")
def test_service_requests_and_imaging_studies_say_which_images() -> None:
    coded = {"coding": [{"system": "http://loinc.org", "code": "24590-2"}]}
    request = order_of(
        {"resourceType": "ServiceRequest", "identifier": [_ACCESSION], "subject": {"reference": "Patient/p"}, "code": coded}
    )
    assert (request.accession, request.codes[0].code, request.names_us) == ("A-1", "24590-2", False)
    study = order_of(
        {
            "resourceType": "ImagingStudy",
            "identifier": [_STUDY, _ACCESSION],
            "subject": {"reference": "Patient/p"},
            "modality": [{"code": "MR"}],
        }
    )
    assert (study.study_uid, study.accession, study.modality) == ("2.25.7", "A-1", "MR")


@pytest.mark.requirement("ORDER-FHIR-007")
@pytest.mark.parametrize(
    "resource",
    [
        task(typed("samples", valueInteger=0)),
        task(typed("samples", valueBoolean=True)),
        task(typed("study-uid", valueString="2.25.x")),
        task(typed("colour", valueString="blue")),
        task(typed("hippocampus-volume", codes.MEASUREMENT_SYSTEM, valueQuantity={"value": "much"})),
        task(typed("hippocampus-volume", codes.MEASUREMENT_SYSTEM, valueString="3.1")),
        task(input={"type": "text"}),
        task(focus={"reference": "Patient/p"}),
        task(**{"for": {"reference": "Group/g"}}),
        {"resourceType": "ImagingStudy", "subject": {"reference": "Patient/p"}},
        {"resourceType": "ServiceRequest", "identifier": [_ACCESSION, {**_ACCESSION, "value": "A-2"}]},
        {"resourceType": "Observation"},
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_never_half_read(resource: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid):
        order_of(resource)


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("Task", "requested", Standing.OPEN),
        ("Task", "draft", Standing.NEITHER),
        ("Task", "completed", Standing.NEITHER),
        ("Task", "cancelled", Standing.REVOKED),
        ("ServiceRequest", "revoked", Standing.REVOKED),
        ("ImagingStudy", "registered", Standing.NEITHER),
        ("Patient", "active", Standing.NEITHER),
    ],
)
def test_the_status_says_whether_something_is_asked_for(kind: str, status: str, expected: Standing) -> None:
    assert standing(RawResource({"resourceType": kind, "status": status})) is expected


def test_a_task_of_ours_that_reports_asks_for_nothing() -> None:
    """Else a site that watches all Tasks would make volumes of its own answers."""
    request = Order(OrderOrigin.FHIR, "ehr", "ServiceRequest/sr", "ServiceRequest", _NOW)
    report = report_task(request, progress(OrderState.WAITING, reason="none of its images are here yet"))
    assert standing(RawResource(report)) is Standing.NEITHER


@pytest.mark.requirement("ORDER-FHIR-002")
def test_the_task_of_a_call_reads_back_as_the_same_order() -> None:
    body = parameters(
        {"name": "study-uid", "valueString": "2.25.7"},
        {"name": "samples", "valueInteger": 2},
        {
            "name": "ask",
            "part": [{"name": "concept", "valueCode": "hippocampus-volume"}, {"name": "value", "valueQuantity": _QUANTITY}],
        },
    )
    order, task_id = order_of_parameters(body, sender="operation", now=_NOW, fresh="1", subject="Patient/p")
    task = requested_task(order, task_id)
    assert order_of_resource(RawResource(task), "ehr", _NOW) == order
    copied = order_of_resource(RawResource({**task, "id": "copy"}), "ehr", _NOW)
    assert (copied.sender, copied.reference) == ("ehr", "Task/copy"), "somebody's copy of it is an order of its own"


@pytest.mark.requirement("ORDER-FHIR-007")
@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Patient"},
        parameters({"name": "colour", "valueString": "blue"}),
        parameters({"name": "model", "valueString": "a"}, {"name": "model", "valueString": "b"}),
        parameters({"name": "model"}),
        parameters({"name": "ask", "part": [{"name": "concept", "valueCode": "hippocampus-volume"}]}),
    ],
)
def test_a_malformed_call_asks_for_nothing(body: dict[str, Any]) -> None:
    with pytest.raises(RequestInvalid, match="nothing was asked for"):
        order_of_parameters(body, sender="operation", now=_NOW, fresh="1")


@pytest.mark.requirement("ORDER-FHIR-001")
@pytest.mark.parametrize(
    ("state", "jobs", "expected"),
    [
        (OrderState.RECEIVED, (), "received"),
        (OrderState.WAITING, (), "on-hold"),
        (OrderState.REFUSED, (), "rejected"),
        (OrderState.REQUESTED, ("requested", "attested"), "in-progress"),
        (OrderState.REQUESTED, ("held", "attested"), "on-hold"),
        (OrderState.REQUESTED, ("failed", "attested"), "completed"),
        (OrderState.REQUESTED, ("rejected", "cancelled"), "failed"),
        (OrderState.REQUESTED, ("cancelled",), "failed"),
    ],
)
def test_a_task_has_the_status_of_its_order_and_then_of_its_jobs(
    state: OrderState, jobs: tuple[str, ...], expected: str
) -> None:
    assert task_status(progress(state, *map(job, jobs))) == expected


@pytest.mark.requirement("ORDER-FHIR-004")
def test_only_our_answer_in_somebodys_task_changes_and_only_where_something_is_new() -> None:
    theirs = {
        **task(typed("study-uid", valueString="2.25.7")),
        "id": "x",
        "note": [{"text": "theirs"}],
        "meta": {"versionId": "4"},
    }
    waiting = amended_task(theirs, progress(OrderState.WAITING, reason="none of its images are here yet"))
    assert waiting is not None
    assert {name: waiting[name] for name in theirs if name != "status"} == {n: theirs[n] for n in theirs if n != "status"}
    assert waiting["statusReason"]["text"] == "none of its images are here yet"
    assert amended_task(waiting, progress(OrderState.WAITING, reason="none of its images are here yet")) is None
    done = amended_task(
        waiting, progress(OrderState.REQUESTED, job("attested", study_uid="2.25.9", study_reference="ImagingStudy/i"))
    )
    assert done is not None
    assert (done["status"], "statusReason" in done, len(done["output"])) == ("completed", False, 2)
    assert amended_task({**waiting, "status": "cancelled"}, progress(OrderState.REQUESTED, job("attested"))) is None
