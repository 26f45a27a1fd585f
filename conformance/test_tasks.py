"""Tasks, Parameters and the OperationDefinition of ours before validators that others wrote."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.clinical import ClinicalFact, Coding
from domain.ordering import JobNews, Order, OrderOrigin, OrderState
from fhir_adapter.ordering.codes import MEASUREMENT_SYSTEM
from fhir_adapter.ordering.generate_operation import answer_parameters, operation_definition
from fhir_adapter.ordering.tasks import Progress, amended_task, report_task, requested_task
from tests.peers.fhir_validators import validate

_NO_VALUE = re.compile(r"pyfhircheck: cardinality\.min Task\.(input|output)\[(\d+)\]\.value\[x\]: .*")

pytestmark = pytest.mark.peer("fhir-validators")

_NOW = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)
_ASKED = ClinicalFact((Coding(MEASUREMENT_SYSTEM, "hippocampus-volume"),), "hippocampus-volume", 3.1, "cm3", None, "request")
_CALL = Order(
    OrderOrigin.OPERATION, "operation", "Task/t1", "$generate", _NOW, subject_reference="Patient/p1", focus="ImagingStudy/i1",
    accession="A-1", study_uid="2.25.7", series_uid="2.25.8", model="hippocampus-t1", samples=2, asked=(_ASKED,), names_us=True,
)  # fmt: skip
_REQUEST = Order(OrderOrigin.FHIR, "ehr", "ServiceRequest/sr1", "ServiceRequest", _NOW)
_ERROR = {"code": "VI-2003", "found": "3 of 4 slices", "allowed": "every slice", "next": "send the rest"}
_JOBS = (
    JobNews("r1", "attested", "hippocampus-t1", _NOW, study_uid="2.25.9", series_uid="2.25.10", instances=3,
            provenance_reference="Provenance/v1", study_reference="ImagingStudy/i2",
            document_references=("DocumentReference/d1",)),
    JobNews("r2", "failed", "hippocampus-t1", _NOW, error=tuple(_ERROR.items())),
)  # fmt: skip
STANDINGS = {
    "received": Progress(OrderState.RECEIVED, (), "", {}, _NOW),
    "waiting": Progress(OrderState.WAITING, (), "none of its images are here yet", {}, _NOW),
    "refused": Progress(OrderState.REFUSED, (), "images that did not come", _ERROR, _NOW),
    "running": Progress(OrderState.REQUESTED, (JobNews("r1", "requested", "m", _NOW),), "", {}, _NOW),
    "completed": Progress(OrderState.REQUESTED, _JOBS, "", {}, _NOW),
    "failed": Progress(OrderState.REQUESTED, _JOBS[1:], "", {}, _NOW),
}


def errors(task: dict[str, Any]) -> list[str]:
    """Return what the validators find; pyfhircheck sees no value of a required choice in a nested element, so we look ourselves."""
    return [found for found in validate(task) if not _has_value(task, found)]


def _has_value(task: dict[str, Any], found: str) -> bool:
    place = _NO_VALUE.fullmatch(found)
    return place is not None and len([name for name in task[place[1]][int(place[2])] if name.startswith("value")]) == 1


@pytest.mark.requirement("ORDER-FHIR-008")
@pytest.mark.parametrize("standing", STANDINGS.values(), ids=STANDINGS)
def test_tasks_are_valid_wherever_an_order_stands(standing: Progress) -> None:
    assert errors(report_task(_REQUEST, standing)) == []
    amended = amended_task(requested_task(_CALL, "t1"), standing)
    assert errors(requested_task(_CALL, "t1") if amended is None else amended) == []


@pytest.mark.requirement("ORDER-FHIR-008")
@pytest.mark.parametrize(
    "wrong", [{"status": "waiting"}, {"input": [{"type": {"text": "a"}}]}, {"output": [{"valueString": "b"}]}]
)
def test_what_is_wrong_in_a_task_is_found(wrong: dict[str, Any]) -> None:
    assert errors({**report_task(_REQUEST, STANDINGS["waiting"]), **wrong})


@pytest.mark.requirement("ORDER-FHIR-008")
@pytest.mark.parametrize("resource", [operation_definition(), answer_parameters("t1")], ids=lambda one: one["resourceType"])
def test_what_describes_and_answers_the_operation_is_valid(resource: dict[str, Any]) -> None:
    assert validate(resource) == []
