"""One page of the index, found and counted by the database: what a search costs grows with the page, not with the archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from dicom_node.holding.index import NARROWING_COLUMNS
from dicom_node.holding.rejecting import anything_rejected, instance_shown, series_shown
from dicom_node.tables import InstanceRow, SeriesRow, StudyRow

_OF_SERIES = ("StudyInstanceUID", "PatientID", "AccessionNumber", "SeriesInstanceUID")
_OF_STUDY = ("PatientID", "AccessionNumber")


def page_of_uids(
    engine: sa.Engine, level: str, narrowing: Mapping[str, Sequence[str]], *, offset: int, limit: int
) -> tuple[list[str], int]:
    """Return the UIDs of one page in a stable order, and how many there are in all.

    Parameters
    ----------
    level : {"STUDY", "SERIES", "IMAGE"}
    narrowing : mapping of str to sequence of str
        Keyword and accepted values, which are compared exactly; see `dicom_node.query.Query.narrowing`.

    Returns
    -------
    list of str, int
        Studies by UID; series by study and number; instances by series and number.
    """
    found = _narrowed(level, narrowing)
    with Session(engine) as session:
        if anything_rejected(session):
            found = found.where(_shown(level))
        total = session.scalar(found.with_only_columns(sa.func.count(), maintain_column_froms=True)) or 0
        page = session.scalars(found.order_by(*_order(level)).offset(offset).limit(limit)).all() if offset < total else []
    return list(page), total


def _narrowed(level: str, narrowing: Mapping[str, Sequence[str]]) -> Any:
    uid = {"STUDY": StudyRow.study_uid, "SERIES": SeriesRow.series_uid, "IMAGE": InstanceRow.sop_instance_uid}[level]
    statement = sa.select(col(uid))
    # A join for each row is most of what counting costs, so only those that the keys need.
    if level == "IMAGE" and narrowing.keys() & set(_OF_SERIES):
        statement = statement.join(SeriesRow, col(InstanceRow.series_uid) == col(SeriesRow.series_uid))
    if level != "STUDY" and narrowing.keys() & set(_OF_STUDY):
        statement = statement.join(StudyRow, col(SeriesRow.study_uid) == col(StudyRow.study_uid))
    for keyword, values in narrowing.items():
        column = col(SeriesRow.study_uid) if level != "STUDY" and keyword == "StudyInstanceUID" else NARROWING_COLUMNS[keyword]
        statement = statement.where(column.in_(list(values)))
    return statement


def _shown(level: str) -> sa.ColumnElement[bool]:
    """Return the condition that not all of an entity was withdrawn by rejection notes."""
    if level == "IMAGE":
        return instance_shown()
    if level == "SERIES":
        return series_shown(col(SeriesRow.series_uid))
    of_study = sa.select(col(SeriesRow.series_uid)).where(
        col(SeriesRow.study_uid) == col(StudyRow.study_uid), series_shown(col(SeriesRow.series_uid))
    )
    return sa.exists(of_study.correlate(StudyRow))


def _order(level: str) -> tuple[Any, ...]:
    if level == "STUDY":
        return (col(StudyRow.study_uid),)
    if level == "SERIES":
        return (col(SeriesRow.study_uid), *_by_number(col(SeriesRow.series_number)), col(SeriesRow.series_uid))
    return (col(InstanceRow.series_uid), *_by_number(col(InstanceRow.instance_number)), col(InstanceRow.sop_instance_uid))


def _by_number(column: Any) -> tuple[Any, Any]:
    """Order by a number that is kept as text: the shorter one is the smaller."""
    return sa.func.length(column), column
