"""What a whole PACS holds of ours, verified by query over DIMSE and DICOMweb: changed, stripped, refiled, cut short, lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydicom import Dataset
from sqlmodel import Session

from dicom_node.holding.files import to_part10
from domain.attestation import ProvenanceStatement
from domain.errors import RequestInvalid
from domain.generation import Receipt
from domain.identifiers import PatientIdentifier
from provenance.as_dicom import block_tags, embed_series
from provenance.recall_notice import RecallReason
from provenance.signing import SigningKey
from provenance.statement import provenance_reference, sign_statement
from tests.builders_provenance import make_instance, make_series, make_statement
from tests.peers.orthanc import Orthanc, running_dicomweb_orthanc
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.commands.checking import require_one
from veraicon.peers import named_remote
from veraicon.recall.outputs import Outputs
from veraicon.recall.records import Recalls
from veraicon.recall.selection import Selection
from veraicon.recall.tables import OutputRow
from veraicon.settings import load_settings
from veraicon.verifying.book import expected_at, recalled_series
from veraicon.verifying.peers import PeerQuery, PeerVerification, SeriesStanding
from veraicon.wiring import open_site

_SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
[[dicomweb]]
name = "web"
url = "{url}/dicom-web"
"""
_PROTOCOLS = {"pacs": "dicom", "web": "dicomweb"}
# What was done to each series on its way into the PACS or in it, what has to be said of it, and the claim that breaks.
_EXPECTED: dict[str, tuple[str, str]] = {
    "whole": ("verified", ""),
    "unbooked": ("verified", ""),
    "pixel": ("false", "pixel-data"),
    "stripped": ("false", "statement-present"),
    "refiled": ("false", "attributes"),
    "short": ("false", "series-complete"),
    "lost": ("missing", ""),
    "recalled": ("recalled, still there", ""),
    "person": ("not ours", ""),
}
# Recalled, and deleted by the PACS as it was asked to: nothing is to be said of it.
_GONE = "gone"


@dataclass(frozen=True)
class Held:
    """A site whose PACS has had an accident, and the UID of each series by what was done to it."""

    site: VeraiconSite
    orthanc: Orthanc
    series: dict[str, str]
    studies: dict[str, str]

    def verify(self, peer: str, keys: Mapping[str, Any] | None = None, **query: str) -> list[SeriesStanding]:
        settings = load_settings(self.site.config)
        with open_site(settings) as parts:
            known = keys or parts.keyring.public_jwks()
            expected, recalled = expected_at(parts.engine, peer), recalled_series(parts.engine)
        verification = PeerVerification(named_remote(settings, peer), known, settings.provenance.issuer, expected, recalled)
        return list(verification.run(PeerQuery(**query)))

    def counts(self, peer: str, keys: Mapping[str, Any] | None = None, **query: str) -> Counter[str]:
        return Counter(one.standing.value for one in self.verify(peer, keys, **query))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    folder = tmp_path_factory.mktemp("verify-peer")
    with running_dicomweb_orthanc(folder / "orthanc", free_port) as orthanc:
        settings = _SETTINGS.format(port=orthanc.peer.port, url=orthanc.url)
        with veraicon_site(folder / "site", free_port, settings) as site:
            with open_site(load_settings(site.config)) as parts:
                made = {name: _made(name, parts.key) for name in (*_EXPECTED, _GONE)}
                outputs = Outputs(parts.engine, b"a salt of thirty-two bytes, at least")
                for name, (_, statement) in made.items():
                    if name not in {"unbooked", "person"}:
                        _book(outputs, statement)
                _recall(parts.engine, "recalled", _GONE)
            for name, (datasets, _) in made.items():
                _damage(name, datasets)
                for ds in datasets:
                    httpx.post(f"{orthanc.url}/instances", content=to_part10(ds), timeout=20).raise_for_status()
            _delete(orthanc, made["short"][0][1:2])
            for name in ("lost", _GONE):
                _delete(orthanc, made[name][0])
            series = {name: str(datasets[0].SeriesInstanceUID) for name, (datasets, _) in made.items()}
            studies = {name: str(datasets[0].StudyInstanceUID) for name, (datasets, _) in made.items()}
            yield Held(site, orthanc, series, studies)


