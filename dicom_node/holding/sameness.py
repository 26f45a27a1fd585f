"""Whether two files hold the same instance, however it came: by another service, or in another plain transfer syntax. Pure."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from dicom_node.holding.headers import PARSE_ERRORS
from dicom_node.holding.skimming import file_meta_of


def same_instance(first: bytes, second: bytes) -> bool:
    """Return whether two Part 10 files hold the same dataset.

    File meta information is not looked at: a sender, a web service and an export each write their own. Uncompressed datasets
    are the same where they are so in Implicit VR Little Endian with stated lengths, when nothing but values is left; compressed
    ones only byte for byte.
    """
    metas = (file_meta_of(first), file_meta_of(second))
    if metas[0] is None or metas[1] is None:
        return False
    (names, start), (other_names, other_start) = metas[0], metas[1]
    if names[:2] != other_names[:2]:
        return False
    if names[2] == other_names[2] and memoryview(first)[start:] == memoryview(second)[other_start:]:
        return True
    if any(_is_encapsulated(syntax) for syntax in (names[2], other_names[2])):
        return False
    plain = _plain(first)
    return plain is not None and plain == _plain(second)


def _is_encapsulated(syntax: str) -> bool:
    uid = UID(syntax)
    return not uid.is_transfer_syntax or uid.is_encapsulated


def _plain(data: bytes) -> bytes | None:
    try:
        ds = dcmread(BytesIO(data))
        if not ds.file_meta.TransferSyntaxUID.is_little_endian:
            return None  # words of Pixel Data would have to be turned
        _define_lengths(ds)
        encoded: bytes | None = encode(ds, ImplicitVRLittleEndian.is_implicit_VR, ImplicitVRLittleEndian.is_little_endian)
    except PARSE_ERRORS:
        return None
    return encoded


def _define_lengths(ds: Dataset) -> None:
    """Write sequences and items with their length, and leave retired group lengths out: neither is content."""
    for element in list(ds):
        if element.tag.element == 0:
            del ds[element.tag]
        elif element.VR == "SQ":
            element.is_undefined_length = False
            for item in element.value:
                item.is_undefined_length_sequence_item = False
                _define_lengths(item)
