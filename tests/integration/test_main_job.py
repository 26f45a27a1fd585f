"""The main job on real input: DCMTK pushes, sekmet holds the EHR, Orthanc is the PACS.

DCMTK and plain HTTP look at what arrived there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread

from tests.builders_main_job import patient_bundle
from tests.peers.dcmtk import run_dcmtk
from tests.peers.dicom3tools import errors_of_instance, errors_of_set
from tests.peers.orthanc import Orthanc, running_orthanc
from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import VeraiconSite, veraicon_site

_VOLUMES = {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0}


@dataclass(frozen=True)
class Done:
    """The three servers after one finished job."""

    site: VeraiconSite
    orthanc: Orthanc
    ehr: str
    job: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, data_folder: Callable[[str], Path]) -> Iterator[Done]:
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    series = data_folder("dicom/mr_hippocrop_PGBM-002")
    synthea = next(data_folder("fhir/synthea-r4").glob("Michele_Wolf*.json"))
    folders = [tmp_path_factory.mktemp(name) for name in ("orthanc", "sekmet", "site")]
    dicom_port, node_port = free_port(), free_port()
    with (
        running_orthanc(folders[0], dicom_port=dicom_port, http_port=free_port(), node_port=node_port) as orthanc,
        running_sekmet(folders[1], free_port()) as ehr,
        veraicon_site(folders[2], free_port) as site,
    ):
        site.node_port = node_port
        destination = f'[[destinations]]\nname = "orthanc"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {dicom_port}\n'
        site.write_config(f'[fhir]\nbase_url = "{ehr}"\n[publication]\nsummary = "pdf"\n{destination}')
        for support in sorted(synthea.parent.glob("*Information*.json")):
            httpx.post(ehr, json=json.loads(support.read_text()), timeout=120).raise_for_status()
        bundle = patient_bundle(synthea, "PGBM-002", _VOLUMES)
        httpx.post(ehr, json=bundle, timeout=120).raise_for_status()
        site.serve(supervised=True)
        site.push(series)
        yield Done(site, orthanc, ehr, site.await_job())


def _resource(done: Done, reference: str) -> dict[str, Any]:
    answer = httpx.get(f"{done.ehr}/{reference}", headers={"Accept": "application/fhir+json"}, timeout=20)
    answer.raise_for_status()
    return dict(answer.json())


def test_job_is_attested(done: Done) -> None:
    assert done.job["error"] is None, done.job["error"]
    assert done.job["state"] == "attested"


@pytest.mark.requirement("DICOM-SC-011")
def test_the_pacs_has_committed_to_the_publication(done: Done) -> None:
    """Orthanc brings its report to the serving process, and the worker that published waits for it."""
    published = done.site.folder / "data" / "jobs" / done.job["job"] / "published.json"
    assert [receipt["committed"] for receipt in json.loads(published.read_text())["receipts"]] == [True]


@pytest.mark.requirement("DICOM-OBJ-009")
def test_pacs_holds_the_series_by_its_own_word(done: Done, tmp_path: Path) -> None:
    """DCMTK asks Orthanc, as any other node would."""
    port = str(done.orthanc.peer.port)
    found = run_dcmtk(
        "findscu", "-S", "-aet", "VERAICON", "-aec", "ORTHANC", "127.0.0.1", port, "-k", "QueryRetrieveLevel=SERIES",
        "-k", f"SeriesInstanceUID={done.job['generated_series_uid']}", "-k", "StudyInstanceUID", "-k", "Modality",
        "-k", "NumberOfSeriesRelatedInstances",
    )  # fmt: skip
    said = found.stdout + found.stderr
    assert done.job["generated_series_uid"] in said
    assert "[32" in said, "all 32 slices, like the source"


@pytest.mark.requirement("DICOM-OBJ-009")
def test_pacs_holds_labels_and_summary_in_the_same_study(done: Done, tmp_path: Path) -> None:
    held = {dcmread(path).Modality for path in _fetch_study(done, tmp_path / "study")}
    assert held == {"MR", "SEG", "DOC"}


@pytest.mark.requirement("DICOM-OBJ-001")
def test_outside_judges_find_no_error_in_what_the_pacs_holds(
    done: Done, tmp_path: Path, data_folder: Callable[[str], Path]
) -> None:
    files = _fetch_study(done, tmp_path / "study")
    assert {path.name: errors_of_instance(path) for path in files} == {path.name: [] for path in files}
    sources = [dcmread(path).SOPInstanceUID for path in data_folder("dicom/mr_hippocrop_PGBM-002").glob("*.dcm")]
    assert errors_of_set(files, absent=sources) == []


@pytest.mark.requirement("DICOM-OBJ-002", "DICOM-OBJ-003")
def test_instances_are_marked_and_belong_to_no_real_patient(done: Done, tmp_path: Path) -> None:
    for path in _fetch_study(done, tmp_path / "study"):
        ds = dcmread(path)
        assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")
        assert ds.get("ImageType", ["DERIVED"])[0] == "DERIVED"
        assert ds.PatientID.startswith("SYN-")
        assert "PGBM" not in ds.to_json()
        assert "Avasarala" not in ds.to_json()


@pytest.mark.requirement("FHIR-RES-003")
def test_fhir_resources_are_linked(done: Done) -> None:
    provenance = _resource(done, done.job["provenance"])
    study = next(target for target in provenance["target"] if target.get("reference", "").startswith("ImagingStudy/"))
    imaging_study = _resource(done, study["reference"])
    assert imaging_study["series"][0]["uid"] == done.job["generated_series_uid"]
    assert len(imaging_study["series"][0]["instance"]) == 32
    assert [series["modality"]["code"] for series in imaging_study["series"]] == ["MR", "SEG", "DOC"]
    for agent in provenance["agent"]:
        if "reference" in agent["who"]:
            assert _resource(done, agent["who"]["reference"])["resourceType"] == "Device"
    documents = [entity["what"]["reference"] for entity in provenance["entity"] if "reference" in entity["what"]]
    assert documents
    for reference in documents:
        assert _resource(done, reference)["status"]
    assert {"AIAST", "HTEST"} <= {label["code"] for label in imaging_study["meta"]["security"]}
    text = json.dumps([provenance, imaging_study])
    assert "PGBM-002" not in text
    assert "1700" not in text, "a clinical value left in the lineage"


@pytest.mark.requirement("PROV-VERIFY-001")
def test_a_file_of_the_pacs_verifies_with_the_key_alone(done: Done, tmp_path: Path) -> None:
    files = _fetch(done, tmp_path / "series")
    keys = tmp_path / "jwks.json"
    keys.write_bytes(httpx.get(f"{done.site.url}/.well-known/jwks.json").content)
    one = done.site.run("verify", str(files[3]), "--keys", str(keys), "--offline", "--json")
    assert one.returncode == 0, one.stdout + one.stderr
    provenance = tmp_path / "provenance.json"
    provenance.write_text(json.dumps(_resource(done, done.job["provenance"])))
    whole = done.site.run("verify", str(tmp_path / "series"), "--keys", str(keys), "--provenance", str(provenance), "--json")
    claims = {claim["claim"]: claim["truth"] for claim in json.loads(whole.stdout)["claims"]}
    assert whole.returncode == 0, whole.stdout
    assert claims["series-complete"] == claims["provenance-signed"] == claims["provenance-about-series"] == "true"


@pytest.mark.requirement("PROV-VERIFY-001")
def test_labels_and_summary_of_the_pacs_verify_too(done: Done, tmp_path: Path) -> None:
    files = _fetch_study(done, tmp_path / "study")
    for path in files:
        if dcmread(path).Modality in {"SEG", "DOC"}:
            answered = done.site.run("verify", str(path), "--json")
            assert answered.returncode == 0, answered.stdout + answered.stderr
    whole = done.site.run("verify", str(tmp_path / "study"), "--json")
    assert whole.returncode == 0, whole.stdout
    told = json.loads(whole.stdout)
    parts = [{claim["claim"]: claim for claim in report["claims"]} for report in told["reports"]]
    assert [claims["series-complete"]["truth"] for claims in parts] == ["true"] * 3
    assert {"all 32 instances", "all 1 instances"} == {claims["series-complete"]["why"][:16].rstrip() for claims in parts}
    # The site was asked: its FHIR server holds the Provenance, the sidecar, every attested resource and no recall.
    truths = {claim["claim"]: claim["truth"] for claim in told["claims"]}
    asked = ("provenance-signed", "attestation-signed", "in-log", "key-valid", "times-in-order", "resources", "model-card")
    assert {name: truths[name] for name in (*asked, "not-recalled")} == dict.fromkeys((*asked, "not-recalled"), "true")


def test_verify_asks_the_sites_fhir_server_for_the_provenance(done: Done, tmp_path: Path) -> None:
    files = _fetch(done, tmp_path / "series")
    answered = done.site.run("verify", str(files[0]), "--json")
    claims = {claim["claim"]: claim["truth"] for claim in json.loads(answered.stdout)["claims"]}
    assert answered.returncode == 0, answered.stdout + answered.stderr
    assert claims["provenance-signed"] == "true"


@pytest.mark.requirement("PROV-VERIFY-002")
def test_a_changed_pixel_and_a_changed_provenance_are_told(done: Done, tmp_path: Path) -> None:
    file = _fetch(done, tmp_path / "series")[0]
    provenance = tmp_path / "edited.json"
    edited = _resource(done, done.job["provenance"])
    edited["recorded"] = "2020-01-01T00:00:00+00:00"
    provenance.write_text(json.dumps(edited))
    against = done.site.run("verify", str(file), "--provenance", str(provenance), "--json")
    assert against.returncode == 1
    assert "provenance-signed" in [
        claim["claim"] for claim in json.loads(against.stdout)["claims"] if claim["truth"] == "false"
    ]
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    told = done.site.run("verify", str(file), "--json")
    assert told.returncode == 1
    assert [claim["claim"] for claim in json.loads(told.stdout)["claims"] if claim["truth"] == "false"] == ["pixel-data"]


@pytest.mark.requirement("DICOM-ASSOC-010")
def test_no_patient_data_is_logged(done: Done) -> None:
    log = done.site.log()
    assert log
    for canary in ("PGBM-002", "Avasarala", "Chrisjen", "Michele", "Wolf", "1700.0"):
        assert canary not in log, canary


def test_what_we_published_does_not_become_a_source(done: Done, tmp_path: Path, eventually: Callable[..., object]) -> None:
    """A PACS that forwards everything sends our own series back to us, labels and summary among them."""
    files = _fetch_study(done, tmp_path / "study")
    sent = run_dcmtk("storescu", "-R", "-aet", "ORTHANC", "-aec", "VERAICON", "127.0.0.1", str(done.site.node_port), *files)
    assert sent.returncode == 0, sent.stderr
    landed = run_dcmtk(
        "findscu", "-S", "-aec", "VERAICON", "127.0.0.1", str(done.site.node_port), "-k", "QueryRetrieveLevel=SERIES",
        "-k", f"SeriesInstanceUID={done.job['generated_series_uid']}",
    )  # fmt: skip
    assert done.job["generated_series_uid"] in landed.stdout + landed.stderr
    import time

    time.sleep(3)  # longer than it takes a series to settle and be announced
    assert len(done.site.jobs()) == 1
    exported = tmp_path / "exported"
    told = done.site.run("export", dcmread(files[0]).StudyInstanceUID, "--to", str(exported), "--json")
    assert json.loads(told.stdout)["instances"] == 34, told.stdout + told.stderr
    assert errors_of_instance(exported / "DICOMDIR") == []


def _instances(done: Done) -> list[str]:
    query = {"Level": "Instance", "Query": {"SeriesInstanceUID": done.job["generated_series_uid"]}}
    found = done.orthanc.post("/tools/find", query)
    assert len(found) == 32
    return list(found)


def _fetch(done: Done, folder: Path) -> list[Path]:
    return _files(done, _instances(done), folder)


def _fetch_study(done: Done, folder: Path) -> list[Path]:
    """Everything of the generated study."""
    first = dcmread(io.BytesIO(done.orthanc.file(_instances(done)[0])))
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": str(first.StudyInstanceUID)}}
    return _files(done, list(done.orthanc.post("/tools/find", query)), folder)


def _files(done: Done, instances: list[str], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = []
    for number, instance in enumerate(instances):
        path = folder / f"{number:04d}.dcm"
        path.write_bytes(done.orthanc.file(instance))
        files.append(path)
    return files