def _made(name: str, key: SigningKey) -> tuple[list[Dataset], ProvenanceStatement]:
    datasets = [make_instance(name, number) for number in range(1, 4)]
    for ds in datasets:
        ds.PatientID, ds.IssuerOfPatientID = f"SYN-{name}", "VERAICON-SYNTHETIC"
    series = make_series(datasets)
    statement = make_statement(name, series)
    return embed_series(datasets, series, sign_statement(statement, key), provenance_reference(name)), statement


def _book(outputs: Outputs, statement: ProvenanceStatement) -> None:
    outputs.made(statement, PatientIdentifier("P-1"))
    for peer, protocol in _PROTOCOLS.items():
        outputs.leaving(statement.request_id, peer, protocol)
        outputs.arrived(statement.request_id, Receipt(peer, protocol, 3, datetime.now(UTC)))


def _recall(engine: sa.Engine, *requests: str) -> None:
    with Session(engine) as session:
        rows = [session.get_one(OutputRow, request) for request in requests]
    Recalls(engine).open(
        Selection(request_id=requests[0]), outputs=rows, jobs=(), reason=RecallReason.QUALITY, note="", by="me"
    )


def _damage(name: str, datasets: list[Dataset]) -> None:
    for ds in datasets:
        if name in {"stripped", "person"}:
            for tag in block_tags(ds):
                del ds[tag]
        if name == "refiled":
            ds.PatientID, ds.IssuerOfPatientID = "MRN-0815", "HOSPITAL"
    if name == "pixel":
        data = bytearray(datasets[1].PixelData)
        data[4] ^= 1
        datasets[1].PixelData = bytes(data)


def _delete(orthanc: Orthanc, datasets: list[Dataset]) -> None:
    for ds in datasets:
        (identity,) = orthanc.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": str(ds.SOPInstanceUID)}})
        httpx.delete(f"{orthanc.url}/instances/{identity}", timeout=20).raise_for_status()


@pytest.mark.requirement("PROV-PACS-001")
@pytest.mark.parametrize("peer", ["pacs", "web"])
def test_what_a_pacs_holds_is_told_series_by_series(held: Held, peer: str) -> None:
    names = {uid: name for name, uid in held.series.items()}
    said = {names[one.series_uid]: one for one in held.verify(peer)}
    assert {name: one.standing.value for name, one in said.items()} == {name: one for name, (one, _) in _EXPECTED.items()}
    for name, (standing, claim) in _EXPECTED.items():
        if standing == "false":
            assert claim in said[name].why, said[name]


@pytest.mark.requirement("PROV-PACS-001")
def test_a_study_alone_is_good_or_not_and_nothing_lands_in_the_sites_archive(held: Held) -> None:
    for study, code, counts in (
        ("whole", 0, {"verified": 1}),
        ("lost", 1, {"missing": 1}),
        ("recalled", 1, {"recalled, still there": 1}),
    ):
        answered = held.site.run("verify", "--peer", "pacs", "--study", held.studies[study], "--json")
        told = json.loads(answered.stdout)
        assert (answered.returncode, told["counts"], told["verdict"]) == (code, counts, code == 0), answered.stderr
    assert held.counts("pacs", patient_id="MRN-0815") == {"false": 1}
    assert held.counts("web", date="19990101-19991231") == {}
    assert held.counts("pacs", modality="SEG") == {}
    with open_site(load_settings(held.site.config)) as parts:
        assert parts.archive.find("SERIES", {}) == []


@pytest.mark.requirement("PROV-PACS-001")
def test_another_key_verifies_nothing_of_ours(held: Held) -> None:
    assert held.counts("pacs", SigningKey.generate().public_jwks(), study_uid=held.studies["whole"]) == {"false": 1}


def test_either_a_target_or_a_peer_is_verified() -> None:
    for target, peer in ((Path("x"), "pacs"), (None, "")):
        with pytest.raises(RequestInvalid):
            require_one(target, peer)
