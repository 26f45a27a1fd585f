from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from domain.errors import PeerUnreachable
from domain.identifiers import SeriesUid
from tests.builders_dicom import part10_series
from tests.builders_main_job import small_bundle
from veraicon.api.app import create_app
from veraicon.jobs import requests_for
from veraicon.pipeline import JobState
from veraicon.settings import Settings, load_settings
from veraicon.wiring import Site, open_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as opened:
        yield opened


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(create_app(site)) as caller:
        yield caller


def test_bundle_is_taken_read_back_and_found_by_identifier(client: TestClient) -> None:
    written = client.post("/fhir", json=small_bundle("P-1", {"hippocampus-volume": 3000.5}))
    assert written.status_code == 200, written.text
    found = client.get("/fhir/Patient", params={"identifier": "http://hospital.example/mrn|P-1"}).json()
    assert found["total"] == 1
    patient = found["entry"][0]["resource"]
    assert client.get(f"/fhir/Patient/{patient['id']}").json() == patient
    observation = client.get("/fhir/Observation", params={"patient": f"Patient/{patient['id']}"})
    assert '"value":3000.5' in observation.text


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<html>", 422),
        (b'{"resourceType": "Bundle", "type": "transaction", "entry": [7]}', 422),
        (b'{"resourceType": "Bundle", "type": "document"}', 422),
        (b"[]", 422),
    ],
)
def test_a_bad_body_is_answered_by_an_operation_outcome_and_nothing_is_kept(
    client: TestClient, content: bytes, status: int
) -> None:
    answer = client.post("/fhir", content=content, headers={"Content-Type": "application/fhir+json"})
    assert answer.status_code == status
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert client.get("/fhir/Patient").json()["total"] == 0


def test_unknown_resource_and_unknown_parameter_are_errors(client: TestClient) -> None:
    missing = client.get("/fhir/Patient/nobody")
    assert missing.status_code == 404
    assert missing.json()["resourceType"] == "OperationOutcome"
    assert client.get("/fhir/Patient", params={"shoe-size": "9"}).status_code >= 400


def test_job_shows_its_error_and_a_retry_clears_it(client: TestClient, site: Site) -> None:
    request = requests_for(SeriesUid("1.2.3"), "sha256:0", site.settings.generation, requested_by="PACS")[0]
    assert site.jobs.submit(request)
    site.jobs.tried(request.request_id, JobState.PAIRED, PeerUnreachable("silence", allowed="an answer", action="start it"))
    site.jobs.tried(request.request_id, JobState.PAIRED, PeerUnreachable("silence", allowed="an answer", action="start it"))
    shown = client.get(f"/jobs/{request.request_id}").json()["error"]
    assert shown == {
        "code": "VI-1101", "name": "PeerUnreachable", "step": "paired", "attempts": 2,
        "found": "silence", "allowed": "an answer", "next": "start it",
    }  # fmt: skip
    site.jobs.reached(request.request_id, JobState.PAIRED, {})
    assert client.get(f"/jobs/{request.request_id}").json()["error"] is None
    refused = client.post(f"/jobs/{request.request_id}/retry")
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:veraicon:error:VI-2006"


def test_a_cancelled_job_stays_cancelled_when_its_step_ends_later(client: TestClient, site: Site) -> None:
    request = requests_for(SeriesUid("1.2.3"), "sha256:0", site.settings.generation, requested_by="PACS")[0]
    site.jobs.submit(request)
    assert client.post(f"/jobs/{request.request_id}/cancel").json()["state"] == "cancelled"
    site.jobs.reached(request.request_id, JobState.GENERATED, {})
    assert site.jobs.cancelled(request.request_id)


def test_unknown_job_is_not_found(client: TestClient) -> None:
    assert client.get("/jobs/nothing").status_code == 404


def test_the_same_series_state_asks_for_the_same_requests_and_another_state_for_others(site: Site) -> None:
    settings = site.settings.generation.model_copy(update={"samples": 3})
    first = requests_for(SeriesUid("1.2.3"), "sha256:0", settings, requested_by="PACS")
    again = requests_for(SeriesUid("1.2.3"), "sha256:0", settings, requested_by="PACS")
    grown = requests_for(SeriesUid("1.2.3"), "sha256:1", settings, requested_by="PACS")
    ids = [request.request_id for request in first]
    assert ids == [request.request_id for request in again]
    assert len({*ids, *(request.request_id for request in grown)}) == 6
    assert len({request.seed for request in first}) == 3


@pytest.mark.requirement("DICOM-WEB-013")
def test_token_is_asked_for_everywhere_but_health_and_public_keys(tmp_path: Path) -> None:
    settings: Settings = load_settings(storage={"folder": str(tmp_path / "data")}, http={"host": "0.0.0.0", "token": "letmein"})
    with open_site(settings) as guarded, TestClient(create_app(guarded)) as caller:
        assert caller.get("/health").status_code == 200
        keys = caller.get("/.well-known/jwks.json").json()["keys"]
        assert keys
        assert all("d" not in key for key in keys), "the private part of a key"
        for path in ("/jobs", "/fhir/Patient"):
            refused = caller.get(path)
            assert refused.status_code == 401
            assert "Bearer" in refused.headers["WWW-Authenticate"]
            assert caller.get(path, headers={"Authorization": "Bearer letmein"}).status_code == 200


def test_a_page_of_instances_is_read_without_reading_the_archive(
    client: TestClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in part10_series(5):
        site.archive.land(data, source="PACS")
    read: list[object] = []
    find, search = site.archive.find, site.archive.search
    monkeypatch.setattr(site.archive, "find", lambda level, keys, **more: read.append(keys) or find(level, keys, **more))
    monkeypatch.setattr(site.archive, "search", lambda level, keys, **more: read.append("all") or search(level, keys, **more))
    answered = client.get("/dicom-web/instances", params={"limit": "2", "offset": "1"})
    assert [item["00200013"]["Value"] for item in answered.json()] == [[2], [3]]
    assert "2 additional results" in answered.headers["Warning"]
    (keys,) = read
    assert isinstance(keys, dict)
    assert len(keys["SOPInstanceUID"]) == 2
    assert client.get("/dicom-web/instances", params={"PatientName": "PHANTOM*", "limit": "2"}).json()
    assert read[-1] == "all"


def test_capabilities_are_not_served(client: TestClient) -> None:
    assert client.options("/dicom-web/studies").status_code == 405
