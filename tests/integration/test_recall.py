"""Recall over a real PACS and a real FHIR server: dry run, execution, kill -9 at each step, resumption, and what is left."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread

from dicom_node.holding.rejecting import read_rejection
from domain.errors import ConsentMissing, OutputRecalled
from provenance.recall_as_fhir import is_recall_of, require_signed
from provenance.recall_notice import read_notice
from tests.builders_recall import publish_output, request_for, source_of
from tests.peers.orthanc import Orthanc, running_dicomweb_orthanc, running_orthanc
from tests.peers.sekmet import running_sekmet
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.settings import load_settings
from veraicon.wiring import open_site

_POINTS = (
    "recall:cancelled",
    "recall:signed",
    "recall:logged",
    "recall:hidden",
    "recall:fhir",
    "recall:note-sent",
    "recall:asked",
    "recall:output",
)
_WHY = ("--reason", "consent", "--note", "withdrawn in writing", "--by", "data steward")


@dataclass(frozen=True)
class Published:
    """A site that has published, and the two servers."""

    site: VeraiconSite
    orthanc: Orthanc
    ehr: str
    requests: list[str]

    def resources(self, kind: str) -> list[dict[str, Any]]:
        """All resources of a type that the FHIR server holds."""
        found = httpx.get(f"{self.ehr}/{kind}", params={"_count": "200"}, timeout=30).raise_for_status().json()
        return [entry["resource"] for entry in found.get("entry", [])]

    def notes(self) -> list[Dataset]:
        """The rejection notes that the PACS holds."""
        series = [one for one in self.orthanc.get("/series?expand") if one["MainDicomTags"]["Modality"] == "KO"]
        return [dcmread(io.BytesIO(self.orthanc.file(uid))) for one in series for uid in one["Instances"]]

    def notices(self) -> list[Path]:
        """Signed notices in the site's folder."""
        return list((self.site.folder / "data" / "recalls").glob("*/notice.recall.jws"))


@pytest.fixture
def published(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Published]:
    for name in ("orthanc", "sekmet"):
        (tmp_path / name).mkdir()
    dicom_port = free_port()
    with (
        running_orthanc(tmp_path / "orthanc", dicom_port=dicom_port, http_port=free_port(), node_port=free_port()) as orthanc,
        running_sekmet(tmp_path / "sekmet", free_port()) as ehr,
        veraicon_site(tmp_path / "site", free_port) as site,
    ):
        destination = (
            f'[[destinations]]\nname = "pacs"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {dicom_port}\n'
            'commitment = "off"\n'
        )
        site.write_config(f'[fhir]\nbase_url = "{ehr}"\n{destination}')
        with open_site(load_settings(site.config)) as parts:
            requests = [publish_output(parts, number) for number in (1, 2)]
        yield Published(site, orthanc, ehr, requests)


def _recall(published: Published, *arguments: str, fault: str = "") -> tuple[int, str]:
    """Run `veraicon recall`; return its exit code, and what it said."""
    process = published.site.start("recall", *arguments, environment={"VERAICON_FAULT": fault} if fault else {})
    return process.wait(timeout=120), published.site.log()[-3000:]


@pytest.mark.requirement("PROV-RECALL-001")
def test_a_recall_that_is_killed_at_each_step_finishes_and_doubles_nothing(published: Published) -> None:
    recalled, other = published.requests
    before = {one["id"]: one for one in published.resources("Provenance")}
    arguments = ("--source-patient", "MRN-1", "--execute", *_WHY)
    code, said = _recall(published, *arguments, fault=_POINTS[0])
    assert code == -signal.SIGKILL, said
    recall = json.loads(published.site.run("recall", "list", "--json").stdout)[0]["recall"]
    for point in _POINTS[1:]:
        code, said = _recall(published, "resume", recall[:8], fault=point)
        assert code == -signal.SIGKILL, f"{point} was not reached: {said}"
    finished = published.site.run("recall", "resume", recall, "--json")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert (told["state"], told["counts"]["outputs"], told["counts"]["instances"]) == ("done", 1, 4)
    assert told["counts"]["copies"] == {"note kept, still shown": 1}, "Orthanc knows no IOCM, and says what it shows"
    _pacs_got_one_note(published, recall)
    _fhir_says_it_once(published, before, recalled, other)
    _notice_is_signed_and_logged_once(published, recalled)
    again = published.site.run("recall", *arguments[:2])
    assert "0 outputs" in again.stderr, "what was recalled is not recalled again"
    assert "1 were recalled before" in again.stderr


def _pacs_got_one_note(published: Published, recall: str) -> None:
    (note,) = published.notes()
    rejection = read_rejection(note)
    assert rejection is not None
    assert (rejection.code, len(rejection.instances), note.SyntheticData) == ("113039", 4, "YES")
    assert recall in note.to_json()
    assert "MRN-1" not in note.to_json()


