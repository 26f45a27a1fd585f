"""What the settings and older records say of commitment."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.generation import Receipt
from veraicon.artifacts import json_codec, save
from veraicon.node_services import report_addresses, unheard_destinations
from veraicon.settings import Settings, load_settings
from veraicon.wiring import open_site

_TOML = """
[storage]
folder = "data"
[[sources]]
name = "mr"
ae_title = "MR1"
host = "10.0.0.7"
port = 4006
[[sources]]
name = "ct"
ae_title = "CT1"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "pacs.example"
port = 104
[[destinations]]
name = "store"
ae_title = "STORE"
host = "store.example"
port = 104
commitment = "off"
"""


def _settings(folder: Path) -> Settings:
    path = folder / "veraicon.toml"
    path.write_text(_TOML.replace('"data"', f'"{folder / "data"}"'), encoding="utf-8")
    return load_settings(path)


@pytest.mark.requirement("DICOM-SC-004")
def test_reports_can_be_brought_to_sources_with_a_port_and_to_destinations(tmp_path: Path) -> None:
    addresses = report_addresses(_settings(tmp_path))
    assert {title: (peer.host, peer.port) for title, peer in addresses.items()} == {
        "MR1": ("10.0.0.7", 4006),
        "PACS": ("pacs.example", 104),
        "STORE": ("store.example", 104),
    }
    assert {peer.calling_ae_title for peer in addresses.values()} == {"VERAICON"}


def test_a_destination_that_may_not_call_us_back_is_told(tmp_path: Path) -> None:
    assert unheard_destinations(_settings(tmp_path)) == ["pacs"]
    assert unheard_destinations(load_settings(storage={"folder": str(tmp_path)})) == []


def test_each_destination_is_asked_to_commit_as_its_settings_say(tmp_path: Path) -> None:
    with open_site(_settings(tmp_path)) as site:
        committers = {destination.name: destination.committer for destination in site.destinations}  # type: ignore[attr-defined]
        assert committers["store"] is None
        assert not committers["pacs"].required


def test_a_receipt_of_an_older_version_reads_as_not_asked(tmp_path: Path) -> None:
    codec, path = json_codec(Receipt), tmp_path / "receipt.json"
    path.write_text('{"destination": "pacs", "protocol": "dicom", "instances": 3, "accepted_at": "2025-01-02T03:04:05Z"}')
    assert codec.read(path) == Receipt("pacs", "dicom", 3, datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC))
    save(path, codec, Receipt("pacs", "dicom", 3, datetime(2025, 1, 2, tzinfo=UTC), committed=True))
    assert codec.read(path).committed is True
