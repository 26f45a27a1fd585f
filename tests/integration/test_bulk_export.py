"""Cohorts from a real server's bulk export over HTTP, and from one that misbehaves where the real one cannot be told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from domain.errors import PeerAnswerInvalid, RequestInvalid, VerificationFailed
from fhir_adapter.json_text import write_json
from fhir_adapter.server.bulk_export import BulkClient, ExportRequest
from tests.builders_fhir import observation, patient
from tests.conftest import free_port  # noqa: F401 (a fixture)
from tests.peers.http_stub import stub
from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import veraicon_site
from veraicon.cohort_facts import write_facts
from veraicon.cohorts import pull, read_cohort, require_unchanged

SALT = b"0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def ehr(tmp_path_factory: pytest.TempPathFactory, data_folder: Callable[[str], Path]) -> Iterator[str]:
    """sekmet with one Synthea patient, one opted out, and a Group of the first."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running_sekmet(tmp_path_factory.mktemp("sekmet"), port) as url:
        folder = data_folder("fhir/synthea-r4")
        for path in [*sorted(folder.glob("*Information*.json")), next(folder.glob("Michele_Wolf*.json"))]:
            httpx.post(url, json=json.loads(path.read_text()), timeout=120).raise_for_status()
        restricted = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
        _put(url, patient(id="opted-out", meta={"security": [restricted]}))
        _put(url, observation(id="of-opted-out", subject={"reference": "Patient/opted-out"}))
        _put(url, {"resourceType": "Group", "id": "one", "type": "person", "actual": True,
                   "member": [{"entity": {"reference": "Patient/opted-out"}}]})  # fmt: skip
        yield url


def _put(url: str, resource: dict[str, object]) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    where = f"{url}/{resource['resourceType']}/{resource['id']}"
    httpx.put(where, content=write_json(resource), headers=headers, timeout=20).raise_for_status()


@pytest.mark.requirement("FHIR-BULK-001")
def test_a_site_pulls_a_cohort_and_makes_a_table_of_facts_without_names(
    ehr: str,
    tmp_path: Path,
    free_port: Callable[[], int],  # noqa: F811
) -> None:
    with veraicon_site(tmp_path, free_port) as site:
        site.write_config(f'[fhir]\nbase_url = "{ehr}"\n')
        folder, table = tmp_path / "cohort", tmp_path / "facts.jsonl"
        pulled = site.run("cohort", "pull", "--to", str(folder), "--all-patients", "--json")
        assert pulled.returncode == 0, pulled.stdout + pulled.stderr
        told = json.loads(pulled.stdout)
        assert (told["complete"], told["deleted_on_server"], told["bad_lines"]) == (True, True, [])
        counted = httpx.get(f"{ehr}/Observation", params={"_summary": "count"}).json()["total"]
        assert next(one["lines"] for one in told["files"] if one["type"] == "Observation") == counted
        made = site.run("cohort", "facts", str(folder), "--to", str(table), "--json")
        assert made.returncode == 0, made.stdout + made.stderr
        counts = json.loads(made.stdout)
        assert (counts["patients"], list(counts["excluded"].values())) == (1, [1]), counts
        rows = [json.loads(line) for line in table.read_text().splitlines()]
        assert len(rows) == counts["facts"] > 100
        assert len({row["patient"] for row in rows}) == 1
        for canary in ("Wolf", "Michele", "Patient/", "opted-out", "Observation/"):
            assert canary not in table.read_text(), canary


@pytest.mark.requirement("FHIR-BULK-001")
def test_a_group_and_types_narrow_what_is_pulled(ehr: str, tmp_path: Path) -> None:
    with BulkClient(ehr) as client:
        cohort = pull(client, ExportRequest(group="one", types=("Observation",)), tmp_path / "c")
    assert {(one.of.resource_type, one.arrived and one.arrived.lines) for one in cohort.files} == {
        ("Observation", 1), ("Patient", 1)}  # fmt: skip


