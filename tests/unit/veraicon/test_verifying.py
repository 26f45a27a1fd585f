"""`veraicon verify` of files and folders, as a receiver has them: keys, no site, and whatever lies there."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.calling.remote import RemoteSeries
from domain.errors import RequestInvalid
from provenance.attest import PROV_NAME, SIDECAR_NAME
from provenance.checks.names import MEANINGS
from provenance.report import VerificationReport
from provenance.signing import STATEMENT_KIND
from tests.builders_provenance import NOW
from tests.builders_tamperings import (
    BUNDLE,
    KEY,
    PROVENANCE,
    Case,
    attestation,
    forked_before,
    key_with,
    log_proof,
    publish_into,
    recall,
    signed_again,
)
from veraicon.verifying.files import examine_files
from veraicon.verifying.peers import _counted
from veraicon.verifying.targets import verify

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs" / "provenance.md"
# The payload of an attestation whose request is no text that can be written down.
HALF_A_CHARACTER = base64.urlsafe_b64encode(b'{"statement":{"requestId":"\\ud800"}}').rstrip(b"=")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two requests in folders beside each other."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("request-1", "request-2"):
        publish_into(folder / name, name)
    (folder.parent / "jwks.json").write_text(json.dumps(KEY.public_jwks()), encoding="utf-8")
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "received"))


def check(target: Path, published: Path) -> VerificationReport:
    def none() -> None:
        raise AssertionError("no settings are needed with keys and offline")

    return verify(target, settings=none, keys=published.parent / "jwks.json", offline=True)  # type: ignore[arg-type]


def false(report: VerificationReport) -> set[str]:
    return {claim.name for part in (report.parts or (report,)) for claim in part.false}


@pytest.mark.requirement("PROV-VERIFY-006")
def test_a_folder_of_two_requests_has_a_report_for_each_series(folder: Path, published: Path) -> None:
    report = check(folder, published)
    assert report.verdict, false(report)
    assert [part.subject for part in report.parts] == ["series"] * 6
    assert len({part.about for part in report.parts}) == 6
    for claim in ("in-log", "provenance-about-series", "attestation-about-series", "resources", "prov-json"):
        assert report[claim].truth.value == "true", report[claim]
    told = report.to_json()
    assert (told["subject"], len(told["reports"])) == ("folder", 6)


@pytest.mark.requirement("PROV-VERIFY-006")
def test_one_bad_series_among_many_makes_the_folder_false_and_leaves_the_others_true(folder: Path, published: Path) -> None:
    case = Case(folder / "request-2", {})
    case.edit(0, lambda ds: setattr(ds, "PatientName", "Real^Person"))
    report = check(folder, published)
    assert not report.verdict
    assert [part.verdict for part in report.parts].count(False) == 1
    assert false(report) == {"attributes"}


@pytest.mark.requirement("PROV-VERIFY-006")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.dcm", b""),
        ("text.dcm", b"hello"),
        ("preamble.dcm", b"\0" * 128 + b"DICM"),
        ("noise", b"\0" * 128 + b"DICM" + bytes(range(256)) * 40),
        (
            "deep.dcm",
            b"\0" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff" + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" * 9,
        ),
        (SIDECAR_NAME, b"{"),
        (SIDECAR_NAME, b"[]"),
        (SIDECAR_NAME, b'{"version":"veraicon-sidecar/2","jws":7,"log":[]}'),
        (SIDECAR_NAME, b'{"a":' * 100_000),
        (PROVENANCE, b'{"resourceType":"Provenance","id":"x","signature":[7],"activity":5}'),
        ("copy.json", b'{"version":"veraicon-sidecar/2","jws":"a.' + HALF_A_CHARACTER + b'.b","log":{}}'),
        ("copy.json", b'{"version":"veraicon-sidecar/2","jws":'),
        (PROV_NAME, b'{"activity":[1]}'),
        (PROV_NAME, '{"activity":{}}'.encode("utf-16")),
        ("IM0099", b"\x08\0\x16\0UI\x04\0" + b"1.2\0" * 40),
        (BUNDLE, b'{"resourceType":"Bundle","entry":[7,{"resource":{"resourceType":"Provenance","id":"y"}}]}'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_or_hostile_file_is_told_and_never_a_crash(
    folder: Path, published: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (folder / "request-1" / "series" / name).write_bytes(content)
    report = check(folder, published)
    assert not report.verdict
    assert sum(part.verdict for part in report.parts) == 6, "the others are as they were"
    alone = tmp_path / "alone" / name
    alone.parent.mkdir()
    alone.write_bytes(content)
    assert not check(alone, published).verdict


def test_what_is_nothing_of_ours_is_passed_over_in_a_folder(folder: Path, published: Path) -> None:
    (folder / "README.txt").write_text("x")
    (folder / "other.json").write_text("{")
    (folder / "patient.json").write_text('{"resourceType":"Patient","id":"p"}')
    (folder / "jwks.json").write_text(json.dumps(KEY.public_jwks()))
    report = check(folder, published)
    assert report.verdict
    told = next(part for part in report.parts if part.about == "passed over")
    assert told["readable"].why.startswith("3 files and 1 FHIR resources are nothing that was published")
    (folder / "empty").mkdir()
    with pytest.raises(RequestInvalid, match="nothing to verify"):
        check(folder / "empty", published)


def test_a_second_provenance_that_differs_is_not_passed_over(folder: Path, published: Path) -> None:
    case = Case(folder / "request-1", {})
    changed = case.json(PROVENANCE) | {"recorded": "2020-01-01T00:00:00Z"}
    case.write("series/another.json", changed)
    assert false(check(folder, published)) >= {"provenance-signed"}


def test_the_copy_that_a_server_gave_back_is_the_same_provenance(folder: Path, published: Path) -> None:
    case = Case(folder / "request-1", {})
    case.edit_json(PROVENANCE, lambda one: one["meta"].update(versionId="1", lastUpdated="2025-03-04T05:06:08Z"))
    report = check(folder, published)
    assert report.verdict
    assert [part.subject for part in report.parts] == ["series"] * 6


def test_a_bundle_alone_holds_provenance_sidecar_and_resources(published: Path, tmp_path: Path) -> None:
    alone = tmp_path / "b" / "received.json"
    alone.parent.mkdir()
    shutil.copy(published / "request-1" / BUNDLE, alone)
    report = check(alone, published)
    assert report.verdict, report.to_json()
    for claim in ("provenance-signed", "attestation-signed", "in-log", "resources", "model-card", "times-in-order"):
        assert report[claim].truth.value == "true", report[claim]


def _renamed(bundle: dict[str, Any]) -> None:
    for one in bundle["entry"]:
        if one["resource"]["resourceType"] == "Patient":
            one["resource"]["name"] = [{"family": "REAL"}]


def _only_a_stranger(bundle: dict[str, Any]) -> None:
    bundle["entry"] = [{"resource": {"resourceType": "Observation", "id": "x", "status": "final"}}]


def _with_a_forged_provenance(bundle: dict[str, Any]) -> None:
    true = next(one for one in bundle["entry"] if one["resource"]["resourceType"] == "Provenance")
    bundle["entry"].append({"resource": true["resource"] | {"recorded": "2020-01-01T00:00:00Z"}})


@pytest.mark.requirement("PROV-VERIFY-006")
@pytest.mark.parametrize("change", [_renamed, _only_a_stranger, _with_a_forged_provenance])
def test_a_bundle_is_judged_itself_whatever_true_ones_lie_beside_it(
    folder: Path, published: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    case = Case(folder / "request-1", {})
    named = case.json(BUNDLE)
    change(named)
    case.write("evil.json", named)
    assert not check(case.folder / "evil.json", published).verdict


def test_one_file_is_judged_with_what_contradicts_it_beside_it(folder: Path, published: Path) -> None:
    case = Case(folder / "request-1", {})
    assert check(case.files[0], published).verdict
    case.edit_json(BUNDLE, _with_a_forged_provenance)
    assert false(check(case.files[0], published)) >= {"provenance-signed"}
    (case.folder / SIDECAR_NAME).write_text("{broken")
    assert false(check(case.files[0], published)) >= {"readable"}


def test_a_recall_is_found_however_the_target_is_named(folder: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(folder / "request-1", {})
    recall(case)
    monkeypatch.chdir(case.folder / "series")
    for target in (Path(), Path("00000.dcm")):
        assert false(check(target, published)) == {"not-recalled"}


def test_a_deflated_file_is_not_inflated_without_end(folder: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "request-1" / "series" / "00000.dcm"
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    assert check(path, published).verdict
    monkeypatch.setattr("veraicon.verifying.files._MAX_INFLATED_BYTES", 1000)
    monkeypatch.setattr("veraicon.verifying.files._MAX_INFLATED_TIMES", 1)
    assert false(check(path, published)) >= {"statement-present"}


def test_a_hostile_block_at_a_peer_counts_as_ours_and_does_not_end_the_check() -> None:
    class Hostile(Dataset):
        def keys(self) -> Any:
            raise NotImplementedError("a value representation that nobody knows")

    class OneInstance:
        def references(self, _query: object) -> list[str]:
            return ["one"]

        def read(self, _reference: str) -> Dataset:
            return Hostile()

    carrying: Counter[bool] = Counter()
    assert len(list(_counted(OneInstance(), RemoteSeries("1.2", "1.2.3"), carrying))) == 1  # type: ignore[arg-type]
    assert carrying[True] == 1


def test_several_processes_find_the_same_as_one(folder: Path, published: Path) -> None:
    keys = KEY.public_jwks()
    files = sorted(folder.rglob("*.dcm")) * 4
    done: list[int] = []
    several = examine_files(files, keys, processes=2, tell=done.append)
    assert several == examine_files(files, keys, processes=1)
    assert sorted(done)[-1] == len(files)


@pytest.mark.requirement("PROV-VERIFY-007")
def test_the_script_in_the_docs_checks_a_sidecar_without_us(folder: Path, published: Path, tmp_path: Path) -> None:
    script = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert script
    assert not re.search(r"provenance|veraicon|domain", "\n".join(re.findall(r"^(?:import|from) .*$", script[1], re.MULTILINE)))
    program = tmp_path / "check.py"
    program.write_text(script[1], encoding="utf-8")
    sidecar, keys = folder / "request-1" / SIDECAR_NAME, published.parent / "jwks.json"
    command = [sys.executable, "-I", str(program), str(sidecar), str(keys)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 instances" in done.stdout
    changed = json.loads(sidecar.read_text())
    changed["log"]["path"][0] = "sha256:" + "0" * 64
    sidecar.write_text(json.dumps(changed))
    assert subprocess.run(command, capture_output=True, text=True).returncode != 0


@pytest.mark.requirement("PROV-VERIFY-007")
@pytest.mark.parametrize("what", ["revoked", "stopped", "another kind", "no head before", "another past"])
def test_the_script_in_the_docs_refuses_what_we_refuse(folder: Path, published: Path, tmp_path: Path, what: str) -> None:
    script = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    case = Case(folder / "request-1", KEY.public_jwks())
    early = int((NOW - timedelta(days=1)).timestamp())
    change = {
        "revoked": key_with(revoked={"revoked_at": early, "reason": "compromised"}),
        "stopped": key_with(exp=early),
        "another kind": attestation(signed_again(STATEMENT_KIND)),
        "no head before": log_proof(lambda one: one.update(previous=None, consistency=[])),
        "another past": log_proof(forked_before),
    }
    assert script
    keys = tmp_path / "keys.json"
    command = [sys.executable, "-I", "-c", script[1], str(case.folder / SIDECAR_NAME), str(keys)]
    keys.write_text(json.dumps(case.keys), encoding="utf-8")
    assert subprocess.run(command, capture_output=True).returncode == 0
    change[what](case)
    keys.write_text(json.dumps(case.keys), encoding="utf-8")
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_each_claim_is_explained_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert [name for name, meaning in MEANINGS.items() if f"| `{name}` | {meaning} |" not in text] == []


@pytest.mark.requirement("PROV-VERIFY-004")
def test_the_command_needs_no_library_of_the_server(folder: Path, published: Path) -> None:
    """As where only the verifier is installed: whatever the server needs beside it cannot be imported."""
    blocked = "sqlalchemy sqlmodel alembic dbos pynetdicom highdicom fastapi uvicorn httpx fhir torch monai nibabel matplotlib"
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked.split()!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['veraicon', 'verify', {str(folder)!r}, '--keys', {str(published.parent / 'jwks.json')!r}, '--json']\n"
        "import runpy; runpy.run_module('veraicon', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["verdict"] is True
