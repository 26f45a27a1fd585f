"""Which of the configured remotes can be called, by what protocol, and where C-MOVE may send."""

from __future__ import annotations

import pytest

from dicom_node.calling.dimse import By, DimseRemote
from dicom_node.calling.web import WebRemote
from domain.errors import RequestInvalid
from veraicon.peers import move_destinations, named_remote, peers_of
from veraicon.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings(
        sources=[
            {"name": "ct", "ae_title": "CT1", "host": "10.0.0.7", "port": 104},
            {"name": "mr", "ae_title": "MR1", "host": "10.0.0.8"},
            {"name": "pacs", "ae_title": "OLD", "host": "10.0.0.9", "port": 104},
            {"name": "cloud", "ae_title": "CLOUD", "host": "10.0.0.6", "port": 104},
        ],
        destinations=[{"name": "pacs", "ae_title": "PACS", "host": "10.0.0.1", "port": 11112}],
        dicomweb=[{"name": "cloud", "url": "https://pacs.example/dicom-web", "token": "canary-token", "qido_prefix": "/qido/"}],
    )


@pytest.mark.requirement("DICOM-QR-025")
def test_destinations_and_sources_with_a_port_are_peers_and_move_destinations(settings: Settings) -> None:
    titles = {name: peer.ae_title for name, peer in peers_of(settings).items()}
    assert titles == {"ct": "CT1", "cloud": "CLOUD", "pacs": "PACS"}
    assert set(move_destinations(settings)) == {"CT1", "OLD", "CLOUD", "PACS"}


@pytest.mark.requirement("DICOM-PULL-007")
def test_a_name_stands_for_one_peer_and_its_protocol(settings: Settings) -> None:
    dimse = named_remote(settings, "ct", by=By.MOVE)
    assert isinstance(dimse, DimseRemote)
    assert (dimse.peer.calling_ae_title, dimse.by) == (settings.node.ae_title, By.MOVE)
    web = named_remote(settings, "cloud")
    assert isinstance(web, WebRemote), "it stands above a source of the same name"
    assert (web.peer.token, web.peer.qido_prefix) == ("canary-token", "qido")
    assert "canary" not in repr(web)
    with pytest.raises(RequestInvalid, match="DICOMweb"):
        named_remote(settings, "cloud", by=By.GET)
    with pytest.raises(RequestInvalid, match="ct, pacs, cloud"):
        named_remote(settings, "mr")
