"""Each bad input of a site ends in its own error, is shown by `veraicon job list`, and can be tried again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.uid import UID

from domain.identifiers import derive_uid
from generators.cards import bundle_folder
from tests.builders_main_job import small_bundle
from tests.peers.veraicon_site import VeraiconSite, veraicon_site

_VOLUMES = {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0}
_FAST = "[worker]\nattempts = 2\nfirst_delay_s = 0.1\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VeraiconSite]:
    """One running site with everything embedded, for the inputs that need no other settings."""
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    with veraicon_site(tmp_path_factory.mktemp("site"), free_port, _FAST) as running:
        running.serve()
        yield running


def _pushed(site: VeraiconSite, folder: Path) -> dict[str, Any]:
    """Push a folder and return its job, once it has ended, as `veraicon job list` shows it."""
    uid = str(dcmread(next(iter(sorted(folder.rglob("*.dcm")))), stop_before_pixels=True).SeriesInstanceUID)
    site.push(folder)
    ended = {"failed", "rejected", "attested"}
    for _ in range(600):
        found = [job for job in httpx.get(f"{site.url}/jobs", timeout=10).json() if job["series_uid"] == uid]
        if found and found[0]["state"] in ended:
            return next(job for job in site.jobs() if job["series_uid"] == uid)
        import time

        time.sleep(0.1)
    raise AssertionError(site.log()[-2000:])


def _copy(series: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """Return a changed copy of a series under another Series Instance UID."""
    folder.mkdir()
    for number, path in enumerate(sorted(series.glob("*.dcm"))):
        ds = dcmread(path)
        ds.SeriesInstanceUID = derive_uid(folder.name, "series")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(derive_uid(folder.name, str(number)))
        change(ds)
        ds.save_as(folder / path.name)
    return folder


def test_series_of_an_unknown_patient_fails_then_succeeds_when_the_patient_is_there(
    site: VeraiconSite, data_folder: Callable[[str], Path]
) -> None:
    job = _pushed(site, data_folder("dicom/mr_hippocrop_PGBM-002"))
    assert (job["state"], job["error"]["name"], job["error"]["step"]) == ("failed", "PatientMismatch", "paired")
    assert "PGBM-002" not in json.dumps(job)
    shown = site.run("job", "list").stdout
    assert "PatientMismatch" in shown
    assert "next" in shown
    httpx.post(f"{site.url}/fhir", json=small_bundle("PGBM-002", _VOLUMES), timeout=30).raise_for_status()
    retried = site.run("job", "retry", job["job"][:8])
    assert retried.returncode == 0, retried.stderr
    assert site.await_job(job["job"])["state"] == "attested"


def test_two_patients_with_one_identifier_are_never_guessed_between(
    site: VeraiconSite, data_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    def rename(ds: Any) -> None:
        ds.PatientID = "TWICE"

    for number, system in enumerate(("http://a.example", "http://b.example")):
        bundle = small_bundle("TWICE", {})
        bundle["entry"][0]["resource"]["identifier"][0]["system"] = system
        bundle["entry"][0]["fullUrl"] = f"urn:uuid:6ba7b810-9dad-41d1-80b4-00c04fd4{number:04d}"
        httpx.post(f"{site.url}/fhir", json=bundle, timeout=30).raise_for_status()
    job = _pushed(site, _copy(data_folder("dicom/mr_hippocrop_PGBM-002"), tmp_path / "twice", rename))
    assert (job["state"], job["error"]["name"]) == ("failed", "PatientMismatch")
    assert "2 patients" in job["error"]["found"]


@pytest.mark.parametrize(
    ("folder", "error", "named"),
    [
        ("dicom/mr_siemens_t1post_PGBM-003/T1post", "UnsupportedSeries", "spacing"),
        ("dicom/ct_ge_tilt_irregular", "UnsupportedSeries", "tilt"),
        ("dicom/mr_enhanced_multiframe/Philips", "UnsupportedSeries", "frame"),
    ],
)
def test_series_that_does_not_fit_the_model_is_refused_by_name(
    site: VeraiconSite, data_folder: Callable[[str], Path], folder: str, error: str, named: str
) -> None:
    job = _pushed(site, data_folder(folder))
    assert (job["state"], job["error"]["name"], job["error"]["step"]) == ("failed", error, "received")
    assert named in job["error"]["found"]
    assert job["error"]["allowed"]
    assert job["error"]["next"]


@pytest.mark.requirement("DICOM-READ-004")
def test_series_with_a_missing_slice_is_incomplete(
    site: VeraiconSite, data_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = _copy(
        data_folder("dicom/mr_hippocrop_PGBM-002"), tmp_path / "missing", lambda ds: ds.__delattr__("ImagesInAcquisition")
    )
    sorted(folder.glob("*.dcm"))[9].unlink()
    job = _pushed(site, folder)
    assert (job["state"], job["error"]["name"]) == ("failed", "IncompleteSeries")


def test_value_outside_the_trained_range_is_refused_without_repeating_it(
    site: VeraiconSite, data_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    def rename(ds: Any) -> None:
        ds.PatientID = "HUGE"

    bundle = small_bundle("HUGE", {"hippocampus-volume": 98765.0})
    bundle["entry"][0]["fullUrl"] = bundle["entry"][1]["resource"]["subject"]["reference"] = (
        "urn:uuid:6ba7b810-9dad-41d1-80b4-00c04fd43000"
    )
    httpx.post(f"{site.url}/fhir", json=bundle, timeout=30).raise_for_status()
    job = _pushed(site, _copy(data_folder("dicom/mr_hippocrop_PGBM-002"), tmp_path / "huge", rename))
    assert (job["state"], job["error"]["name"], job["error"]["step"]) == ("failed", "RequestInvalid", "encoded")
    assert "98765" not in json.dumps(job)


def test_missing_fhir_server_and_refusing_pacs_fail_by_name_and_succeed_on_retry(
    tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path]
) -> None:
    nobody = free_port()
    away = f'[fhir]\nbase_url = "http://127.0.0.1:{nobody}/fhir"\n'
    refusing = f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {nobody}\n'
    with veraicon_site(tmp_path / "site", free_port, _FAST + away) as site:
        site.serve()
        site.push(data_folder("dicom/mr_hippocrop_PGBM-002"))
        job = site.await_job()
        assert (job["state"], job["error"]["name"], job["error"]["attempts"]) == ("failed", "PeerUnreachable", 2)
        site.stop()

        site.write_config(_FAST + refusing)
        site.serve()
        httpx.post(f"{site.url}/fhir", json=small_bundle("PGBM-002", _VOLUMES), timeout=30).raise_for_status()
        httpx.post(f"{site.url}/jobs/{job['job']}/retry", timeout=30).raise_for_status()
        job = site.await_job(job["job"])
        assert (job["state"], job["error"]["name"], job["error"]["step"]) == ("failed", "PeerUnreachable", "published")
        site.stop()

        site.write_config(_FAST)
        site.serve()
        httpx.post(f"{site.url}/jobs/{job['job']}/retry", timeout=30).raise_for_status()
        assert site.await_job(job["job"])["state"] == "attested"


def test_weights_with_a_wrong_digest_fail_the_job_by_name_until_they_are_mended(
    tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path]
) -> None:
    good, bundle = bundle_folder("hippocampus-t1"), tmp_path / "bundle"
    shutil.copytree(good, bundle)
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with veraicon_site(tmp_path / "site", free_port, f'[generation]\nmodel = "{bundle}"\n') as site:
        told = site.run("doctor")
        assert told.returncode == 1
        assert "WeightsRejected" in told.stdout
        site.serve()
        httpx.post(f"{site.url}/fhir", json=small_bundle("PGBM-002", _VOLUMES), timeout=30).raise_for_status()
        site.push(data_folder("dicom/mr_hippocrop_PGBM-002"))
        job = site.await_job()
        assert (job["state"], job["error"]["name"]) == ("failed", "WeightsRejected")
        assert "digest" in job["error"]["found"]
        shutil.copy(good / "weights.safetensors", weights)
        httpx.post(f"{site.url}/jobs/{job['job']}/retry", timeout=30).raise_for_status()
        assert site.await_job(job["job"])["state"] == "attested"


def test_unknown_key_in_the_settings_stops_before_start(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path / "site", free_port, "[fhir]\nbase_ulr = 'http://x'\n") as site:
        answered = site.run("serve")
        assert answered.returncode == 78
        assert "fhir.base_ulr" in answered.stderr
        assert "base_url" in answered.stderr
