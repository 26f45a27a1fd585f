"""Telling a place that holds a copy: it gets the rejection note, and is asked whether it keeps it and what it still shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.calling.dimse import DimseRemote
from dicom_node.calling.remote import Remote
from dicom_node.calling.sending import store
from dicom_node.calling.web import WebRemote
from dicom_node.holding.headers import text_of
from dicom_node.scu import Peer
from dicom_node.web.peer import WebPeer
from dicom_node.web.peer import store as web_store
from veraicon.committing import Committer, committer_of
from veraicon.peers import peers_of
from veraicon.recall.records import CopyState
from veraicon.wiring import Site, peer_of, web_peer_of

# Protocols by which our own archive gave something to an AE title.
_BY_TITLE = frozenset({"c-get", "c-move"})


@dataclass(frozen=True)
class Place:
    """A peer that we can call about its copy.

    Attributes
    ----------
    send : callable
        Sends the note; raises as `dicom_node.calling.sending.store`.
    committer : Committer or None
        Asks it to commit to the note, where the settings want that of it.
    """

    remote: Remote
    send: Callable[[Dataset], object]
    committer: Committer | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a place shows and keeps of one output.

    Attributes
    ----------
    note_found : bool
        Whether a query finds the note. A PACS that hides expired data hides their note too.
    committed : bool or None
        Whether it committed to the note; None where it was not asked or does not offer it.
    shown, total : int
        Rejected instances that a query still finds, of how many.
    """

    note_found: bool
    committed: bool | None
    shown: int
    total: int

    @property
    def state(self) -> CopyState:
        """What the answer means."""
        return CopyState.STILL_SHOWN if self.shown else CopyState.HIDDEN

    @property
    def words(self) -> str:
        """The answer for people."""
        kept = "found by a query" if self.note_found else "not found by a query"
        promise = {True: ", committed to", False: ", commitment not reported in time", None: ""}[self.committed]
        return f"the note was accepted, {kept}{promise}; {self.shown} of {self.total} instances are still shown"


def place_of(site: Site, recipient: str, protocol: str) -> Place | None:
    """Return how a holder of a copy is called; None where nobody of our settings is meant."""
    settings = site.settings
    web = {remote.name: web_peer_of(remote) for remote in settings.dicomweb}
    if protocol == "dicomweb" and recipient in web:
        return _web_place(web[recipient])
    for destination in settings.destinations:
        if (protocol == "dicom" and destination.name == recipient) or (
            protocol in _BY_TITLE and destination.ae_title == recipient
        ):
            peer = peer_of(destination, settings.node)
            return _dimse_place(peer, committer_of(destination, peer, site.engine))
    callable_peers = {peer.ae_title: peer for peer in peers_of(settings).values()}
    if protocol in _BY_TITLE and recipient in callable_peers:
        return _dimse_place(callable_peers[recipient], None)
    return None


def ask(place: Place, note: Dataset, series: Mapping[str, Sequence[tuple[str, str]]]) -> Answer:
    """Ask a place that has got the note whether it keeps it and which of the rejected instances it still shows.

    Parameters
    ----------
    series : mapping of str to sequence of (str, str)
        Series Instance UID and the classes and UIDs of its rejected instances.

    Raises
    ------
    PeerError
        If it cannot be asked.
    """
    study = str(note.StudyInstanceUID)
    found = _shown(place, study, str(note.SeriesInstanceUID))
    committed = place.committer.commit([note]) if place.committer is not None else None
    shown = sum(len(_shown(place, study, uid) & {one for _, one in instances}) for uid, instances in series.items())
    total = sum(len(instances) for instances in series.values())
    return Answer(str(note.SOPInstanceUID) in found, committed, shown, total)


def _shown(place: Place, study_uid: str, series_uid: str) -> set[str]:
    asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
    return {text_of(ds, "SOPInstanceUID") for ds in place.remote.find("IMAGE", ("SOPInstanceUID",), asked)}


def _dimse_place(peer: Peer, committer: Committer | None) -> Place:
    return Place(DimseRemote(peer), lambda note: store(peer, [note]), committer)


def _web_place(peer: WebPeer) -> Place:
    return Place(WebRemote(peer), lambda note: web_store(peer, [note]))
