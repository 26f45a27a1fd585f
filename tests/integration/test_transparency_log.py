"""The log under several processes, kill -9 and a witness over HTTP; keys that are replaced while kill -9 strikes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from domain.errors import VerificationFailed
from fhir_adapter.local.intake import prepare_intake
from provenance.canonical import sha256_digest
from provenance.log_proof import ATTESTATION_ENTRY, proof_to_json, require_logged
from provenance.signatures.keyring import require_valid_at
from provenance.signing import ATTESTATION_KIND, key_id_of, verify
from tests.builders_main_job import small_bundle
from tests.peers.postgresql import running_postgresql
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.asking import request_from
from veraicon.cli import app
from veraicon.key_changes import rotate
from veraicon.settings import Settings, load_settings
from veraicon.site_keys import site_keyring
from veraicon.transparency.evidence import attestations, kept_proofs
from veraicon.wiring import open_log, open_site

_ROOT = Path(__file__).resolve().parents[2]
_APPEND = """
import sys
from pathlib import Path
from veraicon.settings import load_settings
from veraicon.wiring import open_log
with open_log(load_settings(Path(sys.argv[1]))) as (_keys, _key, log):
    print("ready", flush=True)
    sys.stdin.readline()
    for number in map(int, sys.argv[2:]):
        log.enter("attestation", f"header.payload{number}.signature")
