"""Instances that a peer sends back over an association of ours: the sub-operations of a C-GET.

References
----------
DICOM PS3.4 C.4.3.1.4 (C-GET SCU as Storage SCP).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dicom_node.archive import Archive
from dicom_node.association import wire
from dicom_node.association.direct_storage import DirectStorage
from dicom_node.association.policy import AssociationRecord
from dicom_node.association.waiting import Movement
from dicom_node.scu import Peer
from dicom_node.services.storage import InstanceReception
from dicom_node.statuses import Status


class Arrivals:
    """Lands what comes in C-STORE sub-operations, each instance straight from the connection to the disk.

    That a peer accepts a context and does not answer the role that we proposed for it, yet sends, is nothing to refuse it for.

    Attributes
    ----------
    movement : Movement or None
        Is told that bytes have come.
    no_room : bool
        An instance was refused since the disk is full or the index cannot be written.
    """

    def __init__(self, peer: Peer, archive: Archive, *, origin: str = "received") -> None:
        self._archive, self._origin = archive, origin
        self._record = AssociationRecord(calling=peer.ae_title, host=peer.host)
        self.movement: Movement | None = None
        self.no_room = False

    def begin(self, _assoc: Any, request: wire.Command, _abstract_syntax_uid: str, transfer_syntax_uid: str) -> Arriving:
        """Return the reception of one instance, see `dicom_node.association.direct_storage`."""
        reception = InstanceReception(self._archive, self._record, request, transfer_syntax_uid, origin=self._origin)
        return Arriving(self, reception)

    def moved(self) -> None:
        """Note that bytes have come: they pass by pynetdicom, where `Movement` listens."""
        if self.movement is not None:
            self.movement.start()


@dataclass(frozen=True, slots=True)
class Arriving:
    """One instance on its way in."""

    arrivals: Arrivals
    reception: InstanceReception

    def write(self, data: memoryview) -> None:
        """Take a piece of the dataset."""
        self.arrivals.moved()
        self.reception.write(data)

    def finish(self) -> tuple[int, str]:
        """Land it; return status and comment."""
        status, comment = self.reception.finish()
        self.arrivals.no_room |= status == Status.OUT_OF_RESOURCES
        self.arrivals.moved()
        return status, comment

    def abandon(self) -> None:
        """Remove what has no name yet."""
        self.reception.abandon()


@contextmanager
def received_directly(assoc: Any, arrivals: Arrivals) -> Iterator[None]:
    """Land C-STORE requests of a peer on an association that we opened, as long as this lasts."""
    direct = DirectStorage(assoc, arrivals.begin)
    try:
        yield
    finally:
        if not assoc.is_established:
            direct.abandon()
