"""A version has one number and one entry in the log, whatever happens while it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from domain.dataset import leaks
from domain.errors import ResourceNotFound
from provenance.dataset_manifest import read_dataset_file
from provenance.log_proof import DATASET_ENTRY
from tests.builders_dataset import HALVES, make_member
from tests.builders_recall import request_for
from veraicon.datasets.book import book_of
from veraicon.datasets.versions import DatasetVersions
from veraicon.pipeline import JobState
from veraicon.settings import load_settings
from veraicon.tables import JobRow
from veraicon.wiring import Site, open_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data")})) as parts:
        yield parts


def _versions(site: Site, enter: object) -> DatasetVersions:
    return DatasetVersions(site.engine, site.settings.storage.folder / "datasets", site.key, enter, "1.0")  # type: ignore[arg-type]


@pytest.mark.requirement("PROV-DATA-001")
def test_a_version_whose_maker_died_before_the_log_knew_it_is_entered_once_by_the_next_try(site: Site) -> None:
    def dies(_jws: str) -> object:
        raise KeyboardInterrupt

    members = [make_member("a", 1), make_member("b", 2)]
    with pytest.raises(KeyboardInterrupt):
        _versions(site, dies).create("set", members, None)
    assert site.log.head().size == 0
    versions = _versions(site, partial(site.log.enter, DATASET_ENTRY))
    manifest, is_new = versions.create("set", members, None)
    assert (manifest.number, is_new, site.log.head().size) == (1, False, 1)
    verified = read_dataset_file(json.loads(versions.find("set").file), site.keyring.public_jwks())
    assert verified.manifest == manifest


@pytest.mark.parametrize("number", ["99999999999999999999", "²", "0", "-1"])
def test_a_number_that_is_none_is_a_version_that_is_not_here(site: Site, number: str) -> None:
    with pytest.raises(ResourceNotFound):
        _versions(site, partial(site.log.enter, DATASET_ENTRY)).find(f"set:{number}")


@pytest.mark.requirement("PROV-SPLIT-001")
def test_a_version_of_two_identifiers_in_one_study_has_one_subject(site: Site) -> None:
    one, two = make_member("a", 1), make_member("b", 1)
    two = replace(two, origin=replace(two.origin, source_study_uid=one.origin.source_study_uid))
    manifest, _ = _versions(site, partial(site.log.enter, DATASET_ENTRY)).create("set", [one, two], HALVES)
    assert (len(manifest.subjects), leaks(manifest)) == (1, ())


@pytest.mark.parametrize("damage", ["lost", "torn"])
def test_a_job_whose_folder_is_damaged_is_named(site: Site, damage: str) -> None:
    request = request_for(1)
    site.jobs.submit(request)
    with Session(site.engine) as session:
        session.execute(sa.update(JobRow).values(state=JobState.ATTESTED.value))
        session.commit()
    if damage == "torn":
        (site.jobs.artifacts(request.request_id).folder / "statement.json").write_bytes(b'{"request_id":')
    with pytest.raises(ResourceNotFound, match=f"statement in the folder of job {request.request_id}.*--from-jobs"):
        book_of(site).gather(from_jobs=(), series=(), all_attested=True, sources=(), source_licence="")
