"""Instances for WADO-RS: what is held below a path, each given as held (checked, in pieces) or in another syntax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.holding.index import Holding
from dicom_node.recoding import recoded_file
from dicom_node.web.query import resource_path
from domain.errors import ResourceNotFound
from domain.series import InstanceReference

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """An instance of the archive and where DICOMweb finds it.

    Attributes
    ----------
    transfer_syntax : str
        In which it is held.
    path : str
        Below our service, ``/studies/.../instances/...``.
    """

    reference: InstanceReference
    transfer_syntax: str
    path: str


def held_instances(archive: Archive, path: Mapping[str, str]) -> list[HeldInstance]:
    """Return what is held below a study, series or instance, series by series in the order of Instance Numbers.

    Parameters
    ----------
    archive : Archive
    path : mapping of str to str
        Keyword and UID of each level that the path names.

    Raises
    ------
    ResourceNotFound
        If nothing is.
    """
    holdings = archive.holdings({keyword: [uid] for keyword, uid in path.items()})
    if not holdings:
        raise ResourceNotFound(
            found="no instance under this path",
            allowed="a study, series or instance that is held here",
            action="search for it (QIDO-RS)",
        )
    return [HeldInstance(held.reference, held.transfer_syntax_uid, _path(held)) for held in holdings]


def pieces(archive: Archive, held: HeldInstance, transfer_syntax: str) -> Iterator[bytes]:
    """Yield the Part 10 file of an instance in a transfer syntax; as held, its very bytes after they passed their digest.

    Raises
    ------
    UnreadableInstance
        If the bytes are not those that were received.
    AnswerUnacceptable
        If it cannot be given in that syntax.
    """
    if transfer_syntax != held.transfer_syntax:
        yield recoded_file(archive.read(held.reference), transfer_syntax)
        return
    with archive.checked_file(held.reference) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def dataset(archive: Archive, held: HeldInstance) -> Dataset:
    """Return an instance with Pixel Data, checked against its digest."""
    return archive.read(held.reference)


def _path(held: Holding) -> str:
    uids = (held.study_uid, held.series_uid, str(held.reference.sop_instance_uid))
    return resource_path(dict(zip(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), uids, strict=True)))
