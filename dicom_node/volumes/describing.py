"""What a received series says of itself: identity, time, patient. Pure over datasets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from types import MappingProxyType
from typing import TypeVar

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, DT, TM

from dicom_node.holding.headers import PARSE_ERRORS, text_of
from domain.errors import IncompleteSeries, PatientMismatch, UnreadableInstance
from domain.identifiers import AccessionNumber, PatientIdentifier, SeriesUid, StudyUid, require_uid
from domain.series import ImagingSeries, InstanceReference

# PS3.3 C.7.1.1: Patient's Sex, in FHIR's words (administrative-gender).
_SEX = {"M": "male", "F": "female", "O": "other"}

# Pairs of date and time, the nearest to the acquisition first.
_DATED = (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"), ("StudyDate", "StudyTime"))

_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")
_Kind = TypeVar("_Kind")
_NO_SYSTEMS: Mapping[str, str] = MappingProxyType({})


def describe_series(
    datasets: Sequence[Dataset],
    references: Sequence[InstanceReference],
    *,
    patient_id_system: str = "",
    issuer_systems: Mapping[str, str] = _NO_SYSTEMS,
    default_timezone: tzinfo = UTC,
) -> ImagingSeries:
    """Return the series that some instances form.

    Parameters
    ----------
    datasets : sequence of Dataset
        Headers of all instances; Pixel Data is not needed.
    references : sequence of InstanceReference
        Where their bytes are.
    patient_id_system : str
        System of the identifiers of a series that names no issuer; empty where the site has stated none.
    issuer_systems : mapping of str to str
        Issuer of Patient ID (0010,0021) to the system that stands for it.
    default_timezone : tzinfo
        Of times where the series holds no Timezone Offset From UTC (0008,0201).

    Returns
    -------
    ImagingSeries
        `acquired_at` is the earliest over the instances: Acquisition DateTime, else acquisition, series, study date with the
        time that belongs to that date. Of a date alone only the day is known, so it counts as the last moment BEFORE that
        day: what is dated the same day may have been found in these images.

    Raises
    ------
    IncompleteSeries
        If there is no instance.
    UnreadableInstance
        If the instances belong to several series, or a UID is no UID.
    PatientMismatch
        If Patient ID is missing or not the same in all, or the issuer is named and no system is configured for it.
    """
    if not datasets:
        raise IncompleteSeries(found="no instance", allowed="at least one", action="send the series")
    first = datasets[0]
    birth_date = _same(datasets, "PatientBirthDate")
    return ImagingSeries(
        study_uid=StudyUid(_one_uid(datasets, "StudyInstanceUID")),
        series_uid=SeriesUid(_one_uid(datasets, "SeriesInstanceUID")),
        patient=_patient(datasets, patient_id_system, issuer_systems),
        modality=text_of(first, "Modality"),
        acquired_at=min(filter(None, (_acquired_at(ds, default_timezone) for ds in datasets)), default=None),
        instances=tuple(references),
        accession=AccessionNumber(text_of(first, "AccessionNumber")) if text_of(first, "AccessionNumber") else None,
        birth_date=f"{birth_date[:4]}-{birth_date[4:6]}-{birth_date[6:]}" if re.fullmatch(r"\d{8}", birth_date) else None,
        sex=_SEX.get(_same(datasets, "PatientSex").upper()),
        description=text_of(first, "SeriesDescription"),
    )


def _one_uid(datasets: Sequence[Dataset], keyword: str) -> str:
    values = {require_uid(text_of(ds, keyword), attribute=keyword) for ds in datasets}
    if len(values) > 1:
        raise UnreadableInstance(
            found=f"{len(values)} values of {keyword}",
            allowed="instances of one series",
            action="describe one series at a time",
        )
    return values.pop()


def _patient(datasets: Sequence[Dataset], default_system: str, issuer_systems: Mapping[str, str]) -> PatientIdentifier:
    values = {text_of(ds, "PatientID") for ds in datasets}
    issuers = {text_of(ds, "IssuerOfPatientID") for ds in datasets}
    if len(values) > 1 or len(issuers) > 1:
        raise _mismatch(
            "more than one Patient ID or issuer in one series", "one patient a series", "correct the series at its source"
        )
    value, issuer = values.pop(), issuers.pop()
    if not value:
        raise _mismatch("no Patient ID (0010,0020)", "a Patient ID in each instance", "complete the series at its source")
    if not issuer:
        return PatientIdentifier(value, default_system)
    # Two hospitals may give one number to two people: a named issuer is never taken for another one.
    if issuer not in issuer_systems:
        raise _mismatch(
            "an Issuer of Patient ID (0010,0021) that no configured system stands for",
            "issuers that are mapped to a system, or series that name none",
            "map the issuer to its system in the settings, then retry the job",
        )
    return PatientIdentifier(value, issuer_systems[issuer])


def _mismatch(found: str, allowed: str, action: str) -> PatientMismatch:
    return PatientMismatch(found=found, allowed=allowed, action=action)


def _same(datasets: Sequence[Dataset], keyword: str) -> str:
    """Return a value that all instances share; empty where they differ, since then the series states none."""
    values = {text_of(ds, keyword) for ds in datasets}
    return values.pop() if len(values) == 1 else ""


def _acquired_at(ds: Dataset, default_timezone: tzinfo) -> datetime | None:
    zone = _zone(ds) or default_timezone
    stated = text_of(ds, "AcquisitionDateTime")
    if re.match(r"\d{10}", stated):
        moment = _parsed(DT, stated)
        if moment is not None:
            # Rebuilt, because pydicom's DT is a subclass of datetime that remembers its text.
            return datetime.combine(moment.date(), moment.time(), moment.tzinfo or zone)
    dated = [(_parsed(DA, text_of(ds, day)), _parsed(TM, text_of(ds, clock))) for day, clock in _DATED]
    if re.fullmatch(r"\d{8}.*", stated):
        dated.insert(0, (_parsed(DA, stated[:8]), None))
    known: list[tuple[date, time | None]] = [(day, clock) for day, clock in dated if day is not None]
    if not known:
        return None
    day = known[0][0]
    clock = next((clock for other, clock in known if other == day and clock is not None), None)
    if clock is None:
        return datetime.combine(day, time(), tzinfo=zone) - timedelta(microseconds=1) if day > date.min else None
    return datetime(day.year, day.month, day.day, clock.hour, clock.minute, clock.second, clock.microsecond, tzinfo=zone)


def _parsed(kind: Callable[[str], _Kind | None], text: str) -> _Kind | None:
    try:
        return kind(text) if text else None
    except PARSE_ERRORS:
        return None


def _zone(ds: Dataset) -> timezone | None:
    match = _OFFSET.fullmatch(text_of(ds, "TimezoneOffsetFromUTC"))
    if match is None:
        return None
    sign = -1 if match[1] == "-" else 1
    return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3])))
