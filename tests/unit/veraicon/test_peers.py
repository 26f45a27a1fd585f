"""Which of the configured remotes can be called, and where C-MOVE may send."""

from __future__ import annotations

import pytest

from domain.errors import RequestInvalid
from veraicon.peers import move_destinations, named_peer, peers_of
from veraicon.settings import Settings


@pytest.mark.requirement("DICOM-QR-025")
def test_destinations_and_sources_with_a_port_are_peers_and_move_destinations() -> None:
    settings = Settings(
        sources=[
            {"name": "ct", "ae_title": "CT1", "host": "10.0.0.7", "port": 104},
            {"name": "mr", "ae_title": "MR1", "host": "10.0.0.8"},
            {"name": "pacs", "ae_title": "OLD", "host": "10.0.0.9", "port": 104},
        ],
        destinations=[{"name": "pacs", "ae_title": "PACS", "host": "10.0.0.1", "port": 11112}],
    )
    assert {name: peer.ae_title for name, peer in peers_of(settings).items()} == {"ct": "CT1", "pacs": "PACS"}
    assert set(move_destinations(settings)) == {"CT1", "OLD", "PACS"}
    assert named_peer(settings, "ct").calling_ae_title == settings.node.ae_title
    with pytest.raises(RequestInvalid, match="ct, pacs"):
        named_peer(settings, "mr")
