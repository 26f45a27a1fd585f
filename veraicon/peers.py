"""The peers of a site that we can call: its destinations, its sources with host and port, and its DICOMweb peers."""

from __future__ import annotations

from collections.abc import Mapping

from dicom_node.calling.dimse import By, DimseRemote
from dicom_node.calling.remote import Remote
from dicom_node.calling.web import WebRemote
from dicom_node.scu import Peer
from domain.errors import RequestInvalid
from veraicon.sections import DestinationSettings, SourceSettings
from veraicon.settings import Settings
from veraicon.wiring import peer_of, web_peer_of


def peers_of(settings: Settings) -> Mapping[str, Peer]:
    """Return the DIMSE peers by name; where a source has the name of a destination, the destination stands."""
    return {remote.name: peer_of(remote, settings.node) for remote in _callable(settings)}


def move_destinations(settings: Settings) -> Mapping[str, Peer]:
    """Return the peers by AE title: where C-MOVE may send."""
    return {remote.ae_title: peer_of(remote, settings.node) for remote in _callable(settings)}


def _callable(settings: Settings) -> list[DestinationSettings | SourceSettings]:
    sources: list[DestinationSettings | SourceSettings] = [one for one in settings.sources if one.host and one.port]
    return [*sources, *settings.destinations]


def named_remote(settings: Settings, name: str, *, by: By | None = None) -> Remote:
    """Return what is called so in the settings, to be asked and fetched from by the protocol that it speaks.

    A destination or a DICOMweb peer stands above a source of the same name.

    Parameters
    ----------
    by : By or None
        How a DIMSE peer gives its instances; None: C-GET.

    Raises
    ------
    RequestInvalid
        If nothing is called so, or `by` is given for a peer that speaks DICOMweb.
    """
    web = {remote.name: web_peer_of(remote) for remote in settings.dicomweb}
    if name in web and by is not None:
        raise RequestInvalid(
            found=f"{name}, which speaks DICOMweb, with a way of DIMSE ({by.value})",
            allowed="no --by: its series come by WADO-RS",
            action="leave --by out",
        )
    if name in web:
        return WebRemote(web[name])
    peers = peers_of(settings)
    if name not in peers:
        raise RequestInvalid(
            found="a name of no configured peer",
            allowed=", ".join(dict.fromkeys([*peers, *web])) or "none is configured",
            action="correct the name, or add [[destinations]] or [[dicomweb]], or give the source its host and port",
        )
    return DimseRemote(peers[name], by or By.GET)
