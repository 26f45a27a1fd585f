"""A remote AE as `Remote`: C-ECHO, C-FIND, and series by C-GET or C-MOVE.

References
----------
DICOM PS3.4 C.4.1 (C-FIND), C.4.2 (C-MOVE), C.4.3 (C-GET), C.6 (information models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node import scu
from dicom_node.archive import Archive
from dicom_node.calling.pulling import pull_by_get, pull_by_move
from dicom_node.calling.remote import PullCounts, RemoteSeries, Tell
from dicom_node.presentation import FIND_CLASSES
from dicom_node.scu import Peer
from domain.errors import RequestInvalid


class By(Enum):
    """How instances come."""

    GET = "get"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class DimseRemote:
    """A peer that speaks DIMSE; see `dicom_node.calling.remote.Remote`."""

    peer: Peer
    by: By = By.GET

    @property
    def name(self) -> str:
        """Name from the settings."""
        return self.peer.name

    def echo(self) -> None:
        """Send C-ECHO."""
        scu.echo(self.peer)

    def find(self, level: str, wanted: Sequence[str], matching: Mapping[str, str]) -> list[Dataset]:
        """Send C-FIND, in the Study Root unless patients are asked for."""
        root = FIND_CLASSES[0] if level == "PATIENT" else FIND_CLASSES[1]
        return scu.find(self.peer, identifier(level, *wanted, **matching), sop_class_uid=root)

    def fetch(
        self, series: RemoteSeries, archive: Archive, *, listed: Mapping[str, str], tell: Tell | None = None
    ) -> PullCounts:
        """Fetch over our own association, or have the peer send to our node, which must be running on the same archive."""
        wanted = identifier("SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.series_uid)
        if self.by is By.MOVE:
            return pull_by_move(
                self.peer,
                wanted,
                self.peer.calling_ae_title,
                prior=series.prior,
                progress=lambda: len(archive.references({"SeriesInstanceUID": [series.series_uid]}, rejected=True)),
                tell=tell,
            )
        classes = sorted(set(listed.values()) - {""})
        return pull_by_get(self.peer, wanted, archive, sop_class_uids=classes, origin=series.origin, tell=tell)


def identifier(level: str, *wanted: str, **keys: str) -> Dataset:
    """Return a query or retrieval identifier.

    Parameters
    ----------
    level : str
        Query/Retrieve Level.
    wanted : str
        Keywords to be returned, whatever their value.
    keys : str
        Keywords with the value that they have to match.
    """
    ds = Dataset()
    for keyword, value in {**dict.fromkeys(wanted, ""), **keys, "QueryRetrieveLevel": level}.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise RequestInvalid(found=f"{keyword}, no keyword", allowed="keywords of PS3.6", action="correct the key")
        # Ranges and wildcards are no values of their VR, and right in a query.
        ds.add(DataElement(tag, dictionary_VR(tag), value or None, validation_mode=IGNORE))
    if any(not value.isascii() for value in keys.values()):
        ds.SpecificCharacterSet = "ISO_IR 192"
    return ds