def _fhir_says_it_once(published: Published, before: dict[str, Any], recalled: str, other: str) -> None:
    with open_site(load_settings(published.site.config)) as parts:
        keys = parts.keyring.public_jwks()
        attested = {one: json.loads(_prepared(published, one)) for one in (recalled, other)}
    references = {one: attested[one]["attestation"]["provenance_reference"] for one in attested}
    for kind in ("ImagingStudy", "DocumentReference", "Device"):
        ids = {
            one: {
                e["resource"]["id"]
                for e in json.loads(attested[one]["bundle"])["entry"]
                if e["resource"]["resourceType"] == kind
            }
            for one in attested
        }
        for resource in published.resources(kind):
            expected = resource["id"] in ids[recalled]
            assert (resource["status"] == "entered-in-error") is expected, kind
            assert resource["id"] in ids[recalled] | ids[other]
    after = published.resources("Provenance")
    superseding = [one for one in after if is_recall_of(one, references[recalled])]
    assert len(superseding) == 1
    assert len(after) == len(before) + 1
    require_signed(superseding[0], keys)
    assert "MRN-1" not in json.dumps(superseding[0])
    for one in after:
        if one["id"] in before:
            assert one["signature"] == before[one["id"]]["signature"], "the first Provenance is not touched"
            require_signed(one, keys)


def _prepared(published: Published, request: str) -> str:
    return (published.site.folder / "data" / "jobs" / request / "prepared-attestation.json").read_text()


def _notice_is_signed_and_logged_once(published: Published, recalled: str) -> None:
    (path,) = published.notices()
    with open_site(load_settings(published.site.config)) as parts:
        notice = read_notice(path.read_text(), parts.keyring.public_jwks())
        parts.log.check()
        kinds = [entry["entry"]["kind"] for entry in parts.log.entries(0, parts.log.head().size)]
    assert kinds.count("recall") == 1
    assert [one.request_id for one in notice.recalled] == [recalled]
    assert notice.recalled[0].attestation.startswith("sha256:")
    assert "MRN-1" not in path.read_text() + json.dumps(notice.selection)


@pytest.mark.requirement("PROV-RECALL-002")
def test_a_dry_run_tells_everything_and_changes_nothing(published: Published) -> None:
    told = json.loads(published.site.run("recall", "--weights", "hippocampus-t1", "--json").stdout)
    assert {one["request"] for one in told["outputs"]} == set(published.requests)
    for one in told["outputs"]:
        (copy,) = one["copies"]
        assert (copy["recipient"], copy["protocol"], copy["accepted"]) == ("pacs", "dicom", True)
        assert copy["would"].startswith("send a rejection note")
    assert published.notes() == []
    assert {one["status"] for one in published.resources("ImagingStudy")} == {"available"}
    assert json.loads(published.site.run("recall", "list", "--json").stdout) == []


@pytest.mark.requirement("PROV-RECALL-003")
def test_a_pacs_that_is_away_keeps_the_recall_open_until_it_is_back(
    tmp_path: Path, free_port: Callable[[], int], published: Published
) -> None:
    """The same site with the PACS's port wrong: all but the PACS is done, and `resume` does the rest."""
    config = published.site.extra_toml
    port = published.orthanc.peer.port
    published.site.write_config(config.replace(f"port = {port}", f"port = {free_port()}\ntimeout_s = 1"))
    first = published.site.run(
        "recall", "--request", published.requests[0], "--execute", "--reason", "quality", "--by", "me", "--json"
    )
    told = json.loads(first.stdout)
    assert (first.returncode, told["state"], told["counts"]["copies"]) == (1, "open", {"not reachable": 1})
    assert told["outputs"][0]["fhir_withdrawn"]
    published.site.write_config(config)
    second = published.site.run("recall", "resume", told["recall"], "--json")
    assert (second.returncode, json.loads(second.stdout)["state"]) == (0, "done")
    (note,) = published.notes()
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"


@pytest.mark.requirement("PROV-RECALL-003")
def test_a_pacs_that_speaks_dicomweb_is_told_and_asked(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with running_dicomweb_orthanc(tmp_path / "web", free_port) as orthanc, veraicon_site(tmp_path / "site", free_port) as site:
        site.write_config(f'[[dicomweb]]\nname = "web"\nurl = "{orthanc.url}/dicom-web"\n')
        with open_site(load_settings(site.config)) as parts:
            publish_output(parts, 1)
        done = site.run(
            "recall", "--request", request_for(1).request_id, "--execute", "--reason", "safety", "--by", "me", "--json"
        )
        told = json.loads(done.stdout)
        (copy,) = told["outputs"][0]["copies"]
        assert (done.returncode, copy["protocol"], copy["state"]) == (0, "dicomweb", "note kept, still shown")
        assert "found by a query; 4 of 4 instances are still shown" in copy["detail"]


@pytest.mark.requirement("PROV-RECALL-004")
def test_nothing_new_is_made_of_a_source_whose_consent_is_withdrawn_until_that_is_lifted(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    with veraicon_site(tmp_path / "site", free_port) as site:
        with open_site(load_settings(site.config)) as parts:
            sent = publish_output(parts, 1, attested=False)
            assert parts.jobs.submit(request_for(1)), "the job of the output is on its way still"
        done = site.run("recall", "--source-patient", "MRN-1", "--execute", *_WHY, "--json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["state"], told["new_requests_refused"]) == (0, "done", True), done.stderr
        assert told["counts"]["copies"] == {"hidden": 1}
        with open_site(load_settings(site.config)) as parts:
            assert parts.jobs.get(sent).state == "cancelled"
            with pytest.raises(OutputRecalled):
                parts.jobs.retry(sent)
            with pytest.raises(OutputRecalled):
                publish_output(parts, 1)
            with pytest.raises(ConsentMissing):
                parts.outputs.require_consent(source_of(1))
            parts.outputs.require_consent(source_of(2))
        assert site.run("recall", "lift", told["recall"][:8], "--by", "data steward").returncode == 0
        with open_site(load_settings(site.config)) as parts:
            parts.outputs.require_consent(source_of(1))
