"""Orders from outside, end to end: a Task, a ServiceRequest or a call asks; images come before or after; FHIR tells the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import VeraiconSite, veraicon_site

_SAMPLE = Path(__file__).parents[2] / "veraicon" / "sample"
_TASK = "https://veraicon.dev/fhir/CodeSystem/task"
_JSON = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
_QUIET = "[generation]\non_receive = false\n"
_ENDED = {"completed", "failed", "rejected", "cancelled"}


def _study_uid() -> str:
    return str(dcmread(next((_SAMPLE / "series").glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID)


def _task(identity: str, *inputs: dict[str, Any], **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "Task",
        "id": identity,
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": _TASK, "code": "generate"}]},
        "input": list(inputs),
        **elements,
    }


def _input(name: str, **value: Any) -> dict[str, Any]:
    return {"type": {"coding": [{"system": _TASK, "code": name}]}, **value}


def _put(base: str, resource: dict[str, Any]) -> None:
    url = f"{base}/{resource['resourceType']}/{resource['id']}"
    httpx.put(url, json=resource, headers=_JSON, timeout=30).raise_for_status()


def _read(base: str, reference: str) -> dict[str, Any]:
    return dict(httpx.get(f"{base}/{reference}", headers=_JSON, timeout=30).raise_for_status().json())


def _await_task(base: str, reference: str, site: VeraiconSite, wanted: set[str] = _ENDED) -> dict[str, Any]:
    end, task = time.monotonic() + 120, {}
    while time.monotonic() < end:
        answer = httpx.get(f"{base}/{reference}", headers=_JSON, timeout=30)
        task = answer.json() if answer.is_success else {}
        if task.get("status") in wanted:
            return dict(task)
        time.sleep(0.2)
    raise AssertionError(f"the Task says {task.get('status')}, {task.get('statusReason')}: {site.log()[-3000:]}")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[VeraiconSite]:
    """A site with a FHIR store of its own."""
    with veraicon_site(tmp_path_factory.mktemp("own"), free_port, _QUIET) as site:
        site.serve()
        bundle = json.loads((_SAMPLE / "patient.json").read_text(encoding="utf-8"))
        httpx.post(f"{site.url}/fhir", json=bundle, timeout=60).raise_for_status()
        yield site


@pytest.mark.requirement("ORDER-FHIR-001")
def test_a_task_is_met_when_its_images_come_and_names_what_was_made(own: VeraiconSite) -> None:
    base = f"{own.url}/fhir"
    _put(base, _task("early", _input("study-uid", valueString=_study_uid())))
    waiting = _await_task(base, "Task/early", own, {"on-hold"})
    assert "images" in waiting["statusReason"]["text"]
    own.push(_SAMPLE / "series")
    done = _await_task(base, "Task/early", own)
    assert done["status"] == "completed", done
    named = [output["valueReference"]["reference"] for output in done["output"] if "valueReference" in output]
    assert {reference.split("/")[0] for reference in named} == {"ImagingStudy", "Provenance", "DocumentReference"}
    for reference in named:
        assert _read(base, reference)["resourceType"] == reference.split("/")[0]
    listed = json.loads(own.run("order", "list", "--json").stdout)
    assert [(one["kind"], one["state"], len(one["jobs"])) for one in listed] == [("Task", "requested", 1)]


@pytest.mark.requirement("ORDER-FHIR-002")
def test_a_call_of_generate_is_followed_through_fhir_alone(own: VeraiconSite) -> None:
    base = f"{own.url}/fhir"
    parameters = [
        {"name": "study-uid", "valueString": _study_uid()},
        {"name": "request-id", "valueString": "call-1"},
        {
            "name": "ask",
            "part": [
                {"name": "concept", "valueCode": "hippocampus-volume"},
                {"name": "value", "valueQuantity": {"value": 3.1, "system": "http://unitsofmeasure.org", "code": "cm3"}},
            ],
        },
    ]
    body = {"resourceType": "Parameters", "parameter": parameters}
    answers = [httpx.post(f"{base}/$generate", json=body, headers=_JSON, timeout=30) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    references = {answer.json()["parameter"][0]["valueReference"]["reference"] for answer in answers}
    assert len(references) == 1, "the same call again is the same Task"
    (reference,) = references
    assert _await_task(base, reference, own)["status"] == "completed"
    listed = json.loads(own.run("order", "list", "--json").stdout)
    assert [one["kind"] for one in listed if one["reference"] == reference] == ["$generate"], "its Task is no order of its own"


@pytest.mark.requirement("ORDER-FHIR-003")
def test_why_an_order_cannot_be_met_stands_in_its_task(own: VeraiconSite) -> None:
    base = f"{own.url}/fhir"
    _put(base, _task("impossible", _input("study-uid", valueString=_study_uid()), _input("model", valueString="no-such-model")))
    refused = _await_task(base, "Task/impossible", own)
    assert refused["status"] == "rejected"
    assert refused["statusReason"]["coding"][0]["code"].startswith("VI-")
    assert "no-such-model" in refused["statusReason"]["text"]
    _put(base, _task("far", _input("study-uid", valueString=_study_uid()), _asked(99_000.0)))
    failed = _await_task(base, "Task/far", own)
    assert failed["status"] == "failed"
    assert "allowed" in failed["statusReason"]["text"]


@pytest.mark.requirement("ORDER-FHIR-004")
def test_a_task_that_its_requester_cancels_is_never_made(own: VeraiconSite) -> None:
    base = f"{own.url}/fhir"
    _put(base, _task("withdrawn", _input("study-uid", valueString="2.25.404")))
    held = _await_task(base, "Task/withdrawn", own, {"on-hold"})
    _put(base, {**held, "status": "cancelled"})
    end = time.monotonic() + 30
    while time.monotonic() < end:
        states = {one["reference"]: one["state"] for one in json.loads(own.run("order", "list", "--json").stdout)}
        if states["Task/withdrawn"] == "revoked":
            break
    assert states["Task/withdrawn"] == "revoked"
    assert _read(base, "Task/withdrawn")["status"] == "cancelled"


@pytest.mark.requirement("ORDER-FHIR-005")
def test_a_service_request_is_met_by_a_rule_and_reported_by_a_task_of_ours(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    rule = '[[rules]]\nname = "brain"\nkind = "ServiceRequest"\ncode = "http://loinc.org|24590-2"\n'
    hook = '[subscriptions]\ncriteria = ["ServiceRequest?status=active"]\nway = "rest-hook"\npoll_s = 3600\n'
    (tmp_path / "sekmet").mkdir()
    with running_sekmet(tmp_path / "sekmet", free_port()) as ehr, veraicon_site(tmp_path / "site", free_port) as site:
        site.write_config(f'{_QUIET}[fhir]\nbase_url = "{ehr}"\n{hook}hook_url = "{site.url}"\n{rule}')
        bundle = json.loads((_SAMPLE / "patient.json").read_text(encoding="utf-8"))
        httpx.post(ehr, json=bundle, timeout=60).raise_for_status()
        site.serve()
        site.push(_SAMPLE / "series")
        _await_subscription(ehr, site)
        study = {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{_study_uid()}"}, "reference": "ImagingStudy/s1"}
        patient = httpx.get(f"{ehr}/Patient", headers=_JSON, timeout=30).json()["entry"][0]["resource"]["id"]
        _put(
            ehr,
            {"resourceType": "ImagingStudy", "id": "s1", "status": "available", "subject": {"reference": f"Patient/{patient}"}},
        )
        for identity, code in (("sr-brain", "24590-2"), ("sr-chest", "36643-5")):
            coding = {"system": "http://loinc.org", "code": code}
            _put(ehr, {
                "resourceType": "ServiceRequest", "id": identity, "status": "active", "intent": "order",
                "code": {"coding": [coding]}, "subject": {"reference": f"Patient/{patient}"}, "supportingInfo": [study],
            })  # fmt: skip
        end, found = time.monotonic() + 120, []
        while time.monotonic() < end and not any(task["status"] in _ENDED for task in found):
            answer = httpx.get(f"{ehr}/Task", headers={**_JSON, "Cache-Control": "no-cache"}, timeout=30).json()
            found = [entry["resource"] for entry in answer.get("entry", [])]
            time.sleep(0.3)
        assert [(task["focus"]["reference"], task["status"]) for task in found] == [("ServiceRequest/sr-brain", "completed")]
        assert "for" not in found[0], "what is told of a synthetic volume names no patient"
        orders = {one["reference"]: one for one in json.loads(site.run("order", "list", "--json").stdout)}
        assert orders["ServiceRequest/sr-chest"]["state"] == "ignored"
        assert "no rule" in orders["ServiceRequest/sr-chest"]["reason"]


@pytest.mark.requirement("ORDER-PLACE-001")
def test_a_loss_of_power_between_two_requests_of_an_order_doubles_and_loses_nothing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with veraicon_site(tmp_path / "site", free_port, f"{_QUIET}[worker]\nembedded = false\n") as site:
        dying = site.start("serve", environment={"VERAICON_FAULT": "order:submitting"})
        _await_listening(site)
        _put(
            f"{site.url}/fhir", _task("twice", _input("study-uid", valueString=_study_uid()), _input("samples", valueInteger=2))
        )
        _await_task(f"{site.url}/fhir", "Task/twice", site, {"on-hold"})
        site.push(_SAMPLE / "series")
        assert dying.wait(timeout=60) == -9
        site.processes.clear()
        site.serve()
        _await_task(f"{site.url}/fhir", "Task/twice", site, {"in-progress"})
        (listed,) = json.loads(site.run("order", "list", "--json").stdout)
        jobs = sorted(job["job"] for job in site.jobs())
        assert (len(jobs), jobs) == (2, sorted(listed["jobs"]))


def _await_listening(site: VeraiconSite) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if httpx.get(f"{site.url}/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"serve does not answer: {site.log()[-2000:]}")


def _asked(value: float) -> dict[str, Any]:
    coding = {"system": "https://veraicon.dev/fhir/CodeSystem/measurement", "code": "hippocampus-volume"}
    quantity = {"value": value, "system": "http://unitsofmeasure.org", "code": "mm3"}
    return {"type": {"coding": [coding]}, "valueQuantity": quantity}


def _await_subscription(ehr: str, site: VeraiconSite) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        held = httpx.get(f"{ehr}/Subscription", headers={**_JSON, "Cache-Control": "no-cache"}, timeout=30).json()
        if any(entry["resource"]["status"] == "active" for entry in held.get("entry", [])):
            return
        time.sleep(0.2)
    raise AssertionError(f"no active subscription: {site.log()[-3000:]}")
