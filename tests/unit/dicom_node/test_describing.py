"""What a series says of itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.reading import describe_series
from domain.errors import IncompleteSeries, PatientMismatch, UnreadableInstance
from domain.identifiers import PatientIdentifier
from domain.series import ImagingSeries
from tests.builders_dicom import series_datasets

BERLIN = timezone(timedelta(hours=1))


def described(change: Callable[[Dataset], object], **options: Any) -> ImagingSeries:
    return describe_series(series_datasets(2, change=lambda ds: (change(ds), None)[1]), [], **options)


def put(**attributes: object) -> Callable[[Dataset], object]:
    return lambda ds: [setattr(ds, keyword, value) for keyword, value in attributes.items()]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, datetime(2024, 1, 5, 10, 11, 12, tzinfo=BERLIN)),
        ({"StudyTime": "101112.25"}, datetime(2024, 1, 5, 10, 11, 12, 250000, tzinfo=BERLIN)),
        ({"StudyTime": ""}, datetime(2024, 1, 4, 23, 59, 59, 999999, tzinfo=BERLIN)),
        ({"SeriesDate": "20240106", "SeriesTime": "0800"}, datetime(2024, 1, 6, 8, 0, tzinfo=BERLIN)),
        ({"AcquisitionDate": "20240105"}, datetime(2024, 1, 5, 10, 11, 12, tzinfo=BERLIN)),
        ({"AcquisitionDate": "20240104"}, datetime(2024, 1, 3, 23, 59, 59, 999999, tzinfo=BERLIN)),
        ({"AcquisitionDateTime": "20240103070809.5"}, datetime(2024, 1, 3, 7, 8, 9, 500000, tzinfo=BERLIN)),
        ({"AcquisitionDateTime": "20240103070809+0000"}, datetime(2024, 1, 3, 7, 8, 9, tzinfo=UTC)),
        ({"AcquisitionDateTime": "20240103"}, datetime(2024, 1, 2, 23, 59, 59, 999999, tzinfo=BERLIN)),
        ({"TimezoneOffsetFromUTC": "-0530"}, datetime(2024, 1, 5, 15, 41, 12, tzinfo=UTC)),
        ({"StudyDate": ""}, None),
    ],
)
def test_acquisition_time_is_the_nearest_that_is_stated(attributes: dict[str, str], expected: datetime | None) -> None:
    assert described(put(**attributes), default_timezone=BERLIN).acquired_at == expected


def test_the_earliest_slice_dates_the_series() -> None:
    datasets = series_datasets(3)
    datasets[1].StudyTime = "090000"
    assert describe_series(datasets, []).acquired_at == datetime(2024, 1, 5, 9, tzinfo=UTC)


def test_birth_date_and_sex_in_the_words_of_fhir_and_none_where_they_are_silent_or_contradict() -> None:
    series = described(put())
    assert (series.birth_date, series.sex) == ("1950-01-02", "female")
    silent = described(put(PatientBirthDate="", PatientSex=""))
    assert (silent.birth_date, silent.sex) == (None, None)
    datasets = series_datasets(2)
    datasets[0].PatientSex = "M"
    assert describe_series(datasets, []).sex is None


def test_a_named_issuer_needs_a_system_of_its_own() -> None:
    systems = {"HOSP-A": "urn:a"}
    assert described(put(), patient_id_system="urn:default").patient == PatientIdentifier("P-1", "urn:default")
    named = described(put(IssuerOfPatientID="HOSP-A"), patient_id_system="urn:default", issuer_systems=systems)
    assert named.patient == PatientIdentifier("P-1", "urn:a")
    with pytest.raises(PatientMismatch, match="no configured system"):
        described(put(IssuerOfPatientID="HOSP-B"), patient_id_system="urn:default", issuer_systems=systems)


def test_refuses_a_series_without_patient_of_two_patients_or_of_two_series() -> None:
    with pytest.raises(PatientMismatch, match=r"no Patient ID"):
        described(put(PatientID=""))
    datasets = series_datasets(2)
    datasets[0].PatientID = "P-2"
    with pytest.raises(PatientMismatch, match="more than one Patient ID") as caught:
        describe_series(datasets, [])
    assert "P-2" not in str(caught.value)
    with pytest.raises(UnreadableInstance, match="2 values of StudyInstanceUID"):
        describe_series([*series_datasets(1), *series_datasets(1, name="other")], [])
    with pytest.raises(IncompleteSeries):
        describe_series([], [])
