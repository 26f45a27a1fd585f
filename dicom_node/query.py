"""Matching of query identifiers against what the archive holds. Pure.

References
----------
DICOM PS3.4 C.2.2.2 (attribute matching), C.4.1.1.3 and C.4.3.1.3 (identifiers), C.6 (information models).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.holding.entities import Entity
from dicom_node.holding.headers import text_of, whole_number
from dicom_node.querying.character_sets import answering_set
from dicom_node.querying.matching import matches, moment_matches
from domain.errors import RequestInvalid


class Root(Enum):
    """Query information models and their levels, from the top."""

    PATIENT = ("PATIENT", "STUDY", "SERIES", "IMAGE")
    STUDY = ("STUDY", "SERIES", "IMAGE")


UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}

# Attributes that match and return, by the level from which on they are known.
_ATTRIBUTES = {
    "PATIENT": (
        "PatientID",
        "IssuerOfPatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    "STUDY": (
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "StudyDescription",
        "ReferringPhysicianName",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": (
        "SeriesInstanceUID",
        "Modality",
        "SeriesNumber",
        "SeriesDescription",
        "SeriesDate",
        "SeriesTime",
        "BodyPartExamined",
        "ProtocolName",
        "NumberOfSeriesRelatedInstances",
    ),
    "IMAGE": (
        "SOPInstanceUID",
        "SOPClassUID",
        "InstanceNumber",
        "Rows",
        "Columns",
        "NumberOfFrames",
        "AvailableTransferSyntaxUID",
    ),
}

# What the database narrows by; the rest is matched here.
_NARROWING = ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

# Dates with the times that belong to them.
_MOMENTS = (("StudyDate", "StudyTime"), ("SeriesDate", "SeriesTime"))

_ABOUT_THE_QUERY = {"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC", "QueryRetrieveView"}

# Counts over what lies below exist at one level only.
ONLY_AT = {
    "ModalitiesInStudy": "STUDY",
    "NumberOfStudyRelatedSeries": "STUDY",
    "NumberOfStudyRelatedInstances": "STUDY",
    "NumberOfSeriesRelatedInstances": "SERIES",
    "NumberOfPatientRelatedStudies": "PATIENT",
    "NumberOfPatientRelatedSeries": "PATIENT",
    "NumberOfPatientRelatedInstances": "PATIENT",
}

# What an answer says of our node; nobody matches by it.
_ABOUT_US = {"InstanceAvailability", "RetrieveAETitle"}


@dataclass(frozen=True, slots=True)
class Query:
    """An identifier, understood.

    Attributes
    ----------
    matching : mapping of str to str
        Keyword and value of each key that has to match; universal keys are not among them.
    wanted : Dataset
        The identifier, whose elements the answer repeats.
    combined : bool
        A range of dates and a range of times are one range of moments, as the caller has negotiated (PS3.4 C.2.2.2.5.3).
    """

    level: str
    matching: Mapping[str, str]
    wanted: Dataset
    combined: bool = False

    @property
    def counted(self) -> bool:
        """Whether a number of related instances is asked for or matched."""
        return any(keyword.endswith("RelatedInstances") for keyword in self.wanted.dir("RelatedInstances"))

    @property
    def supported(self) -> bool:
        """Whether each key is matched and returned (PS3.4 Table C.4-1: Pending without or with a warning)."""
        known = {*known_keys(self.level), *_ABOUT_THE_QUERY, *_ABOUT_US}
        return all(element.keyword in known for element in self.wanted if element.tag.element)  # not retired group lengths

    @property
    def exact(self) -> bool:
        """Whether the database matches all keys."""
        return self.matching.keys() <= self.narrowing.keys()

    @property
    def narrowing(self) -> dict[str, list[str]]:
        """Keys whose values the database may compare exactly."""
        return {
            keyword: value.split("\\")
            for keyword, value in self.matching.items()
            if keyword in _NARROWING and (_vr(keyword) == "UI" or not _is_wildcard(value))
        }


def parse_find(identifier: Dataset, root: Root, *, combined: bool = False) -> Query:
    """Return a C-FIND identifier as a query.

    Keys that are not known at the level match anything, and are not returned (PS3.4 C.2.2.1.3: optional keys).

    Parameters
    ----------
    combined : bool
        See `Query`.

    Raises
    ------
    RequestInvalid
        If the level is missing or is none of the model.
    """
    level = text_of(identifier, "QueryRetrieveLevel")
    if level not in root.value:
        raise RequestInvalid(
            found="a missing Query/Retrieve Level" if not level else f"the Query/Retrieve Level {level[:16]!r}",
            allowed=", ".join(root.value),
            action="name a level of this information model (PS3.4 C.6)",
        )
    known = set(known_keys(level))
    matching = {
        element.keyword: text
        for element in identifier
        if element.keyword in known and (text := text_of(identifier, element.keyword)) and set(text) != {"*"}
    }
    return Query(level, matching, identifier, combined)


def parse_get(identifier: Dataset, root: Root) -> Query:
    """Return a C-GET identifier as a query: unique keys only, and the one of its level must be given.

    Raises
    ------
    RequestInvalid
        If the level or its unique key is missing, so that nobody is sent the whole archive by mistake.
    """
    query = parse_find(identifier, root)
    unique = {keyword: value for keyword, value in query.matching.items() if keyword in UNIQUE_KEYS.values()}
    if UNIQUE_KEYS[query.level] not in unique or any(_is_wildcard(value) for value in unique.values()):
        raise RequestInvalid(
            found=f"an identifier without a plain {UNIQUE_KEYS[query.level]}",
            allowed=f"one or more values of {UNIQUE_KEYS[query.level]} at level {query.level} (PS3.4 C.4.3.1.3)",
            action="name what is to be sent by its unique key",
        )
    return Query(query.level, unique, identifier)


def select(query: Query, entities: Iterable[Entity]) -> Iterator[Entity]:
    """Return the entities that match all keys."""
    moments = [pair for pair in _MOMENTS if query.combined and all("-" in query.matching.get(name, "") for name in pair)]
    single = {name: wanted for name, wanted in query.matching.items() if not any(name in pair for pair in moments)}
    for entity in entities:
        if all(matches(entity.get(name, ""), wanted, _vr(name)) for name, wanted in single.items()) and all(
            moment_matches(entity, query.matching, *pair) for pair in moments
        ):
            yield entity


def answer(query: Query, entity: Entity, *, retrieve_ae_title: str) -> Dataset:
    """Return the response identifier of a match: each key that was asked for and is known, with its value or empty.

    References
    ----------
    DICOM PS3.4 C.2.2.1.3 (a key whose existence is not supported is not returned), C.4.1.1.3.2.
    """
    ds = Dataset()
    known = set(known_keys(query.level))
    for element in query.wanted:
        if element.keyword in known:
            ds.add(_element(element.keyword, entity.get(element.keyword, "")))
    if "InstanceAvailability" in query.wanted:
        ds.add(_element("InstanceAvailability", "ONLINE"))  # what the index knows lies on disk
    ds.add(_element("QueryRetrieveLevel", query.level))
    ds.add(_element("RetrieveAETitle", retrieve_ae_title))
    # The unique key comes back even where it was not asked for: without it an answer names nothing.
    ds.add(_element(UNIQUE_KEYS[query.level], entity.get(UNIQUE_KEYS[query.level], "")))
    ds.add(_element("SpecificCharacterSet", "\\".join(answering_set(query.wanted, ds))))
    return ds


def known_keys(level: str) -> Iterator[str]:
    """Yield the keywords that are known at a level: its own and, but for counts, those of the levels above it."""
    for name in Root.PATIENT.value:
        yield from (keyword for keyword in _ATTRIBUTES[name] if ONLY_AT.get(keyword, level) == level)
        if name == level:
            return


def _element(keyword: str, text: str) -> DataElement:
    """Return an element as held; a value that its VR does not allow was sent to us so and is not ours to judge."""
    tag = tag_for_keyword(keyword)
    vr = _vr(keyword)
    value: object = text.split("\\") if "\\" in text else text
    if vr in ("US", "UL", "IS"):
        value = whole_number(text, signed=True)
    return DataElement(tag, vr, value, validation_mode=IGNORE)  # type: ignore[arg-type]  # the keyword is a known one


def _is_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


@cache
def _vr(keyword: str) -> str:
    return dictionary_VR(keyword)
