"""A version has one number and one entry in the log, whatever happens while it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from domain.errors import ResourceNotFound
from provenance.dataset_manifest import read_dataset_file
from provenance.log_proof import DATASET_ENTRY
from tests.builders_dataset import make_member
from veraicon.datasets.versions import DatasetVersions
from veraicon.settings import load_settings
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
