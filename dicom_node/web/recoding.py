"""Gives an instance in another transfer syntax, without a loss: the same instance, bit for bit in its pixels.

References
----------
DICOM PS3.5 Annex A (transfer syntaxes), 8.2 (encapsulated Pixel Data).
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_node.holding.files import to_part10
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.web.media_types import is_compressed
from domain.errors import AnswerUnacceptable

# Bytes in a word of the VRs whose values are stored as they lie in memory (PS3.5 7.3).
_WORDS = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


def recode(ds: Dataset, target: str) -> Dataset:
    """Return an instance in another transfer syntax; the dataset is changed in place.

    Parameters
    ----------
    ds : Dataset
        With file meta information, as read.
    target : str
        See `dicom_node.web.media_types.can_recode`.

    Raises
    ------
    AnswerUnacceptable
        If its Pixel Data cannot be decoded or encoded here.
    """
    held = str(ds.file_meta.TransferSyntaxUID)
    if held == target:
        return ds
    try:
        if held == ExplicitVRBigEndian:
            to_little_endian(ds)
        if is_compressed(held) and "PixelData" in ds:
            ds.decompress(generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if target != ExplicitVRLittleEndian and "PixelData" in ds:
            ds.compress(UID(target), generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = UID(target)
    except (*PARSE_ERRORS, OSError, RuntimeError) as error:
        raise AnswerUnacceptable(
            found=f"an instance held in {UID(held).name} that cannot be given in {UID(target).name} ({type(error).__name__})",
            allowed="the transfer syntax in which it is held",
            action="accept transfer-syntax=*",
        ) from error
    return ds


def recoded_file(ds: Dataset, target: str) -> bytes:
    """Return `recode` as a Part 10 file.

    Raises
    ------
    AnswerUnacceptable
        As `recode`, or if the dataset holds values that cannot be written again.
    """
    try:
        return to_part10(recode(ds, target))
    except (*PARSE_ERRORS, OSError) as error:
        raise AnswerUnacceptable(
            found=f"an instance whose attributes cannot be encoded again ({type(error).__name__})",
            allowed="the transfer syntax in which it is held",
            action="accept transfer-syntax=*",
        ) from error


def to_little_endian(ds: Dataset) -> None:
    """Turn the words of binary values of a dataset that was read as big endian.

    Every other value is turned when it is decoded, so all are decoded here.
    """
    for element in ds.iterall():
        width = _WORDS.get(element.VR)
        if element.keyword == "PixelData" and width:
            width = max(width, int(ds.BitsAllocated) // 8)
        if width and isinstance(element.value, bytes):
            element.value = np.frombuffer(element.value, f">u{width}").astype(f"<u{width}").tobytes()
