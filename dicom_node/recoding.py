"""An instance in the transfer syntax that its receiver takes, without a loss: the same instance, bit for bit in its pixels.

References
----------
DICOM PS3.5 Annex A (transfer syntaxes), 8.2 (encapsulated Pixel Data).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicom_node.holding.files import to_part10
from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.skimming import file_meta_of
from domain.errors import AnswerUnacceptable, UnreadableInstance

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


def encoded_dataset(data: bytes, transfer_syntax_uid: str) -> memoryview:
    """Return the dataset of a Part 10 file as a C-STORE carries it: its very bytes in its own transfer syntax.

    Parameters
    ----------
    data : bytes
        The file.
    transfer_syntax_uid : str
        Its own, or an uncompressed one, for which it is decoded where it must be.

    Raises
    ------
    UnreadableInstance
        If the bytes do not parse, or their attributes cannot be encoded again.
    AnswerUnacceptable
        If its Pixel Data cannot be decoded here.
    """
    meta = file_meta_of(data)
    if meta is not None and meta[0][2] == transfer_syntax_uid:
        return memoryview(data)[meta[1] :]
    target = UID(transfer_syntax_uid)
    try:
        ds: Dataset = dcmread(BytesIO(data))
        if ds.file_meta.TransferSyntaxUID != target:
            ds = _without_group_lengths(recode(ds, ExplicitVRLittleEndian))
        encoded = encode(ds, target.is_implicit_VR, target.is_little_endian, target.is_deflated)
    except PARSE_ERRORS as error:
        raise _not_encoded(target) from error
    if encoded is None:
        raise _not_encoded(target)
    return memoryview(encoded)


def is_compressed(transfer_syntax: str) -> bool:
    """Return whether Pixel Data is encapsulated in a transfer syntax; an unknown private one counts as such."""
    uid = UID(transfer_syntax)
    return not uid.is_transfer_syntax or (uid.is_compressed and uid != DeflatedExplicitVRLittleEndian)


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


def _without_group_lengths(ds: Dataset) -> Dataset:
    """Drop retired group length elements, whose values another encoding makes untrue (PS3.5 7.2)."""
    for tag in [element.tag for element in ds if element.tag.element == 0]:
        del ds[tag]
    return ds


def _not_encoded(target: UID) -> UnreadableInstance:
    return UnreadableInstance(
        found=f"an instance that does not parse, or whose attributes cannot be encoded in {target.name}",
        allowed="a Part 10 file with file meta information (PS3.10 7.1)",
        action="let the receiver accept the transfer syntax of the instance, or mend the instance",
    )
