"""Instances for WADO-RS: what is held below a path, each given as held (checked, in pieces) or in another syntax."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader

from pydicom.dataset import Dataset

from dicom_node.archive import Archive
from dicom_node.web.query import resource_path
from dicom_node.web.recoding import recoded_file
from domain.errors import ResourceNotFound, UnreadableInstance
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
    """Return what is held below a study, series or instance, by Instance Number.

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
    narrowing = {keyword: [uid] for keyword, uid in path.items()}
    references = {str(reference.sop_instance_uid): reference for reference in archive.references(narrowing)}
    entities = [entity for entity in archive.find("IMAGE", narrowing) if entity["SOPInstanceUID"] in references]
    if not entities:
        raise ResourceNotFound(
            found="no instance under this path",
            allowed="a study, series or instance that is held here",
            action="search for it (QIDO-RS)",
        )
    entities.sort(key=lambda entity: (entity["SeriesInstanceUID"], _number(entity["InstanceNumber"]), entity["SOPInstanceUID"]))
    return [
        HeldInstance(references[entity["SOPInstanceUID"]], entity["AvailableTransferSyntaxUID"], resource_path(entity))
        for entity in entities
    ]


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
    with archive.instance_path(held.reference).open("rb") as file:
        _require_digest(file, held.reference.digest)
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            yield piece


def dataset(archive: Archive, held: HeldInstance) -> Dataset:
    """Return an instance with Pixel Data, checked against its digest."""
    return archive.read(held.reference)


def _require_digest(file: BufferedReader, digest: str) -> None:
    if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
        raise UnreadableInstance(
            found="bytes in the archive that are not those that were received",
            allowed="the bytes that the digest in the index was made from",
            action="restore the file from a backup, or send the series again",
        )


def _number(text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() and len(text) < 12 else 0
