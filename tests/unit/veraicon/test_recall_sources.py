"""A withdrawn consent: which sources it names, where their images went, and the command that withdraws it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from domain.errors import ConsentMissing
from domain.identifiers import SeriesUid, derive_uid
from provenance.recall_notice import RecallReason
from tests.builders_dataset import make_manifest
from tests.builders_dicom import part10_series
from tests.builders_recall import MADE, publish_output
from veraicon.cli import app
from veraicon.datasets.exporting import Exporter, ExportForm
from veraicon.datasets.gathering import Gatherer
from veraicon.recall import planning
from veraicon.recall.reporting import in_markdown, report
from veraicon.recall.selection import Selection, tokens_of
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

STUDY, SERIES = derive_uid("series", "study"), derive_uid("series", "series")
_WHO = ("--execute", "--reason", "consent", "--by", "data steward")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "veraicon.toml"
    path.write_text(f'[storage]\nfolder = "{tmp_path / "data"}"\nmin_free_mib = 1\n', encoding="utf-8")
    return path


@pytest.fixture
def site(config: Path) -> Iterator[Site]:
    """A site that holds a source series of the patient P-1."""
    with open_site(load_settings(config)) as parts:
        for data in part10_series(2):
            parts.archive.land(data, source="CT1")
        yield parts


def _called(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), *arguments])


def _withdrawn(site: Site, selection: Selection) -> dict[str, Any]:
    planned = planning.plan(site, selection)
    recaller = planning.recaller_of(site)
    recall = recaller.recalls.find(planning.begin(site, planned, reason=RecallReason.CONSENT, note="", by="me"))
    assert recaller.carry_through(recall)
    return report(recaller, recall)


@pytest.mark.requirement("PROV-RECALL-002")
def test_a_withdrawn_consent_tells_where_images_of_the_person_were_exported_to(
    config: Path, site: Site, tmp_path: Path
) -> None:
    disc, shared = tmp_path / "disc", tmp_path / "shared"
    assert _called(config, "export", STUDY, "--to", str(disc)).exit_code == 0
    gatherer = Gatherer(site.archive, site.jobs, site.outputs, site.salt)
    manifest = make_manifest([gatherer.source(SERIES, licence="none")], split=None)
    exporter = Exporter(manifest, "sha256:" + "1" * 64, "{}", gatherer, {}, site.key)
    exporter.export(shared, ExportForm.DICOM, include_sources=True)
    by_study, by_patient = Selection(source_study=STUDY), Selection(patient_tokens=site_tokens(site, "P-1"))
    for selection in (by_study, by_patient):
        planned = planning.tell_plan(site, planning.plan(site, selection))
        assert [Path(one["recipient"]) for one in planned["source_copies"]] == [disc, shared]
    dry_run = _called(config, "recall", "--source-study", STUDY).output.replace("\n", "")
    assert f"source {SERIES}: {shared} (export)" in dry_run
    told = _withdrawn(site, by_patient)
    assert told["counts"]["source_copies"] == 2
    assert {(one["series"], one["protocol"], one["state"]) for one in told["source_copies"]} == {
        (SERIES, "export", "tell them by hand")
    }
    shown = in_markdown(told)
    assert f"## To be told by hand: {shared} (export), images of the person" in shown
    assert "P-1" not in shown
    assert _withdrawn(site, Selection(source_study="1.2.3"))["source_copies"] == []
    refused = _called(config, "export", STUDY, "--to", str(tmp_path / "later"))
    assert isinstance(refused.exception, ConsentMissing)
    assert not (tmp_path / "later").exists()


def site_tokens(site: Site, patient: str) -> tuple[str, ...]:
    """Return the tokens of a patient as the command makes them."""
    return tokens_of(site.salt, patient, None, site.settings.pairing)


@pytest.mark.requirement("PROV-RECALL-004")
def test_a_consent_of_a_source_that_nobody_knows_blocks_it_and_is_told_as_an_error(config: Path, site: Site) -> None:
    mistyped = _called(config, "recall", "--source-patient", "P-l", "--source-study", STUDY, *_WHO, "--json")
    assert mistyped.exit_code == 1, mistyped.output
    assert "--source-patient: we hold nothing of this source" in mistyped.stderr
    assert "--source-study: we" not in mistyped.stderr
    with pytest.raises(ConsentMissing):
        site.outputs.require_consent(site.archive.series(SeriesUid(SERIES)))
    right = _called(config, "recall", "--source-patient", "P-1", *_WHO, "--json")
    assert (right.exit_code, "we hold nothing" in right.stderr) == (0, False), right.output
    first, second = (json.loads(one.stdout)["recall"] for one in (mistyped, right))
    assert _called(config, "recall", "lift", first, "--by", "").exit_code != 0
    lifted = _called(config, "recall", "lift", first, "--by", "me")
    assert f"other recalls that refuse a source, perhaps the same: {second[:8]}" in lifted.stderr
    assert "other recalls" not in _called(config, "recall", "lift", second, "--by", "me").stderr
    site.outputs.require_consent(site.archive.series(SeriesUid(SERIES)))


@pytest.mark.requirement("PROV-RECALL-002")
def test_a_span_that_ends_on_a_date_holds_all_of_that_day_and_one_that_ends_at_a_time_no_more(config: Path, site: Site) -> None:
    request, day = publish_output(site, 1), f"{MADE:%Y-%m-%d}"

    def found(*arguments: str) -> list[str]:
        told = _called(config, "recall", *arguments, "--json")
        assert told.exit_code == 0, told.output
        return [one["request"] for one in json.loads(told.stdout)["outputs"]]

    assert found("--from", day, "--to", day) == [request]
    assert found("--to", f"{day}T00:00:00") == []
    assert found("--to", f"{MADE:%Y-%m-%dT%H:%M:%S}") == [request]
    assert found("--to", f"{MADE - timedelta(days=1):%Y-%m-%d}") == []
    assert found("--from", f"{datetime.now(UTC):%Y-%m-%d}") == []
    assert _called(config, "recall", "--to", "yesterday").exit_code == 2
