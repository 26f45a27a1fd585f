"""Our own FHIR service over its HTTP interface: what it claims works, what it does not claim is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from fhir_adapter.local.store import LocalFhirStore
from fhir_adapter.resource_types import STORED_TYPES
from tests.builders_fhir import patient
from veraicon.api.app import create_app
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("face")
    with open_site(load_settings(storage={"folder": str(folder / "data"), "min_free_mib": 1})) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(create_app(site)) as caller:
        yield caller


def _references(answer: Any) -> list[str]:
    return [f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in answer.json().get("entry", [])]


def _goal(status: str) -> dict[str, Any]:
    return {"resourceType": "Goal", "id": "v1", "lifecycleStatus": status}


def _outcome(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.json()["resourceType"] == "OperationOutcome", answer.text
    return dict(answer.json()["issue"][0])


@pytest.mark.requirement("FHIR-FACE-001")
def test_every_interaction_and_parameter_that_the_statement_claims_works(client: TestClient) -> None:
    rest = client.get("/fhir/metadata").json()["rest"][0]
    assert {one["type"] for one in rest["resource"]} == STORED_TYPES
    assert [one["code"] for one in rest["interaction"]] == ["transaction", "batch"]
    seen: set[str] = set()
    values = {"token": "a|b", "date": "ge2020", "reference": "Patient/x"}
    for resource in rest["resource"]:
        kind = resource["type"]
        codes = {one["code"] for one in resource["interaction"]}
        assert codes == {"read", "update", "create", "search-type"}
        # Types of the same parameters are searched by the same code: one type of each such set is enough.
        parameters = resource["searchParam"]
        key = str(parameters)
        for parameter in parameters if key not in seen else []:
            found = client.get(f"/fhir/{kind}", params={parameter["name"]: values[parameter["type"]]})
            assert found.status_code == 200, (kind, parameter, found.text)
        seen.add(key)
    written = client.put("/fhir/Device/claimed", json={"resourceType": "Device", "id": "claimed", "status": "active"})
    assert written.status_code == 201
    assert client.get("/fhir/Device/claimed").status_code == 200
    assert client.post("/fhir/Device", json={"resourceType": "Device"}).status_code == 201
    assert _references(client.get("/fhir/Device", params={"status": "active"})) == ["Device/claimed"]


@pytest.mark.requirement("FHIR-FACE-001")
def test_what_the_statement_does_not_claim_is_refused_with_an_outcome(client: TestClient) -> None:
    assert _outcome(client.delete("/fhir/Device/claimed"), 405)["code"] == "not-supported"
    assert _outcome(client.patch("/fhir/Device/claimed", json=[]), 405)
    assert _outcome(client.get("/fhir/Device/claimed/_history/1"), 404)
    assert _outcome(client.get("/fhir/Shoe"), 404)
    assert _outcome(client.get("/fhir/Bundle/x"), 404)
    assert _outcome(client.get("/fhir/Device", params={"colour": "red"}), 422)
    assert _outcome(client.get("/fhir/Observation", params={"code:in": "x"}), 422)
    assert _outcome(client.get("/fhir/Observation", params={"_sort": "code"}), 422)
    assert _outcome(client.get("/fhir/Observation", params={"_count": "-1"}), 422)
    assert _outcome(client.get("/fhir/Patient", headers={"Accept": "application/fhir+xml"}), 406)
    assert _outcome(client.get("/fhir/Patient", params={"_format": "xml"}), 406)
    xml = {"Content-Type": "application/fhir+xml"}
    assert _outcome(client.post("/fhir/Patient", content="<Patient/>", headers=xml), 415)
    problem = client.delete("/jobs")
    assert (problem.status_code, problem.headers["Content-Type"]) == (405, "application/problem+json")


@pytest.mark.requirement("FHIR-FACE-002")
def test_pages_give_each_match_once_while_others_write_and_name_no_patient(client: TestClient) -> None:
    for number in range(7):
        client.put(f"/fhir/Patient/page-{number}", json=patient(f"page-{number}", mrn="PAGED")).raise_for_status()
    first = client.post("/fhir/Patient/_search", content="identifier=PAGED&_count=3", headers=FORM)
    assert first.json()["total"] == 7
    found, page = _references(first), first.json()
    while links := [link["url"] for link in page["link"] if link["relation"] == "next"]:
        assert "PAGED" not in links[0]
        client.put("/fhir/Patient/page-0a", json=patient("page-0a", mrn="PAGED")).raise_for_status()
        answer = client.get(links[0])
        found, page = found + _references(answer), answer.json()
    assert found == [f"Patient/page-{number}" for number in range(7)]
    _outcome(client.get("/fhir/Observation", params={"_page": links[0] if links else "gAAAA"}), 422)
    latest = client.get("/fhir/Patient", params={"_sort": "-_lastUpdated", "_count": "1"})
    assert _references(latest) == ["Patient/page-0a"]
    counted = client.get("/fhir/Patient", params={"identifier": "PAGED", "_summary": "count"}).json()
    assert (counted["total"], "entry" in counted) == (8, False)
    window = [("_lastUpdated", "ge2000-01-01"), ("_lastUpdated", "lt2001-01-01")]
    assert client.get("/fhir/Patient", params=window).json()["total"] == 0, "a repeated parameter narrows"


@pytest.mark.requirement("FHIR-FACE-002")
def test_sorted_pages_end_and_a_lenient_call_is_told_what_was_left_out(client: TestClient) -> None:
    for number in range(5):
        client.put(f"/fhir/Flag/f{number}", json={"resourceType": "Flag", "id": f"f{number}"}).raise_for_status()
    page = client.get("/fhir/Flag", params={"_sort": "-_lastUpdated", "_count": "2"}).json()
    found = [entry["resource"]["id"] for entry in page["entry"]]
    while links := [link["url"] for link in page["link"] if link["relation"] == "next"]:
        page = client.get(links[0]).json()
        found += [entry["resource"]["id"] for entry in page["entry"]]
    assert found == ["f4", "f3", "f2", "f1", "f0"]
    lenient = client.get("/fhir/Flag", params={"colour": "red"}, headers={"Prefer": "handling=lenient"}).json()
    assert [entry["search"]["mode"] for entry in lenient["entry"]] == ["match"] * 5 + ["outcome"]


@pytest.mark.requirement("FHIR-FACE-003")
def test_versions_guard_reads_and_updates(client: TestClient) -> None:
    first = client.put("/fhir/Goal/v1", json=_goal("active"))
    assert (first.status_code, first.headers["ETag"]) == (201, 'W/"1"')
    assert first.headers["Location"].endswith("/fhir/Goal/v1")
    assert client.get("/fhir/Goal/v1", headers={"If-None-Match": 'W/"1"'}).status_code == 304
    changed = _goal("inactive")
    second = client.put("/fhir/Goal/v1", json=changed, headers={"If-Match": 'W/"1"', "Prefer": "return=minimal"})
    assert (second.status_code, second.content, second.headers["ETag"]) == (200, b"", 'W/"2"')
    late = client.put("/fhir/Goal/v1", json=_goal("active"), headers={"If-Match": 'W/"1"'})
    assert _outcome(late, 412)["code"] == "conflict"
    assert client.get("/fhir/Goal/v1").json()["lifecycleStatus"] == "inactive"


@pytest.mark.requirement("FHIR-FACE-003")
def test_a_conditional_create_makes_one_resource(client: TestClient) -> None:
    wanted = {"If-None-Exist": "identifier=http://hospital.example/mrn|ONCE"}
    answers = [client.post("/fhir/Patient", json=patient(mrn="ONCE"), headers=wanted) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"] != "p1"


@pytest.mark.requirement("FHIR-FACE-004")
def test_a_batch_keeps_what_is_right_and_says_what_was_wrong(client: TestClient) -> None:
    entries = [
        {"resource": patient("b1"), "request": {"method": "PUT", "url": "Patient/b1"}},
        {"resource": {"resourceType": "Consent", "id": "r5", "decision": "deny"}},
        {"resource": patient("b2"), "request": {"method": "PUT", "url": "Patient/b2"}},
    ]
    answer = client.post("/fhir", json={"resourceType": "Bundle", "type": "batch", "entry": entries}).json()
    assert answer["type"] == "batch-response"
    told = [entry["response"] for entry in answer["entry"]]
    assert [one["status"][:3] for one in told] == ["201", "422", "201"]
    assert "entry 1" in told[1]["outcome"]["issue"][0]["details"]["text"]
    assert told[0]["location"] == "Patient/b1"
    whole = client.post("/fhir", json={"resourceType": "Bundle", "type": "transaction", "entry": entries[1:]})
    _outcome(whole, 422)


@pytest.mark.requirement("FHIR-FACE-004")
@pytest.mark.parametrize("content", [
    b"{", b"\xff\xfe{}", b'{"resourceType": "Patient", "x": NaN}', b"[" * 100_000, b'{"resourceType":"Patient","x":1e999999}',
    b'{"resourceType": "Bundle", "type": "message", "entry": []}',
])  # fmt: skip
def test_a_hostile_body_is_refused_with_an_outcome(client: TestClient, content: bytes) -> None:
    _outcome(client.post("/fhir", content=content, headers={"Content-Type": "application/fhir+json"}), 422)


@pytest.mark.requirement("FHIR-FACE-004")
def test_paths_and_bodies_that_do_not_agree_are_refused(client: TestClient) -> None:
    _outcome(client.put("/fhir/Patient/other", json=patient()), 422)
    _outcome(client.put("/fhir/Observation/p1", json=patient()), 422)
    _outcome(client.get("/fhir/Patient/..%2F..%2Fetc"), 404)
    _outcome(client.get("/fhir/Patient/a,b"), 404)
    r5 = {"resourceType": "Procedure", "id": "r5", "occurrenceDateTime": "2020"}
    assert "R5" in _outcome(client.put("/fhir/Procedure/r5", json=r5), 422)["details"]["text"]


def test_what_is_published_is_found_by_what_it_refers_to(client: TestClient) -> None:
    document = {
        "resourceType": "DocumentReference", "id": "d1", "status": "current",
        "context": {"related": [{"reference": "ImagingStudy/s1"}]},
    }  # fmt: skip
    client.put("/fhir/DocumentReference/d1", json=document).raise_for_status()
    assert _references(client.get("/fhir/DocumentReference", params={"related": "ImagingStudy/s1"})) == ["DocumentReference/d1"]


@pytest.mark.requirement("FHIR-FACE-001")
def test_a_site_with_a_fhir_server_claims_operations_alone(tmp_path: Path) -> None:
    settings = load_settings(storage={"folder": str(tmp_path / "data")}, fhir={"base_url": "http://127.0.0.1:9/fhir"})
    with open_site(settings) as elsewhere, TestClient(create_app(elsewhere)) as caller:
        rest = caller.get("/fhir/metadata").json()["rest"][0]
        assert "interaction" not in rest
        assert [one["type"] for one in rest["resource"]] == ["ImagingStudy", "OperationDefinition", "Patient"]
        assert caller.get("/fhir/OperationDefinition/generate").status_code == 200
        _outcome(caller.get("/fhir/Patient"), 422)


@pytest.mark.parametrize(
    ("fault", "status"),
    [(OperationalError("select secret", {}, Exception("database is locked")), 503), (KeyError("secret"), 500)],
)
def test_a_database_that_is_locked_and_a_fault_of_ours_are_answered_as_outcomes_without_what_they_hold(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(LocalFhirStore, "read", fail)
    answer = TestClient(create_app(site), raise_server_exceptions=False).get("/fhir/Goal/v1")
    _outcome(answer, status)
    assert "secret" not in answer.text
    assert (answer.headers.get("Retry-After") is not None) == (status == 503)