"""
_COMMON, _OWN = range(12), 20


def _run(site: VeraiconSite, *arguments: str) -> Result:
    """Run a command in this process, which is faster than a new one."""
    return CliRunner().invoke(app, ["--config", str(site.config), *arguments])


def _append_from_three_processes(site: VeraiconSite) -> None:
    """Each enters what all have in common, and some of its own; all begin at once."""
    with ExitStack() as stack:
        processes = []
        for process in range(3):
            numbers = [*_COMMON, *range(100 * (process + 1), 100 * (process + 1) + _OWN)]
            command = [sys.executable, "-c", _APPEND, str(site.config), *map(str, numbers)]
            started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
            processes.append(stack.enter_context(started))
        for one in processes:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        for one in processes:
            assert one.stdin is not None
            one.stdin.write(b"go\n")
            one.stdin.close()
        assert [one.wait(timeout=120) for one in processes] == [0, 0, 0]


def _everything_is_there_once(settings: Settings) -> None:
    numbers = [*_COMMON, *(100 * (process + 1) + own for process in range(3) for own in range(_OWN))]
    with open_log(settings) as (_keys, key, log):
        assert [one["index"] for one in log.entries(0, 1000)] == list(range(len(numbers)))
        assert log.check().ok
        for number in numbers:
            jws = f"header.payload{number}.signature"
            proof = proof_to_json(log.enter(ATTESTATION_ENTRY, jws))
            require_logged(proof, sha256_digest(jws.encode()), ATTESTATION_ENTRY, key.public_jwks())
        assert log.head().size == len(numbers)


@pytest.mark.requirement("PROV-LOG-002")
def test_processes_that_append_at_once_leave_no_gap_and_no_double(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path / "site", free_port) as site:
        _append_from_three_processes(site)
        _everything_is_there_once(load_settings(site.config))


@pytest.mark.requirement("PROV-LOG-002")
def test_processes_that_append_at_once_to_postgresql_leave_no_gap_and_no_double(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "server").mkdir()
    with (
        running_postgresql(tmp_path / "server", free_port()) as url,
        veraicon_site(tmp_path / "site", free_port) as site,
    ):
        text = site.config.read_text().replace("[storage]\n", f'[storage]\ndatabase_url = "{url}"\n')
        site.config.write_text(text)
        _append_from_three_processes(site)
        _everything_is_there_once(load_settings(site.config))


def _submit(site: VeraiconSite, series: Path) -> str:
    settings = load_settings(site.config)
    with open_site(settings) as parts:
        for path in sorted(series.glob("*.dcm")):
            parts.archive.land(path.read_bytes(), source="PACS")
        volumes = {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0}
        parts.fhir.transact(prepare_intake(small_bundle("PGBM-002", volumes)))
        source = parts.archive.unannounced(0)[0].series_uid
        request = request_from(parts.archive, source, settings.generation, requested_by="test", seed=11)
        assert parts.jobs.submit(request)
    return request.request_id


@pytest.mark.requirement("PROV-LOG-002")
@pytest.mark.requirement("PROV-KEY-002")
def test_an_attestation_that_was_logged_before_kill_minus_nine_is_one_entry_after_it_and_verifies_after_a_rotation(
    tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path], eventually: Callable[..., Any]
) -> None:
    series = data_folder("dicom/mr_hippocrop_PGBM-002")
    with veraicon_site(tmp_path / "site", free_port) as site:
        job = _submit(site, series)
        settings = load_settings(site.config)
        worker = site.start("work", environment={"VERAICON_FAULT": "attested:logged"})
        assert worker.wait(timeout=120) == -signal.SIGKILL, site.log()[-2000:]
        with open_log(settings) as (_keys, _key, log):
            assert log.head().size == 1
        last = site.start("work")
        eventually((settings.storage.folder / "jobs" / job / "attested.json").exists, deadline_s=60)
        last.terminate()
        last.wait(timeout=40)
        with open_log(settings) as (_keys, key, log):
            report = log.check(kept_proofs(settings.storage.folder / "jobs"))
            assert (report.ok, report.size, report.attested) == (True, 1, 1)
            old = key.kid

        assert _run(site, "keys", "rotate").exit_code == 0
        ((_, attestation),) = attestations(settings.storage.folder / "jobs")
        keys = site_keyring(settings).public_jwks()
        assert key_id_of(attestation.jws) == old != keys["keys"][0]["kid"]
        verify(attestation.jws, keys, kind=ATTESTATION_KIND)
        require_valid_at(old, keys, attestation.attested_at)
        require_logged(attestation.log, sha256_digest(attestation.jws.encode()), ATTESTATION_ENTRY, keys)
        proof = json.loads(_run(site, "log", "prove", job[:8]).stdout)
        require_logged(proof, sha256_digest(attestation.jws.encode()), ATTESTATION_ENTRY, keys)
        exported = json.loads(_run(site, "keys", "export").stdout)
        assert exported == keys
        checked = _run(site, "log", "check", "--json")
        assert (checked.exit_code, json.loads(checked.stdout)["size"]) == (0, 3), checked.stderr


@pytest.mark.requirement("PROV-KEY-002")
@pytest.mark.parametrize("point", ["rotate:made", "rotate:logged", "rotate:told", "rotate:retired"])
def test_a_rotation_that_is_killed_leaves_a_site_that_signs_and_is_finished_by_the_next(
    tmp_path: Path, free_port: Callable[[], int], point: str
) -> None:
    with veraicon_site(tmp_path / "site", free_port) as site:
        settings = load_settings(site.config)
        with open_log(settings) as (_keys, key, log):
            log.enter(ATTESTATION_ENTRY, "header.first.signature")
            old = key.kid
        killed = site.start("keys", "rotate", environment={"VERAICON_FAULT": point})
        assert killed.wait(timeout=60) == -signal.SIGKILL, site.log()
        with open_log(settings) as (_keys, key, log):
            log.enter(ATTESTATION_ENTRY, "header.second.signature")
            assert (key.kid == old) is (point != "rotate:retired")
        with open_log(settings) as (store, key, log):
            rotated = rotate(store, log)
            # Cut short before the retirement, it is finished; after it, it was finished, and this is another one.
            assert rotated.leaf == {"rotate:made": 2, "rotate:logged": 1, "rotate:told": 1, "rotate:retired": 4}[point]
            assert key.kid == rotated.new
            assert old in [one.kid for one in store.retired_keys()]
            assert log.check().ok
        assert sorted(path.name for path in (settings.storage.folder / "keys").glob("*.next")) == []


@pytest.mark.requirement("PROV-LOG-004")
def test_a_witness_over_http_follows_the_log_through_a_rotation_and_finds_it_set_back(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with veraicon_site(tmp_path / "site", free_port, "[worker]\nembedded = false\n") as site:
        settings, kept = load_settings(site.config), tmp_path / "kept.json"
        with open_log(settings) as (_keys, _key, log):
            for number in range(3):
                log.enter(ATTESTATION_ENTRY, f"header.payload{number}.signature")
        serving = site.serve()
        first = _run(site, "log", "witness", str(kept), "--url", site.url)
        assert (first.exit_code, "seen for the first time" in first.stdout) == (0, True), first.stderr
        assert _run(site, "keys", "rotate").exit_code == 0
        served = httpx.get(f"{site.url}/.well-known/jwks.json", timeout=10).json()["keys"]
        assert [set(one) - set(served[0]) for one in served] == [set(), {"exp"}]
        second = _run(site, "log", "witness", str(kept), "--url", site.url, "--json")
        assert (json.loads(second.stdout)["before"], json.loads(second.stdout)["size"]) == (3, 5), second.stderr
        assert _run(site, "log", "check", "--head", str(kept)).exit_code == 0
        serving.terminate()
        serving.wait(timeout=40)

        (settings.storage.folder / "veraicon.sqlite").unlink()
        for left in settings.storage.folder.glob("veraicon.sqlite-*"):
            left.unlink()
        for command in (("log", "witness", str(kept)), ("log", "check", "--head", str(kept))):
            refused = _run(site, *command).exception
            assert isinstance(refused, VerificationFailed), refused
            assert "another log" in refused.found
