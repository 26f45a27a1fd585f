"""An instance that is to be sent: named by its file meta information, its bytes read when its turn comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.holding.skimming import file_meta_of
from dicom_node.recoding import encoded_dataset
from domain.errors import UnreadableInstance

# File meta information with private parts stays below this.
_META_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is proposed for an instance, and how its Part 10 bytes are had."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    load: Callable[[], bytes]

    @classmethod
    def of(cls, source: Dataset | Path) -> Outgoing:
        """Return a dataset with file meta information, or a Part 10 file, as an instance to send.

        Raises
        ------
        UnreadableInstance
            If a file is no Part 10 file.
        """
        if isinstance(source, Path):
            with source.open("rb") as file:
                names = _meta(file.read(_META_BYTES))
            return cls(*names, source.read_bytes)
        meta = source.file_meta
        return cls(str(source.SOPClassUID), str(source.SOPInstanceUID), str(meta.TransferSyntaxUID), lambda: to_part10(source))

    def encoded(self, transfer_syntax_uid: str) -> memoryview:
        """Return the dataset in a transfer syntax, see `dicom_node.recoding.encoded_dataset`."""
        return encoded_dataset(self.load(), transfer_syntax_uid)


def _meta(head: bytes) -> tuple[str, str, str]:
    found = file_meta_of(head)
    if found is None:
        raise UnreadableInstance(
            found="a file to be sent that does not parse as DICOM",
            allowed="a Part 10 file with file meta information (PS3.10 7.1)",
            action="leave it out, or mend it",
        )
    return found[0]
