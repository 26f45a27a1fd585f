"""What is found at a remote archive, over one that keeps datasets and may be careless with keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.calling import locating
from dicom_node.calling.remote import PullCounts, RemoteStudy, Tell
from dicom_node.calling.remote import RemoteSeries as Series
from dicom_node.holding.headers import text_of
from domain.errors import PeerAnswerInvalid, RequestInvalid, ResourceNotFound


class Shelf:
    """A `Remote` over datasets; a careless one leaves keys out of its matching."""

    name = "shelf"

    def __init__(self, *held: Dataset, careless: bool = False) -> None:
        self._held, self._careless = held, careless

    def echo(self) -> None:
        raise NotImplementedError

    def find(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        assert all(matching.values()), "an empty key is no key"
        keys = {} if self._careless else matching
        return [ds for ds in self._held if all(text_of(ds, keyword) == value for keyword, value in keys.items())]

    def fetch(self, series: Series, archive: Archive, *, listed: Mapping[str, str], tell: Tell | None = None) -> PullCounts:
        raise NotImplementedError


def entity(uid: str, **attributes: str) -> Dataset:
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = uid, f"{uid}.1", f"{uid}.1.1"
    ds.PatientID, ds.StudyDate, ds.AccessionNumber = "P-1", "20240305", "ACC-1"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


HELD = (
    entity("1.1"),
    entity("1.2", StudyDate="20230101", AccessionNumber="ACC-0"),
    entity("1.3", StudyDate="20240401", AccessionNumber="ACC-2"),
    entity("1.4", PatientID="P-2", StudyDate="20220101", AccessionNumber="ACC-3"),
)


@pytest.mark.requirement("DICOM-PULL-003", "DICOM-PULL-008")
@pytest.mark.parametrize("careless", [False, True])
def test_priors_are_earlier_studies_of_the_same_patient_whatever_the_peer_matches_by(careless: bool) -> None:
    remote = Shelf(*HELD, careless=careless)
    current = locating.of_accession(remote, " ACC-1 ")
    priors = locating.priors(remote, current)
    assert [(study.study_uid, study.prior) for study in (*current, *priors)] == [("1.1", False), ("1.2", True)]
    assert [study.study_uid for study in locating.of_patient(remote, "P-2")] == ["1.4"]
    with pytest.raises(ResourceNotFound):
        locating.of_accession(remote, "ACC-9")


@pytest.mark.requirement("DICOM-PULL-008")
def test_the_same_id_of_another_issuer_is_another_patient() -> None:
    current = entity("1.1", IssuerOfPatientID="HERE")
    others = (
        entity("1.2", StudyDate="20230101", AccessionNumber="", IssuerOfPatientID="THERE"),
        entity("1.3", StudyDate="20230101", AccessionNumber=""),
    )
    remote = Shelf(current, *others)
    found = locating.priors(remote, locating.of_accession(remote, "ACC-1"))
    assert [study.study_uid for study in found] == ["1.3"]


@pytest.mark.requirement("DICOM-PULL-008")
def test_neither_a_wildcard_nor_a_study_without_a_name_stands_for_a_patient() -> None:
    remote = Shelf(entity("1.1"), entity("1.2", PatientID=""), careless=True)
    for wildcard in ("", " ", "P-*", "P-?", "P-1\\P-2"):
        with pytest.raises(RequestInvalid):
            locating.of_patient(remote, wildcard)
        with pytest.raises(RequestInvalid):
            locating.of_accession(remote, wildcard)
    with pytest.raises(PeerAnswerInvalid, match="without Patient ID"):
        locating.of_patient(remote, "P-1")
    with pytest.raises(PeerAnswerInvalid, match="plain Patient ID"):
        locating.priors(remote, [RemoteStudy("1.1", patient_id="P-*")])


def test_series_are_those_that_were_asked_for_and_those_of_a_prior_say_so() -> None:
    for remote in (Shelf(*HELD), Shelf(*HELD, careless=True)):
        assert locating.series(remote, RemoteStudy("1.2", prior=True)) == [Series("1.2", "1.2.1", prior=True)]
        assert locating.series(remote, RemoteStudy(""), "1.3.1") == [Series("1.3", "1.3.1")]
        assert locating.series(remote, RemoteStudy("1.2"), "1.3.1") == []
    assert (Series("1", "2", prior=True).origin, Series("1", "2").origin) == ("pulled", "received")
    nameless = entity("1.1", SeriesInstanceUID="")
    with pytest.raises(PeerAnswerInvalid, match="SeriesInstanceUID"):
        locating.series(Shelf(nameless), RemoteStudy("1.1"))
