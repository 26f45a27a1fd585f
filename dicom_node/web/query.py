"""QIDO-RS: parameters of a search understood as a query, and its matches as DICOM JSON. Pure.

References
----------
DICOM PS3.18 8.3.4 (search parameters), 10.6 (Search Transaction), Annex F (DICOM JSON model).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.holding.entities import Entity
from dicom_node.holding.headers import PARSE_ERRORS, whole_number
from dicom_node.query import ONLY_AT, Query, Root, answer, parse_find, select
from domain.errors import RequestInvalid, UnreadableInstance
from domain.identifiers import require_uid

# One answer holds no more; the Warning header says how many there are beyond it.
MAXIMUM_PAGE = 1000

# PS3.18 Tables 10.6.3-3 to 10.6.3-5, as far as the index knows them.
RETURNED = {
    "STUDY": (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ModalitiesInStudy",
        "ReferringPhysicianName",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyID",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": ("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances"),
    "IMAGE": ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "NumberOfFrames"),
}
_LEVELS = tuple(RETURNED)

_NO_ATTRIBUTE = {"limit", "offset", "fuzzymatching", "includefield", "accept", "charset"}


@dataclass(frozen=True, slots=True)
class Search:
    """A QIDO-RS request, understood.

    Attributes
    ----------
    query : Query
        What has to match and what is returned.
    everything : bool
        ``includefield=all``: whatever the index knows.
    warnings : tuple of str
        What was asked for and is not done.
    """

    query: Query
    everything: bool
    limit: int
    offset: int
    warnings: tuple[str, ...]

    def page(self, entities: Iterable[Entity]) -> tuple[list[Entity], int]:
        """Return the matches of this page in a stable order, and how many there are beyond it.

        Parameters
        ----------
        entities : iterable of Entity
            All that may match. No more of them are kept than up to the end of the page.
        """
        total = 0

        def counted() -> Iterator[Entity]:
            nonlocal total
            for entity in select(self.query, entities):
                total += 1
                yield entity

        until = self.offset + self.limit
        found = heapq.nsmallest(max(until, 1), counted(), key=_order(self.query.level))
        return found[self.offset : until], max(0, total - until)

    def as_json(self, entity: Entity, service_url: str) -> dict[str, Any]:
        """Return one match in the DICOM JSON model.

        Parameters
        ----------
        entity : Entity
        service_url : str
            Root of our DICOMweb service, for Retrieve URL (0008,1190).
        """
        query = self.query
        if self.everything:
            known = [keyword for keyword in entity if keyword not in query.wanted]
            query = Query(query.level, query.matching, _identifier(query.level, dict.fromkeys(known, ""), query.wanted))
        ds = answer(query, entity, retrieve_ae_title="")
        del ds.QueryRetrieveLevel, ds.RetrieveAETitle
        ds.InstanceAvailability = "ONLINE"
        ds.RetrieveURL = service_url + resource_path(entity)
        # PS3.18 F.2.2: in ascending order of the tags.
        return dict(sorted(ds.to_json_dict().items()))


def parse_search(level: str, path: Mapping[str, str], parameters: Sequence[tuple[str, str]]) -> Search:
    """Return a search.

    Parameters
    ----------
    level : {"STUDY", "SERIES", "IMAGE"}
        What is searched for.
    path : mapping of str to str
        Keyword and UID of the levels above, from the path; all levels are searched where it is empty.
    parameters : sequence of (str, str)
        Names and values of the query string, decoded.

    Raises
    ------
    RequestInvalid
        If a parameter has no name of an attribute or a value that it cannot have.
    """
    values = {keyword: require_path_uid(keyword, uid) for keyword, uid in path.items()}
    returned = dict.fromkeys(_default_fields(level, path), "")
    fields = {field for name, value in parameters if name == "includefield" for field in value.split(",")}
    returned |= {_keyword(field): "" for field in fields - {"all", ""} if not _in_sequence(field)}
    fuzzy = ("fuzzymatching", "true") in parameters
    warnings = ["The fuzzymatching parameter is not supported. Only literal matching has been performed."] if fuzzy else []
    ignored = [name for name, _ in parameters if _in_sequence(name)]
    for name, value in parameters:
        if name not in _NO_ATTRIBUTE and not _in_sequence(name):
            _add_match(values, _keyword(name), value)
    ignored += [keyword for keyword in values if ONLY_AT.get(keyword, level) != level]
    query = parse_find(_identifier(level, returned | values), Root.STUDY)
    ignored += [key for key in values if values[key].strip("*") and key not in query.matching and key not in ignored]
    if ignored:
        warnings.append(f"The following parameters are not supported at this level and were not matched: {', '.join(ignored)}.")
    matching = {keyword: value for keyword, value in query.matching.items() if keyword not in ignored}
    limit, offset = _number(parameters, "limit", MAXIMUM_PAGE), _number(parameters, "offset", 0)
    return Search(
        Query(query.level, matching, query.wanted), "all" in fields, min(limit, MAXIMUM_PAGE), offset, tuple(warnings)
    )


def resource_path(entity: Mapping[str, str]) -> str:
    """Return the path of a study, series or instance below our service.

    Examples
    --------
    >>> resource_path({"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"})
    '/studies/1.2/series/1.2.3'
    """
    names = (("studies", "StudyInstanceUID"), ("series", "SeriesInstanceUID"), ("instances", "SOPInstanceUID"))
    return "".join(f"/{name}/{entity[keyword]}" for name, keyword in names if keyword in entity)


def _default_fields(level: str, path: Mapping[str, str]) -> list[str]:
    """Return what the level returns, with the attributes of levels above that the path does not name."""
    above = {"SERIES": ("StudyInstanceUID",), "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID")}.get(level, ())
    fields = [field for upper in _LEVELS[: _LEVELS.index(level)] if not path for field in RETURNED[upper]]
    return [field for field in (*fields, *above, *RETURNED[level]) if ONLY_AT.get(field, level) == level]


def _add_match(values: dict[str, str], keyword: str, value: str) -> None:
    vr = dictionary_VR(keyword)
    value = value.replace(",", "\\") if vr == "UI" else value
    if values.get(keyword, value) != value and vr != "UI":
        raise _invalid(f"the parameter {keyword} twice", "each attribute once")
    if vr == "UI" and keyword in values:
        # What the path names stays: a parameter can only narrow it.
        both = [uid for uid in value.split("\\") if uid in values[keyword].split("\\")]
        value = "\\".join(both) or "0.0"
    values[keyword] = value


def _identifier(level: str, values: Mapping[str, str], more: Dataset | None = None) -> Dataset:
    ds = Dataset()
    ds.update(more or {})
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
        if tag is None:
            continue
        try:
            ds.add(DataElement(tag, vr, [] if vr == "SQ" else value or None, validation_mode=IGNORE))
        except PARSE_ERRORS as error:
            raise _invalid(f"a value of {keyword} that its VR {vr} does not allow", f"a value of VR {vr}") from error
    return ds


def _in_sequence(name: str) -> bool:
    """Return whether a name is that of an attribute within a sequence, none of which is indexed."""
    return bool(re.fullmatch(r"[0-9A-Za-z]{1,64}(\.[0-9A-Za-z]{1,64}){1,8}", name))


def _keyword(name: str) -> str:
    """Return the keyword of an attribute given as keyword or as eight hexadecimal digits."""
    keyword = keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
    if not keyword or tag_for_keyword(keyword) is None:
        raise _invalid("a parameter that names no attribute", "keywords such as PatientID, or tags such as 00100020")
    return keyword


def require_path_uid(keyword: str, value: str) -> str:
    """Return a UID from a path.

    Raises
    ------
    RequestInvalid
        If it is none.
    """
    try:
        return require_uid(value, attribute=keyword)
    except UnreadableInstance as error:
        raise _invalid(f"a {keyword} in the path that is no UID", error.allowed) from error


def _number(parameters: Sequence[tuple[str, str]], name: str, default: int) -> int:
    texts = [value for key, value in parameters if key == name]
    if not texts:
        return default
    number = whole_number(texts[-1])
    if number is None:
        raise _invalid(f"a value of {name} that is no number", "0 or more")
    return number


def _order(level: str) -> Callable[[Entity], tuple[Any, ...]]:
    if level == "IMAGE":
        return lambda entity: (entity["SeriesInstanceUID"], *_by_number(entity["InstanceNumber"]), entity["SOPInstanceUID"])
    if level == "SERIES":
        return lambda entity: (entity["StudyInstanceUID"], *_by_number(entity["SeriesNumber"]), entity["SeriesInstanceUID"])
    return lambda entity: (entity["StudyInstanceUID"],)


def _by_number(text: str) -> tuple[int, str]:
    return len(text), text  # as the database orders, see `dicom_node.holding.paging`


def _invalid(found: str, allowed: str) -> RequestInvalid:
    return RequestInvalid(found=found, allowed=allowed, action="correct path or query string (PS3.18 8.3.4)")
