"""What the index needs to know of an instance, read from its bytes without touching Pixel Data. Pure."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

from domain.errors import UnreadableInstance
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

_NEEDED = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfSeriesRelatedInstances",
    "ImagesInAcquisition",
    *TEXT_ATTRIBUTES.values(),
]


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


def read_header(data: bytes) -> InstanceHeader:
    """Return the header of a Part 10 file.

    A descriptive attribute that cannot be decoded reads as empty: only identity may refuse an instance, since the bytes are
    kept and decoded later with more patience.

    Raises
    ------
    UnreadableInstance
        If the bytes are no Part 10 file, a UID is missing or no UID, or meta information and dataset name different instances.

    References
    ----------
    DICOM PS3.10 section 7.1; PS3.3 C.12.1.
    """
    try:
        ds = dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=list(_NEEDED))
        meta = ds.file_meta
        transfer_syntax = meta.get("TransferSyntaxUID")
        named = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        uids = {name: ds.get(name) for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    except PARSE_ERRORS as error:
        raise UnreadableInstance(
            found=f"bytes that do not parse as DICOM ({type(error).__name__})",
            allowed="a Part 10 file with file meta information (PS3.10 7.1)",
            action="send the instance again; the bytes are kept in the archive's refused folder",
        ) from error
    header_uids = {name: require_uid(value, attribute=name) for name, value in uids.items()}
    _require_same_instance(header_uids, named)
    return InstanceHeader(
        sop_class_uid=header_uids["SOPClassUID"],
        sop_instance_uid=header_uids["SOPInstanceUID"],
        transfer_syntax_uid=require_uid(transfer_syntax, attribute="TransferSyntaxUID"),
        study_uid=header_uids["StudyInstanceUID"],
        series_uid=header_uids["SeriesInstanceUID"],
        expected_instances=_number(ds, "NumberOfSeriesRelatedInstances") or _number(ds, "ImagesInAcquisition"),
        rows=_number(ds, "Rows"),
        columns=_number(ds, "Columns"),
        **{column: text_of(ds, keyword) for column, keyword in TEXT_ATTRIBUTES.items()},
    )


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


def _number(ds: Dataset, keyword: str) -> int | None:
    text = text_of(ds, keyword)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _require_same_instance(uids: dict[str, str], named: tuple[object, object]) -> None:
    for name, meta_value in zip(("SOPClassUID", "SOPInstanceUID"), named, strict=True):
        if str(meta_value or "").strip("\0 ") != uids[name]:
            raise UnreadableInstance(
                found=f"another {name} in the file meta information or the C-STORE request than in the dataset",
                allowed="the same UID in both (PS3.10 7.1, PS3.4 B.2.2)",
                action="mend the sender, then send the instance again",
            )
