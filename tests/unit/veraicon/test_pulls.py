"""A pull, over a remote archive of any protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.calling.remote import PullCounts, RemoteSeries, Tell
from dicom_node.holding.files import to_part10
from domain.errors import IncompleteSeries, RequestInvalid
from tests.builders_dicom import Clock, new_archive, series_datasets
from veraicon.pulls import Puller


class Shelf:
    """A `Remote` that holds two studies of a patient; `broken` lists one instance more than it gives."""

    name = "shelf"

    def __init__(self, *, broken: bool = False) -> None:
        self._held = [*self._study("now", "20240305", "ACC-1"), *self._study("prior", "20230101", "ACC-0")]
        self._broken = broken
        self.fetched: list[str] = []

    @staticmethod
    def _study(name: str, day: str, accession: str) -> list[Dataset]:
        def change(ds: Dataset) -> None:
            ds.StudyDate, ds.AccessionNumber = day, accession

        return series_datasets(3, name=name, change=change)

    def echo(self) -> None:
        raise NotImplementedError

    def find(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        found = [ds for ds in self._held if all(str(ds[keyword].value) == value for keyword, value in matching.items())]
        key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        return list({str(ds[key].value): ds for ds in found}.values())

    def fetch(
        self, series: RemoteSeries, archive: Archive, *, listed: Mapping[str, str], tell: Tell | None = None
    ) -> PullCounts:
        self.fetched.append(series.series_uid)
        for ds in [ds for ds in self._held if ds.SeriesInstanceUID == series.series_uid][int(self._broken) :]:
            archive.land(to_part10(ds), source=self.name, origin=series.origin)
        return PullCounts(len(listed))


@pytest.mark.requirement("DICOM-PULL-009")
def test_what_was_asked_for_settles_and_its_priors_never_do(tmp_path: Path) -> None:
    clock, remote = Clock(), Shelf()
    archive = new_archive(tmp_path, clock=clock)
    puller = Puller(remote, archive)
    series = puller.series_of(puller.studies(accession="ACC-1", priors=True))
    assert [(one.held, one.new) for one in map(puller.pull, series)] == [(3, 3), (3, 3)]
    clock.advance(600)
    assert [settled.series_uid for settled in archive.unannounced(1)] == [series[0].series_uid]
    assert [(one.held, one.new) for one in map(puller.pull, series)] == [(3, 0), (3, 0)]
    assert len(remote.fetched) == 2, "what is here is not asked for again"


def test_a_series_that_did_not_come_whole_is_told_and_kept(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    puller = Puller(Shelf(broken=True), archive)
    (series,) = puller.series_of(puller.studies(accession="ACC-1"))
    with pytest.raises(IncompleteSeries, match="2 instances in our archive of 3 that shelf lists"):
        puller.pull(series)
    assert len(archive.references({})) == 2


@pytest.mark.parametrize(
    "keys",
    [{}, {"accession": "A", "patient_id": "P"}, {"patient_id": "P", "priors": True}],
    ids=["none", "two", "no accession"],
)
def test_one_thing_is_named_to_be_fetched(tmp_path: Path, keys: dict[str, object]) -> None:
    with pytest.raises(RequestInvalid):
        Puller(Shelf(), new_archive(tmp_path)).studies(**keys)  # type: ignore[arg-type]  # wrong on purpose
