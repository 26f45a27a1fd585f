"""Matching of query identifiers against what the archive holds. Pure.

References
----------
DICOM PS3.4 C.2.2.2 (attribute matching), C.4.1.1.3 and C.4.3.1.3 (identifiers), C.6 (information models).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.entities import Entity
from dicom_node.headers import text_of
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

_NO_WILDCARD = {"UI", "DA", "TM", "DT", "IS", "DS", "US", "UL", "SS", "SL", "AS", "AT", "FD", "FL"}
_ABOUT_THE_QUERY = {"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC", "QueryRetrieveView"}


@dataclass(frozen=True, slots=True)
class Query:
    """An identifier, understood.

    Attributes
    ----------
    matching : mapping of str to str
        Keyword and value of each key that has to match; universal keys are not among them.
    wanted : Dataset
        The identifier, whose elements the answer repeats.
    """

    level: str
    matching: Mapping[str, str]
    wanted: Dataset

    @property
    def narrowing(self) -> dict[str, list[str]]:
        """Keys whose values the database may compare exactly."""
        return {
            keyword: value.split("\\")
            for keyword, value in self.matching.items()
            if keyword in _NARROWING and (_vr(keyword) == "UI" or not _is_wildcard(value))
        }


def parse_find(identifier: Dataset, root: Root) -> Query:
    """Return a C-FIND identifier as a query.

    Keys that are not known at the level are returned empty and match anything (PS3.4 C.2.2.1.3: optional keys).

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
    known = set(_known(level))
    matching = {
        element.keyword: text
        for element in identifier
        if element.keyword in known and (text := text_of(identifier, element.keyword)) and set(text) != {"*"}
    }
    return Query(level, matching, identifier)


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


def select(query: Query, entities: Sequence[Entity]) -> Iterator[Entity]:
    """Return the entities that match all keys."""
    for entity in entities:
        if all(matches(entity.get(keyword, ""), wanted, _vr(keyword)) for keyword, wanted in query.matching.items()):
            yield entity


def matches(value: str, wanted: str, vr: str) -> bool:
    r"""Return whether an attribute matches a key.

    Parameters
    ----------
    value : str
        As held; several values joined by a backslash, of which one has to match.
    wanted : str
        Single value, list, wildcard or range.
    vr : str
        Value representation of the attribute.

    Examples
    --------
    >>> matches("Doe^Jane", "doe*", "PN"), matches("HEAD", "head", "CS")
    (True, False)
    >>> matches("20240105", "20240101-20240131", "DA"), matches("20240105", "-20231231", "DA")
    (True, False)
    >>> matches("1.2.3", r"1.2.4\1.2.3", "UI")
    True
    """
    return any(_matches_one(held, one, vr) for held in value.split("\\") for one in wanted.split("\\"))


def answer(query: Query, entity: Entity, *, retrieve_ae_title: str) -> Dataset:
    """Return the response identifier of a match: each key that was asked for, with its value or empty.

    References
    ----------
    DICOM PS3.4 C.4.1.1.3.2.
    """
    ds = Dataset()
    known = set(_known(query.level))
    for element in query.wanted:
        if element.tag.is_private or element.keyword in _ABOUT_THE_QUERY or not element.keyword:
            continue
        value = entity.get(element.keyword, "") if element.keyword in known else ""
        ds.add(_element(element.keyword, value))
    ds.add(_element("SpecificCharacterSet", "ISO_IR 192"))
    ds.add(_element("QueryRetrieveLevel", query.level))
    ds.add(_element("RetrieveAETitle", retrieve_ae_title))
    # The unique key comes back even where it was not asked for: without it an answer names nothing.
    ds.add(_element(UNIQUE_KEYS[query.level], entity.get(UNIQUE_KEYS[query.level], "")))
    return ds


def _known(level: str) -> Iterator[str]:
    for name in Root.PATIENT.value:
        yield from _ATTRIBUTES[name]
        if name == level:
            return


def _element(keyword: str, text: str) -> DataElement:
    """Return an element as held; a value that its VR does not allow was sent to us so and is not ours to judge."""
    tag = tag_for_keyword(keyword)
    vr = _vr(keyword)
    value: object = text.split("\\") if "\\" in text else text
    if vr in ("US", "UL", "IS"):
        value = int(text) if re.fullmatch(r"\d{1,9}", text) else None
    elif vr == "SQ":
        value = []
    return DataElement(tag, vr, value, validation_mode=IGNORE)  # type: ignore[arg-type]  # the keyword is a known one


def _matches_one(value: str, wanted: str, vr: str) -> bool:
    value, wanted = value.strip(), wanted.strip()
    if vr in ("DA", "TM", "DT"):
        return _in_range(value, wanted, vr)
    if vr in _NO_WILDCARD:
        return value == wanted
    if vr == "PN":
        # PS3.4 C.2.2.2.1 leaves the case of names to the SCP; trailing carets carry no meaning.
        return bool(_pattern(wanted.rstrip("^").casefold()).fullmatch(value.rstrip("^").casefold()))
    return bool(_pattern(wanted).fullmatch(value))


def _in_range(value: str, wanted: str, vr: str) -> bool:
    """Compare text, padded to one length: DA as YYYYMMDD, TM as HHMMSS.FFFFFF (PS3.4 C.2.2.2.5)."""
    if not value:
        return False
    low, dash, high = wanted.partition("-")
    held = _padded(value, vr, "0")
    if not dash:
        return held == _padded(low, vr, "0")
    return (not low or held >= _padded(low, vr, "0")) and (not high or held <= _padded(high, vr, "9"))


def _padded(text: str, vr: str, fill: str) -> str:
    digits = re.sub(r"[^0-9]", "", text)
    return digits.ljust(8 if vr == "DA" else 12, fill)


def _is_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


@cache
def _vr(keyword: str) -> str:
    return dictionary_VR(keyword)


def _pattern(wanted: str) -> re.Pattern[str]:
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(character) or re.escape(character) for character in wanted), re.DOTALL)