@pytest.mark.requirement("FHIR-BULK-002")
@pytest.mark.parametrize("stop_at", range(4))
def test_a_pull_that_was_killed_goes_on_and_a_forgotten_export_is_asked_for_again(
    ehr: str, tmp_path: Path, stop_at: int
) -> None:
    """Killed before the export was ready, or in the middle of file 1, 2 or 3; and then the server has forgotten it."""

    class Killed(BaseException):
        pass

    class Dying(BulkClient):
        fetched = 0

        def download(self, file, path, *, with_token):
            self.fetched += 1
            if self.fetched == stop_at:
                path.write_bytes(b'{"resourceType": "Pat')
                raise Killed
            return super().download(file, path, with_token=with_token)

        def status(self, status_url):
            if stop_at == 0:
                raise Killed
            return super().status(status_url)

    folder, asked = tmp_path / "c", ExportRequest(types=("Condition", "Encounter"))
    with Dying(ehr) as dying, pytest.raises(Killed):
        pull(dying, asked, folder)
    if stop_at == 2:
        with BulkClient(ehr) as other:
            other.delete(read_cohort(folder).status_url)
    with BulkClient(ehr) as client:
        cohort = pull(client, asked, folder)
        assert pull(client, asked, folder) == cohort, "a repeat of a finished pull asks nothing"
        with pytest.raises(RequestInvalid):
            pull(client, ExportRequest(), folder)
    assert cohort.complete
    assert cohort.exports == (2 if stop_at == 2 else 1)
    require_unchanged(cohort, folder)
    first = folder / cohort.files[0].name
    first.write_bytes(first.read_bytes().replace(b"Condition", b"condition", 1))
    with pytest.raises(VerificationFailed, match="not what the server sent"):
        require_unchanged(cohort, folder)


def _served(files: dict[str, bytes], manifest: dict[str, object], seen: list[tuple[str, str | None]]):
    """A server that is done at once."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        base = f"http://{handler.headers['Host']}"
        seen.append((handler.path.split("?")[0], handler.headers.get("Authorization")))
        content, status = b"", 200
        if "$export" in handler.path:
            status = 202
        elif handler.path == "/status":
            content = json.dumps(manifest).replace("BASE", base).encode()
        else:
            content = files[handler.path]
        handler.send_response(status)
        handler.send_header("Content-Location", f"{base}/status")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def _lines(*resources: object) -> bytes:
    return b"".join(write_json(one).encode() + b"\n" for one in resources)


@pytest.mark.requirement("FHIR-BULK-003")
def test_bad_lines_are_named_by_number_deletions_are_honoured_and_the_token_goes_only_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    gone = {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": "DELETE", "url": "Patient/p2"}}]}
    files = {
        "/p": _lines(patient(id="p1"), patient(id="p2")) + b'{"resourceType": "Patient", "name": "Secret\n',
        "/o": _lines(
            observation(subject={"reference": "Patient/p1"}),
            patient(id="p3"),
            observation("o9", subject={"reference": "https://other.example/fhir/Patient/p1"}),
        ),
        "/d": _lines(gone),
        "/e": _lines({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}),
    }
    manifest = {
        "transactionTime": "2026-03-01T00:00:00Z", "request": "r", "requiresAccessToken": False,
        "output": [{"type": "Patient", "url": "BASE/p"}, {"type": "Observation", "url": "BASE/o", "count": 3}],
        "deleted": [{"type": "Bundle", "url": "BASE/d"}], "error": [{"type": "OperationOutcome", "url": "BASE/e"}],
    }  # fmt: skip
    seen: list[tuple[str, str | None]] = []
    folder = tmp_path / "c"
    with stub(_served(files, manifest, seen)) as url, BulkClient(url, bearer_token=lambda: "secret-token") as client:
        cohort = pull(client, ExportRequest(), folder)
    assert cohort.bad_lines() == ["Patient.0001.ndjson line 3", "Observation.0002.ndjson line 2"]
    assert cohort.released is False, "the stub takes no DELETE"
    assert {path: token for path, token in seen if path in files} == dict.fromkeys(files)
    assert ("/status", "Bearer secret-token") in seen
    report = write_facts([folder], tmp_path / "facts.jsonl", salt=SALT)
    assert report.patients == 1, report
    assert report.left_out["line that is no such resource"] == 2
    assert (report.facts, report.left_out["resource of no patient"]) == (1, 1), "another server's Patient/p1 is somebody else"
    assert "Secret" not in (folder / "cohort.json").read_text()


@pytest.mark.requirement("FHIR-BULK-003")
@pytest.mark.parametrize(
    ("output", "found"),
    [
        ([{"type": "Patient", "url": "https://elsewhere.example/p"}], "not listed"),
        ([{"type": "../../etc", "url": "BASE/p"}], "manifest"),
        ([{"type": "Patient", "url": "BASE/p", "count": 5}], "counts 5"),
    ],
)
def test_a_manifest_that_leads_elsewhere_or_counts_wrong_is_refused(tmp_path: Path, output: object, found: str) -> None:
    manifest = {"transactionTime": "2026-03-01T00:00:00Z", "requiresAccessToken": True, "output": output}
    with (
        stub(_served({"/p": _lines(patient())}, manifest, [])) as url,
        BulkClient(url) as client,
        pytest.raises(PeerAnswerInvalid, match=found),
    ):
        pull(client, ExportRequest(), tmp_path / "c")
    assert not list((tmp_path / "c").glob("Patient*"))
