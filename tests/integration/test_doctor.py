"""`veraicon doctor` says of ports, disk and peers what is so."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from tests.peers.dcmtk import running_storescp
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.doctor import Check, examine
from veraicon.settings import load_settings


def examined(site: VeraiconSite) -> dict[str, Check]:
    checks = examine(load_settings(site.config))
    return {check.name: check for check in checks}


def test_ports_are_free_before_the_start_and_answer_while_serve_runs(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path, free_port, "[worker]\nembedded = false\n") as site:
        before = examined(site)
        assert before["DICOM port"].detail == f"{site.node_port} is free: serve does not run"
        site.serve()
        during = examined(site)
        assert (during["DICOM port"].ok, during["HTTP port"].ok) == (True, True)
        assert during["DICOM port"].detail == f"{site.node_port} answers C-ECHO"
        moved = load_settings(site.config, node={"port": free_port()})
        (port,) = [check for check in examine(moved) if check.name == "DICOM port"]
        assert (port.ok, "restart it" in port.detail) == (False, True)


def test_a_port_of_somebody_else_is_told(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path, free_port) as site, socket.socket() as somebody:
        somebody.bind(("127.0.0.1", site.node_port))
        somebody.listen()
        told = examined(site)
    assert (told["DICOM port"].ok, told["HTTP port"].ok) == (False, True)
    assert "cannot be listened on" in told["DICOM port"].detail


def test_a_disk_without_the_room_that_must_be_left_is_told(tmp_path: Path, free_port: Callable[[], int]) -> None:
    with veraicon_site(tmp_path, free_port) as site:
        assert examined(site)["storage"].ok
        short = load_settings(site.config, storage={"folder": str(tmp_path / "data"), "min_free_mib": 10**8})
        (storage,) = [check for check in examine(short) if check.name == "storage"]
    assert (storage.ok, "StorageExhausted" in storage.detail) == (False, True)


def test_a_source_that_we_call_back_is_asked_too(tmp_path: Path, free_port: Callable[[], int]) -> None:
    there, away = free_port(), free_port()
    toml = "".join(
        f'[[sources]]\nname = "{name}"\nae_title = "ANY"\nhost = "127.0.0.1"\n' + (f"port = {port}\n" if port else "")
        for name, port in (("there", there), ("away", away), ("caller", 0))
    )
    (tmp_path / "scp").mkdir()
    with running_storescp(tmp_path / "scp", there), veraicon_site(tmp_path / "site", free_port, toml) as site:
        told = examined(site)
    assert (told["source there"].ok, told["source away"].ok, "source caller" in told) == (True, False, False)
