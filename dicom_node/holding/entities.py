"""Rows of the index as the entities of the query information models: patient, study, series, image. Pure.

References
----------
DICOM PS3.4 C.6.1.1 (Patient Root), C.6.2.1 (Study Root).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from dicom_node.holding.headers import TEXT_ATTRIBUTES
from dicom_node.tables import InstanceRow, SeriesRow, StudyRow

# Attributes by keyword; several values of one attribute are joined by a backslash, as in the dataset.
Entity = dict[str, str]

_SeriesFound = tuple[SeriesRow, StudyRow, int]


def image_entity(instance: InstanceRow, series: SeriesRow, study: StudyRow) -> Entity:
    """Return all that is known of one instance, its series and its study."""
    entity = _texts(study) | _texts(series) | _texts(instance)
    entity |= {
        "StudyInstanceUID": study.study_uid,
        "SeriesInstanceUID": series.series_uid,
        "SOPInstanceUID": instance.sop_instance_uid,
        "SOPClassUID": instance.sop_class_uid,
        "AvailableTransferSyntaxUID": instance.transfer_syntax_uid,
    }
    if instance.rows is not None and instance.columns is not None:
        entity |= {"Rows": str(instance.rows), "Columns": str(instance.columns)}
    return entity


def group_entities(level: str, found: Iterable[_SeriesFound]) -> list[Entity]:
    """Return the entities of a level above IMAGE with their counts, from series with theirs."""
    groups: dict[tuple[str, ...], list[_SeriesFound]] = defaultdict(list)
    for series, study, count in found:
        key = {
            "PATIENT": (study.patient_id, study.patient_id_issuer),
            "STUDY": (study.study_uid,),
            "SERIES": (series.series_uid,),
        }[level]
        groups[key].append((series, study, count))
    build = {"PATIENT": _patient_entity, "STUDY": _study_entity, "SERIES": _series_entity}[level]
    return [build(members) for _, members in sorted(groups.items())]


def _patient_entity(members: list[_SeriesFound]) -> Entity:
    study = members[0][1]
    names = ("patient_id", "patient_id_issuer", "patient_name", "birth_date", "sex")
    return {TEXT_ATTRIBUTES[name]: getattr(study, name) for name in names} | {
        "NumberOfPatientRelatedStudies": str(len({study.study_uid for _, study, _ in members})),
        "NumberOfPatientRelatedSeries": str(len(members)),
        "NumberOfPatientRelatedInstances": str(sum(count for *_, count in members)),
    }


def _study_entity(members: list[_SeriesFound]) -> Entity:
    study = members[0][1]
    return _texts(study) | {
        "StudyInstanceUID": study.study_uid,
        "ModalitiesInStudy": "\\".join(sorted({series.modality for series, _, _ in members if series.modality})),
        "NumberOfStudyRelatedSeries": str(len(members)),
        "NumberOfStudyRelatedInstances": str(sum(count for *_, count in members)),
    }


def _series_entity(members: list[_SeriesFound]) -> Entity:
    ((series, study, count),) = members
    return (
        _texts(study)
        | _texts(series)
        | {
            "StudyInstanceUID": study.study_uid,
            "SeriesInstanceUID": series.series_uid,
            "NumberOfSeriesRelatedInstances": str(count),
        }
    )


def _texts(row: StudyRow | SeriesRow | InstanceRow) -> Entity:
    names = TEXT_ATTRIBUTES.keys() & type(row).model_fields.keys()
    return {TEXT_ATTRIBUTES[name]: getattr(row, name) for name in names}
