"""Where copies go that somebody fetches from our own archive, and what is left there after a recall. DCMTK is the caller."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from dicom_node.holding.paging import page_of_uids
from domain.identifiers import derive_uid
from provenance.recall_notice import RecallReason
from tests.builders_recall import publish_output, request_id_of
from tests.peers.dcmtk import run_dcmtk
from tests.peers.postgresql import running_postgresql
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.recall import planning
from veraicon.recall.reporting import write_report
from veraicon.recall.selection import Selection
from veraicon.settings import load_settings
from veraicon.wiring import open_site

STUDY = derive_uid(request_id_of(1), "study")
KEYS = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")


def _call(site: VeraiconSite, program: str, *options: str) -> str:
    done = run_dcmtk(program, "-v", "-S", *options, "-aet", "WS1", "-aec", "VERAICON", "127.0.0.1", str(site.node_port), *KEYS)
    return done.stdout + done.stderr


@pytest.mark.requirement("PROV-RECALL-002", "PROV-RECALL-003")
def test_each_way_out_of_our_archive_is_told_and_closed_by_a_recall(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path / "site", free_port, "[worker]\nembedded = false\n") as site:
        with open_site(load_settings(site.config)) as parts:
            publish_output(parts, 1)
        site.serve()
        web = f"{site.url}/dicom-web/studies"
        (tmp_path / "got").mkdir()
        for _ in range(2):
            _call(site, "getscu", "-od", str(tmp_path / "got"))
        assert len(list((tmp_path / "got").iterdir())) == 4
        assert httpx.get(f"{web}/{STUDY}", timeout=30).status_code == 200
        assert site.run("export", STUDY, "--to", str(tmp_path / "disc")).returncode == 0
        told = json.loads(site.run("recall", "--request", request_id_of(1), "--json").stdout)["outputs"][0]
        copies = {(one["protocol"], one["recipient"]): one["would"] for one in told["copies"]}
        assert copies == {
            ("archive", "archive"): "hide it in our archive",
            ("c-get", "WS1"): "tell them by hand",
            ("export", str(tmp_path / "disc")): "tell them by hand",
            ("wado", "127.0.0.1"): "tell them by hand",
        }
        done = site.run("recall", "--request", request_id_of(1), "--execute", "--reason", "safety", "--by", "me")
        assert done.returncode == 0, done.stderr
        assert "To be told by hand: WS1 (c-get)" in done.stdout
        _closed(site, web, tmp_path)


def _closed(site: VeraiconSite, web: str, tmp_path: Path) -> None:
    """Only the note is left to be found, by every service of the running node."""
    assert "(Pending)" not in _call(site, "findscu", "-k", "ModalitiesInStudy=MR")
    assert "(Pending)" in _call(site, "findscu", "-k", "ModalitiesInStudy=KO")
    listed = httpx.get(f"{web}/{STUDY}/series", timeout=30).json()
    assert [one["00080060"]["Value"] for one in listed] == [["KO"]]
    (tmp_path / "again").mkdir()
    _call(site, "getscu", "-od", str(tmp_path / "again"))
    assert [path.name.split(".")[0] for path in (tmp_path / "again").iterdir()] == ["KO"]
    series = derive_uid(request_id_of(1), "series")
    assert httpx.get(f"{web}/{STUDY}/series/{series}", timeout=30).status_code == 404
    assert site.run("export", series, "--to", str(tmp_path / "later")).returncode != 0
    kept = json.loads(site.run("archive", "rejected", "--json").stdout)["rejected"]
    assert {(one["code"], one["rejected"] == one["instances"]) for one in kept} == {("113037", True)}
    assert len(kept) == 2


@pytest.mark.requirement("PROV-RECALL-002")
def test_a_recall_is_kept_and_carried_through_on_postgresql(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with running_postgresql(tmp_path, free_port()) as url:
        storage = {"folder": str(tmp_path / "site"), "database_url": url, "min_free_mib": 1}
        with open_site(load_settings(storage=storage)) as site:
            for number in (1, 2):
                publish_output(site, number)
            (series, *_) = site.outputs.series(request_id_of(1))
            site.outputs.hand_out({series, "1.2.3"}, "WS1", "c-get")
            planned = planning.plan(site, Selection(weights="hippocampus-t1", until=datetime.now(UTC)))
            assert len(planned.outputs) == 2
            recaller = planning.recaller_of(site)
            recall_id = planning.begin(site, planned, reason=RecallReason.SAFETY, note="", by="me")
            assert recaller.carry_through(recaller.recalls.find(recall_id[:8]))
            told = write_report(recaller, recaller.recalls.find(recall_id))
            assert told["counts"]["copies"] == {"hidden": 2, "tell them by hand": 1}
            assert site.archive.find("SERIES", {"SeriesInstanceUID": [series]}) == []
            assert planning.plan(site, planned.selection).outputs == ()
            uids, total = page_of_uids(site.engine, "STUDY", {}, offset=0, limit=9)
            assert total == len(uids) == 2, "each study holds its note"
