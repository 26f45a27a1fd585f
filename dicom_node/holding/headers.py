"""What the index needs to know of an instance, read from its bytes without touching Pixel Data. Pure."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any, BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from dicom_node.holding.skimming import plain_text, skim
from domain.errors import InstanceMismatch, UnreadableInstance
from domain.identifiers import require_uid

# All that pydicom lets out when bytes are not what they claim to be. Programming errors of ours are not among them.
PARSE_ERRORS = (
    BytesLengthException,
    InvalidDicomError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# Column of the index and the attribute that fills it.
TEXT_ATTRIBUTES = {
    "patient_id": "PatientID",
    "patient_id_issuer": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "accession": "AccessionNumber",
    "study_id": "StudyID",
    "study_description": "StudyDescription",
    "referring_physician": "ReferringPhysicianName",
    "modality": "Modality",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "series_date": "SeriesDate",
    "series_time": "SeriesTime",
    "body_part": "BodyPartExamined",
    "protocol_name": "ProtocolName",
    "instance_number": "InstanceNumber",
    "number_of_frames": "NumberOfFrames",
}

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_US = frozenset({"Rows", "Columns"})
_IS = frozenset({"NumberOfSeriesRelatedInstances", "ImagesInAcquisition", "SeriesNumber", "InstanceNumber", "NumberOfFrames"})


def _tags(*keywords: str) -> dict[str, BaseTag]:
    return {keyword: BaseTag(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None}


_META = _tags("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
_NEEDED = _tags("SpecificCharacterSet", *_UIDS, *_US, *sorted(_IS), *TEXT_ATTRIBUTES.values())
_NEEDED_TAGS = frozenset(_NEEDED.values())
_LAST_NEEDED = max(_NEEDED_TAGS)

# PS3.3 C.12.1.1.2: in JIS X 0201 two of the codes of ASCII stand for other characters.
_OTHER_ASCII = frozenset({"ISO_IR 13", "ISO 2022 IR 13"})


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Identity and descriptive attributes of one instance; text is empty where the instance is silent.

    Attributes
    ----------
    expected_instances : int or None
        Number of Series Related Instances (0020,1209), else Images in Acquisition (0020,1002).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    expected_instances: int | None
    rows: int | None
    columns: int | None
    patient_id: str = ""
    patient_id_issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    study_date: str = ""
    study_time: str = ""
    accession: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""
    modality: str = ""
    series_number: str = ""
    series_description: str = ""
    series_date: str = ""
    series_time: str = ""
    body_part: str = ""
    protocol_name: str = ""
    instance_number: str = ""
    number_of_frames: str = ""

    def columns_of(self, row_type: type) -> dict[str, Any]:
        """Return the attributes that a row of the index has a column of the same name for."""
        names = {field.name for field in fields(self)} & set(row_type.__annotations__)
        return {name: getattr(self, name) for name in names}


def read_header(head: bytes, whole: Callable[[], BinaryIO] | None = None) -> InstanceHeader:
    """Return the header of a Part 10 file.

    A descriptive attribute that cannot be decoded reads as empty: only identity may refuse an instance, since the bytes are
    kept and decoded later with more patience.

    Parameters
    ----------
    head : bytes
        The file or its beginning, which is enough for most.
    whole : callable or None
        Opens the whole file, from its start; None where `head` is that.

    Raises
    ------
    UnreadableInstance
        If the bytes are no Part 10 file, or a UID is missing or no UID; InstanceMismatch if meta information and dataset name
        different instances.

    References
    ----------
    DICOM PS3.10 section 7.1; PS3.3 C.12.1.
    """
    texts = _skimmed(head)
    if texts is None:
        with whole() if whole is not None else BytesIO(head) as file:
            texts = _parsed(file)
    uids = {name: require_uid(texts[name], attribute=name) for name in _UIDS}
    _require_same_instance(uids, texts)
    return InstanceHeader(
        sop_class_uid=uids["SOPClassUID"],
        sop_instance_uid=uids["SOPInstanceUID"],
        transfer_syntax_uid=require_uid(texts["TransferSyntaxUID"], attribute="TransferSyntaxUID"),
        study_uid=uids["StudyInstanceUID"],
        series_uid=uids["SeriesInstanceUID"],
        expected_instances=whole_number(texts["NumberOfSeriesRelatedInstances"]) or whole_number(texts["ImagesInAcquisition"]),
        rows=whole_number(texts["Rows"]),
        columns=whole_number(texts["Columns"]),
        **{column: texts[keyword] for column, keyword in TEXT_ATTRIBUTES.items()},
    )


def _skimmed(head: bytes) -> dict[str, str] | None:
    """Return the needed attributes by keyword where they are plain, see `dicom_node.holding.skimming`."""
    found = skim(head, _NEEDED_TAGS, _LAST_NEEDED)
    if found is None:
        return None
    texts: dict[str, str] = {}
    for keyword, tag in (_META | _NEEDED).items():
        value = found.get(tag, b"")
        text = _plain_number(value) if keyword in _US else plain_text(value)
        if text is None or (keyword in _IS and text and not text.isdigit()):
            return None
        texts[keyword] = text
    return texts if texts["SpecificCharacterSet"] not in _OTHER_ASCII else None


def _plain_number(value: bytes) -> str | None:
    if not value:
        return ""
    return str(int.from_bytes(value, "little")) if len(value) == 2 else None


def _parsed(file: BinaryIO) -> dict[str, str]:
    """Return the needed attributes by keyword, read by pydicom."""
    try:
        ds = read_partial(file, stop_when=_after_needed, specific_tags=list(_NEEDED.values()))
        meta = ds.file_meta
        texts = {name: str(meta.get(name) or "").strip("\0 ") for name in _META}
        texts |= {name: str(ds.get(name) or "") for name in _UIDS}
    except (*PARSE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk failed; without a number it is pydicom's word for a tag that it cannot find
        raise UnreadableInstance(
            found=f"bytes that do not parse as DICOM ({type(error).__name__})",
            allowed="a Part 10 file with file meta information (PS3.10 7.1)",
            action="send the instance again; the bytes are kept in the archive's refused folder",
        ) from error
    return texts | {keyword: text_of(ds, keyword) for keyword in _NEEDED if keyword not in _UIDS}


def _after_needed(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Whether nothing that is needed follows: elements stand in the order of their tags (PS3.5 7.1)."""
    return bool(tag > _LAST_NEEDED)


def text_of(ds: Dataset, keyword: str) -> str:
    r"""Return an attribute as text, values joined by a backslash; empty where it is absent or cannot be decoded."""
    try:
        value = ds.get(keyword)
    except PARSE_ERRORS:
        return ""
    if value is None:
        return ""
    text = "\\".join(str(item) for item in value) if isinstance(value, MultiValue) else str(value)
    return text.replace("\0", "").strip()


def whole_number(text: str, *, signed: bool = False) -> int | None:
    """Return a text of up to nine digits as a number; None where it is something else.

    Examples
    --------
    >>> whole_number("007"), whole_number("1.5"), whole_number("-3"), whole_number("-3", signed=True)
    (7, None, None, -3)
    """
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}" if signed else r"[0-9]{1,9}", text) else None


def _require_same_instance(uids: dict[str, str], texts: dict[str, str]) -> None:
    for name in ("SOPClassUID", "SOPInstanceUID"):
        if texts[f"MediaStorage{name}"] != uids[name]:
            raise InstanceMismatch(
                found=f"another {name} in the file meta information or the C-STORE request than in the dataset",
                allowed="the same UID in both (PS3.10 7.1, PS3.4 B.2.2)",
                action="mend the sender, then send the instance again",
            )
