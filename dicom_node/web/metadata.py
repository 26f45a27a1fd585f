"""Instances as DICOM JSON without their bulk data, and the bulk data that this JSON refers to. Pure.

References
----------
DICOM PS3.18 10.4.1.1.2 (metadata resources), F.2 (DICOM JSON model), F.2.6 (BulkDataURI).
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian

from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.recoding import to_little_endian
from dicom_node.web.frames import PIXEL_KEYWORDS
from domain.errors import ResourceNotFound, UnreadableInstance

# A longer binary value is told by its address (base64 would make it a third longer again).
_INLINE_BYTES = 1024

_BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
_PIXEL_TAGS = {Tag(keyword) for keyword in PIXEL_KEYWORDS}
_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[0-9]{1,6}/[0-9A-Fa-f]{8}){0,16}")


def to_metadata(ds: Dataset, bulk_url: str) -> dict[str, Any]:
    """Return an instance in the DICOM JSON model.

    A value that the model cannot hold (wrong for its VR, not finite) is given by the address of its bytes, so nothing is lost.

    Parameters
    ----------
    ds : Dataset
        As read, with file meta information.
    bulk_url : str
        Address below which `bulk_value` is answered, without a slash at the end.

    Raises
    ------
    UnreadableInstance
        If the dataset cannot be walked through.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    try:
        if syntax == ExplicitVRBigEndian:
            to_little_endian(ds)
        correct_ambiguous_vr(ds, is_little_endian=True)
        found = _dataset(ds, bulk_url)
    except (*PARSE_ERRORS, OSError) as error:  # pydicom's word for a sequence that is none
        raise UnreadableInstance(
            found=f"an instance that cannot be given as DICOM JSON ({type(error).__name__})",
            allowed="a dataset whose elements and sequences can be told apart",
            action="retrieve it as application/dicom instead",
        ) from error
    # The text below is Unicode, whatever it was in the instance (PS3.18 F.2.1.1).
    found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    found["00083002"] = {"vr": "UI", "Value": [syntax]}
    return dict(sorted(found.items()))


def is_pixel_path(path: str) -> bool:
    """Return whether a bulk data path names the Pixel Data of the instance itself."""
    return bool(_PATH.fullmatch(path)) and "/" not in path and Tag(path) in _PIXEL_TAGS


def bulk_value(ds: Dataset, path: str) -> bytes:
    """Return the bytes of one element, little endian.

    Parameters
    ----------
    path : str
        Tag as eight hexadecimal digits; within sequences the tag of the sequence, the number of the item (from 1), and so on.

    Raises
    ------
    ResourceNotFound
        If the instance has no such element.
    """
    if _PATH.fullmatch(path):
        if str(ds.file_meta.TransferSyntaxUID) == ExplicitVRBigEndian:
            to_little_endian(ds)
        element = _element_at(ds, path.split("/"))
        if element is not None and isinstance(element.value, (bytes, bytearray)):
            return bytes(element.value)
    raise ResourceNotFound(
        found="no bulk data under this address",
        allowed="a BulkDataURI from the instance's metadata",
        action="retrieve the metadata again",
    )


def _element_at(ds: Dataset, steps: list[str]) -> DataElement | RawDataElement | None:
    for sequence, item in zip(steps[:-1:2], steps[1::2], strict=True):
        items = ds[sequence].value if sequence in ds and ds[sequence].VR == "SQ" else []
        if not 1 <= int(item) <= len(items):
            return None
        ds = items[int(item) - 1]
    # Not decoded: the bytes of a value that cannot be decoded are what was asked for.
    return ds.get_item(Tag(steps[-1])) if Tag(steps[-1]) in ds else None


def _dataset(ds: Dataset, url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tag in sorted(ds.keys()):
        if tag.element == 0:
            continue  # group lengths (PS3.18 F.2.2)
        found[f"{tag:08X}"] = _element(ds, tag, f"{url}/{tag:08X}")
    if "00080005" in found:
        found["00080005"] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return found


def _element(ds: Dataset, tag: BaseTag, url: str) -> dict[str, Any]:
    try:
        element = ds[tag]
        if element.VR == "SQ":
            return {"vr": "SQ", "Value": [_dataset(item, f"{url}/{n}") for n, item in enumerate(element.value, start=1)]}
        if element.VR in _BINARY and (tag in _PIXEL_TAGS or len(element.value or b"") > _INLINE_BYTES):
            return {"vr": str(element.VR), "BulkDataURI": url}
        found: dict[str, Any] = element.to_json_dict(None, 0)
        if not _finite(found.get("Value", ())):
            return {"vr": str(element.VR), "BulkDataURI": url}
    except (*PARSE_ERRORS, OSError):
        raw = ds.get_item(tag)
        return {"vr": str(raw.VR or "UN"), "BulkDataURI": url}
    return {**found, "vr": str(found["vr"])}


def _finite(values: Any) -> bool:
    return all(math.isfinite(value) for value in values if isinstance(value, float))
