"""Where a generated series goes: a PACS, our own archive, or a folder. Each takes the whole series or raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydicom import Dataset

from dicom_node.archive import Archive
from dicom_node.calling.sending import store
from dicom_node.holding.files import to_part10
from dicom_node.scu import Peer
from dicom_node.web.peer import WebPeer
from dicom_node.web.peer import store as web_store
from domain.generation import Receipt
from veraicon.committing import Committer


class Destination(Protocol):
    """Takes a series; a repeat with the same instances changes nothing."""

    @property
    def name(self) -> str:
        """Name from the settings."""
        ...

    @property
    def protocol(self) -> str:
        """How a series goes there, as its receipt says."""
        ...

    def accept(self, instances: Sequence[Dataset]) -> Receipt:
        """Take every instance.

        Raises
        ------
        PeerError
            If the destination cannot be reached or refuses the association.
        PublicationError
            If it did not take every instance.
        """
        ...


@dataclass(frozen=True)
class PacsDestination:
    """A PACS that we send to by C-STORE, and that commits to what it got where the site wants that."""

    peer: Peer
    committer: Committer | None = None
    protocol: str = "dicom"

    @property
    def name(self) -> str:
        """Name from the settings."""
        return self.peer.name

    def accept(self, instances: Sequence[Dataset]) -> Receipt:
        """Send all instances, then have the PACS commit to them; see `Destination`."""
        accepted = store(self.peer, instances)
        committed = self.committer.commit(instances) if self.committer is not None else None
        return Receipt(self.name, self.protocol, accepted, datetime.now(UTC), committed)


@dataclass(frozen=True)
class DicomWebDestination:
    """A PACS that we send to by STOW-RS, for sites whose PACS speaks only DICOMweb."""

    peer: WebPeer
    protocol: str = "dicomweb"

    @property
    def name(self) -> str:
        """Name from the settings."""
        return self.peer.name

    def accept(self, instances: Sequence[Dataset]) -> Receipt:
        """Send all instances and read what the PACS says of each; see `Destination`."""
        return Receipt(self.name, self.protocol, web_store(self.peer, instances), datetime.now(UTC))


@dataclass(frozen=True)
class ArchiveDestination:
    """Our own archive, which answers C-FIND and C-GET: the default where no PACS is configured."""

    archive: Archive
    name: str = "archive"
    protocol: str = "archive"

    def accept(self, instances: Sequence[Dataset]) -> Receipt:
        """Land all instances as our own, so that they never become a source; see `Destination`."""
        for ds in instances:
            self.archive.land(to_part10(ds), source=self.name, origin="generated")
        return Receipt(self.name, self.protocol, len(instances), datetime.now(UTC))


@dataclass(frozen=True)
class FolderDestination:
    """Files in a folder, named by position in the series."""

    folder: Path
    name: str = "folder"
    protocol: str = "file"

    def accept(self, instances: Sequence[Dataset]) -> Receipt:
        """Write one Part 10 file an instance; see `Destination`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, ds in enumerate(instances, start=1):
            (self.folder / f"{number:04d}.dcm").write_bytes(to_part10(ds))
        return Receipt(self.name, self.protocol, len(instances), datetime.now(UTC))
