"""The peers of a site that we can call: its destinations, and its sources with host and port."""

from __future__ import annotations

from collections.abc import Mapping

from dicom_node.scu import Peer
from domain.errors import RequestInvalid
from veraicon.sections import DestinationSettings, SourceSettings
from veraicon.settings import Settings
from veraicon.wiring import peer_of


def peers_of(settings: Settings) -> Mapping[str, Peer]:
    """Return the peers by name; where a source has the name of a destination, the destination stands."""
    return {remote.name: peer_of(remote, settings.node) for remote in _callable(settings)}


def move_destinations(settings: Settings) -> Mapping[str, Peer]:
    """Return the peers by AE title: where C-MOVE may send."""
    return {remote.ae_title: peer_of(remote, settings.node) for remote in _callable(settings)}


def _callable(settings: Settings) -> list[DestinationSettings | SourceSettings]:
    sources: list[DestinationSettings | SourceSettings] = [one for one in settings.sources if one.host and one.port]
    return [*sources, *settings.destinations]


def named_peer(settings: Settings, name: str) -> Peer:
    """Return the peer that is called so in the settings.

    Raises
    ------
    RequestInvalid
        If there is none.
    """
    peers = peers_of(settings)
    if name not in peers:
        raise RequestInvalid(
            found="a name of no configured peer",
            allowed=", ".join(peers) or "none is configured",
            action="correct the name, or add [[destinations]], or give the source under [[sources]] its host and port",
        )
    return peers[name]
