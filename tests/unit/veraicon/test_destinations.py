from __future__ import annotations

from pathlib import Path

from veraicon.destinations import ArchiveDestination, DicomWebDestination
from veraicon.settings import load_settings
from veraicon.wiring import open_site


def test_a_dicomweb_pacs_gets_what_is_published_unless_it_is_only_read(tmp_path: Path) -> None:
    pacs = {"name": "web", "url": "https://pacs.example/dicom-web/", "token": "hunter2-canary", "wado_prefix": "/wado/"}
    for publish, kind in ((True, DicomWebDestination), (False, ArchiveDestination)):
        settings = load_settings(storage={"folder": str(tmp_path / "data")}, dicomweb=[{**pacs, "publish": publish}])
        with open_site(settings) as site:
            (destination,) = site.destinations
            assert isinstance(destination, kind)
            assert "hunter2-canary" not in repr(site.destinations) + repr(settings)
            if isinstance(destination, DicomWebDestination):
                assert (destination.peer.token, destination.peer.wado_prefix) == ("hunter2-canary", "wado")
