"""Cohorts: what a bulk export may hold, who can read it, and what bad manifests and files end in; no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.errors import PeerAnswerInvalid, PeerUnreachable, RequestInvalid, VerificationFailed
from fhir_adapter.server.bulk_export import BulkClient, ExportRequest
from fhir_adapter.server.bulk_files import ExportFile
from fhir_adapter.server.retrying import RetryPolicy
from veraicon.cohort_facts import write_facts
from veraicon.cohorts import pull, read_cohort

BASE = "https://ehr.example/fhir"
TIME = "2026-03-01T00:00:00Z"
SALT = b"0123456789abcdef0123456789abcdef"


def lines(*resources: object) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in resources)


def gone(url: str) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "transaction", "entry": [{"request": {"method": "DELETE", "url": url}}]}


def patient(identity: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": identity}


def pulled(
    folder: Path, files: dict[str, bytes], *, deleted: bytes | None = None, looks: Callable[[], None] = lambda: None
) -> Any:
    """Pull what a server holds that is done at once; `looks` is called while a file is fetched."""
    manifest: dict[str, Any] = {"transactionTime": TIME, "requiresAccessToken": False}
    manifest["output"] = [{"type": kind, "url": f"{BASE}/{kind}"} for kind in files]
    manifest["deleted"] = [{"url": f"{BASE}/deleted"}] if deleted is not None else []
    return from_server(folder, manifest, files | {"deleted": deleted or b""}, looks)


def from_server(
    folder: Path, manifest: object, files: dict[str, bytes] | None = None, looks: Callable[[], None] = lambda: None
) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        if "$export" in request.url.path:
            return httpx.Response(202, headers={"Content-Location": f"{BASE}/status"})
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json=manifest)
        looks()
        return httpx.Response(200, content=(files or {})[request.url.path.removeprefix("/fhir/")])

    return pull(client_of(answer), ExportRequest(), folder, sleep=_no_pause)


def _no_pause(_seconds: float) -> None:
    raise AssertionError("nothing is to be waited for")


def client_of(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> BulkClient:
    client = BulkClient(BASE, sleep=lambda _seconds: None, **more)
    client._wire._http = httpx.Client(transport=httpx.MockTransport(answer))
    return client


@pytest.mark.requirement("FHIR-BULK-003")
@pytest.mark.parametrize("time", ["", None, "yesterday", "2026-03-01", "2026-03-01T00:00:00", "2026-02-30T00:00:00Z", 5])
def test_a_manifest_whose_time_is_no_instant_is_refused_at_once(tmp_path: Path, time: object) -> None:
    with pytest.raises(PeerAnswerInvalid, match="transactionTime"):
        from_server(tmp_path / "c", {"transactionTime": time, "requiresAccessToken": False, "output": []})


def test_a_folder_that_kept_such_a_time_is_refused_by_name(tmp_path: Path) -> None:
    pulled(tmp_path / "c", {"Patient": lines(patient("p1"))})
    kept = tmp_path / "c" / "cohort.json"
    kept.write_text(kept.read_text().replace(TIME, "yesterday"))
    with pytest.raises(RequestInvalid):
        read_cohort(tmp_path / "c")


@pytest.mark.requirement("FHIR-BULK-003")
@pytest.mark.parametrize("url", ["Patient/p2", f"{BASE}/Patient/p2", "Patient/p2/_history/3"])
def test_what_the_server_deleted_is_gone_however_it_is_named(tmp_path: Path, url: str) -> None:
    held = {"Patient": lines(patient("p1"), patient("p2"))}
    pulled(tmp_path / "c", held, deleted=lines(gone(url)))
    assert write_facts([tmp_path / "c"], tmp_path / "facts", salt=SALT).patients == 1


@pytest.mark.requirement("FHIR-BULK-003")
@pytest.mark.parametrize(
    "line",
    [b"{\n", b"[]\n", b'"x"\n', lines(patient("p2")), lines(gone("Patient?name=x")), lines(gone("https://other.example/Patient/p2")),
     lines({"resourceType": "Bundle", "entry": [{}]})],
)  # fmt: skip
def test_a_line_that_does_not_say_what_was_deleted_stops_the_table(tmp_path: Path, line: bytes) -> None:
    pulled(tmp_path / "c", {"Patient": lines(patient("p1"))}, deleted=lines(gone("Patient/p9")) + line)
    with pytest.raises(VerificationFailed, match="line 2"):
        write_facts([tmp_path / "c"], tmp_path / "facts", salt=SALT)
    assert not (tmp_path / "facts").exists()


@pytest.mark.requirement("FHIR-BULK-003")
def test_resources_without_an_id_are_bad_lines_and_not_one_resource(tmp_path: Path) -> None:
    bad = [{"resourceType": "Patient"}, {"resourceType": "Patient", "id": 7}, patient("a/b"), patient("")]
    cohort = pulled(tmp_path / "c", {"Patient": lines(patient("p1"), *bad)})
    assert [line.rpartition(" ")[2] for line in cohort.bad_lines()] == ["2", "3", "4", "5"]


@pytest.mark.requirement("FHIR-BULK-001")
def test_nobody_else_can_read_a_cohort_at_any_moment_even_in_a_folder_that_was_open(tmp_path: Path) -> None:
    folder, modes = tmp_path / "c", set[int]()
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)

    def looks() -> None:
        modes.update(path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir()))

    pulled(folder, {"Patient": lines(patient("p1")), "Observation": b""}, looks=looks)
    looks()
    assert modes == {0}


@pytest.mark.requirement("FHIR-BULK-001")
def test_the_part_of_a_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    modes = []

    class Coming(httpx.SyncByteStream):
        def __iter__(self):
            yield b"{}"
            modes.extend(path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.part"))

    manifest = {"transactionTime": TIME, "requiresAccessToken": False, "output": [{"type": "Patient", "url": f"{BASE}/p"}]}

    def answer(request: httpx.Request) -> httpx.Response:
        if "$export" in request.url.path:
            return httpx.Response(202, headers={"Content-Location": f"{BASE}/status"})
        return httpx.Response(200, json=manifest) if "status" in request.url.path else httpx.Response(200, stream=Coming())

    pull(client_of(answer), ExportRequest(), tmp_path / "c")
    assert modes == [0o600]


@pytest.mark.requirement("FHIR-BULK-002")
def test_a_second_pull_into_the_same_folder_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    refused = []

    def looks() -> None:
        with pytest.raises(RequestInvalid, match="another pull") as caught:
            pulled(tmp_path / "c", {})
        refused.append(caught)

    assert pulled(tmp_path / "c", {"Patient": lines(patient("p1"))}, looks=looks).complete
    assert len(refused) == 1


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RequestInvalid, match="other files"):
        pulled(tmp_path, {})
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("headers", "body", "found"),
    [({}, b" " * (17 << 20), "more than"), ({"Content-Encoding": "gzip"}, b"no gzip", "does not decode")],
)
def test_an_answer_without_bounds_is_refused(headers: dict[str, str], body: bytes, found: str) -> None:
    class Coming(httpx.SyncByteStream):
        def __iter__(self):
            yield body

    client = client_of(lambda _request: httpx.Response(200, headers=headers, stream=Coming()))
    with pytest.raises(PeerAnswerInvalid, match=found):
        client.status(f"{BASE}/status")


def test_a_file_that_drips_is_given_up(tmp_path: Path) -> None:
    now = [0.0]

    class Drip(httpx.SyncByteStream):
        def __iter__(self):
            for _ in range(100):
                now[0] += 1
                yield b" "

    client = client_of(
        lambda _request: httpx.Response(200, stream=Drip()), monotonic=lambda: now[0], retry=RetryPolicy(attempts=1)
    )
    with pytest.raises(PeerUnreachable, match="ReadTimeout"):
        client.download(ExportFile("output", "Patient", f"{BASE}/p"), tmp_path / "p", with_token=False)
