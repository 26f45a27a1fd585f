"""The main job with a FHIR server that refuses what HAPI refuses and that fails while it writes: nothing doubled, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from conformance.ai_transparency import broken_rules
from tests.builders_main_job import patient_bundle
from tests.peers.fhir_validators import validate
from tests.peers.sekmet import running_sekmet
from tests.peers.strict_fhir import StrictFhir, running_strict_fhir
from tests.peers.veraicon_site import VeraiconSite, veraicon_site

_VOLUMES = {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0}
_JSON = {"Accept": "application/fhir+json", "Content-Type": "application/fhir+json", "Cache-Control": "no-cache"}
_PUBLISHED = {"Patient": 1, "Device": 1, "DocumentReference": 4, "Endpoint": 1, "ImagingStudy": 1, "Provenance": 1}


@dataclass(frozen=True)
class Done:
    site: VeraiconSite
    strict: StrictFhir
    ehr: str
    job: dict[str, Any]

    def ours(self, kind: str) -> list[dict[str, Any]]:
        """What the server holds of one type with our tag, asked without the proxy."""
        answer = httpx.get(f"{self.ehr}/{kind}", params={"_tag": "synthetic", "_count": "200"}, headers=_JSON, timeout=20)
        return [entry["resource"] for entry in answer.raise_for_status().json().get("entry", [])]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, data_folder: Callable[[str], Path]) -> Iterator[Done]:
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    synthea = next(data_folder("fhir/synthea-r4").glob("Michele_Wolf*.json"))
    with (
        running_sekmet(tmp_path_factory.mktemp("sekmet"), free_port()) as ehr,
        running_strict_fhir(ehr) as strict,
        veraicon_site(tmp_path_factory.mktemp("site"), free_port) as site,
    ):
        for support in sorted(synthea.parent.glob("*Information*.json")):
            httpx.post(ehr, json=json.loads(support.read_text()), timeout=120).raise_for_status()
        httpx.post(ehr, json=patient_bundle(synthea, "PGBM-002", _VOLUMES), timeout=120).raise_for_status()
        # The first tries to publish die, meet another writer, lose their answer, and get half of it.
        strict.faults += ["dies-before", 409, 412, "lost-answer", "partial-answer"]
        wado = 'wado_url = "https://pacs.example/dicom-web"'
        site.write_config(
            f'[fhir]\nbase_url = "{strict.url}"\n[publication]\n{wado}\n[worker]\nattempts = 9\nfirst_delay_s = 0.1\n'
        )
        site.serve()
        site.push(data_folder("dicom/mr_hippocrop_PGBM-002"))
        yield Done(site, strict, ehr, site.await_job())


@pytest.mark.requirement("FHIR-PUB-001")
def test_a_server_as_strict_as_hapi_takes_all_that_we_write_and_ask(done: Done) -> None:
    assert done.job["error"] is None, done.job["error"]
    assert done.job["state"] == "attested"
    assert done.strict.refusals == []


@pytest.mark.requirement("FHIR-PUB-002")
def test_failures_while_it_writes_double_nothing(done: Done) -> None:
    assert done.strict.faults == [], "each failure was met"
    assert {kind: len(done.ours(kind)) for kind in _PUBLISHED} == _PUBLISHED


@pytest.mark.peer("fhir-validators")
@pytest.mark.requirement("FHIR-PUB-003")
def test_what_the_server_holds_of_ours_is_valid_and_keeps_the_rules_of_ai_transparency(done: Done) -> None:
    held = [one for kind in _PUBLISHED for one in done.ours(kind)]
    # AIAST is younger than the validator's snapshot of its code system, and it counts the UIDs of a series' instances together.
    known = ("Code 'AIAST' is not valid in code system", "ImagingStudy.series.instance")
    errors = [error for one in held for error in validate(one) if not any(words in error for words in known)]
    assert errors == []
    assert broken_rules(held) == []


@pytest.mark.requirement("FHIR-PUB-004")
def test_the_imaging_study_says_where_its_instances_are_and_names_no_real_patient(done: Done) -> None:
    study, endpoint = done.ours("ImagingStudy")[0], done.ours("Endpoint")[0]
    assert study["endpoint"] == [{"reference": f"Endpoint/{endpoint['id']}"}]
    assert endpoint["address"] == "https://pacs.example/dicom-web"
    assert study["subject"]["reference"] == f"Patient/{done.ours('Patient')[0]['id']}"
    assert "basedOn" not in study
