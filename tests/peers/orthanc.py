"""Orthanc as a real PACS on loopback, with folder and ports of its own, started and stopped by the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicom_node.scu import Peer
from tests.peers.dcmtk import await_port


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: its DICOM side as a peer, its own HTTP side to look inside."""

    peer: Peer
    url: str

    def get(self, path: str) -> Any:
        """Return the JSON of a REST path."""
        return httpx.get(f"{self.url}{path}", timeout=10.0).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        """Return the JSON answer to a JSON body."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60.0).raise_for_status().json()

    def file(self, instance: str) -> bytes:
        """Return the Part 10 file of an instance, by Orthanc's own id."""
        return httpx.get(f"{self.url}/instances/{instance}/file", timeout=10.0).raise_for_status().content


def find_orthanc() -> str:
    """Return the program, or skip by its name."""
    found = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if found is None:
        pytest.skip("PACS not here: Orthanc (Debian package orthanc)")
    return found


def find_dicomweb() -> str:
    """Return Orthanc's DICOMweb plugin, or skip by its name."""
    plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if not plugin.exists():
        pytest.skip("DICOMweb plugin not here: libOrthancDicomWeb.so (Debian package orthanc-dicomweb)")
    return str(plugin)


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    dicom_port: int,
    http_port: int,
    node_port: int,
    node_ae_title: str = "VERAICON",
    deadline_s: float = 30.0,
    more: Mapping[str, object] | None = None,
) -> Iterator[Orthanc]:
    """Run Orthanc with everything in `folder`; it knows us as modality ``veraicon``. `more` adds settings of its own."""
    program = find_orthanc()
    settings = folder / "orthanc.json"
    settings.write_text(
        json.dumps({**_settings(folder, dicom_port, http_port, node_port, node_ae_title), **(more or {})}), encoding="utf-8"
    )
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(settings)], env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            await_port(process, http_port, deadline_s)
            await_port(process, dicom_port, deadline_s)
            peer = Peer("orthanc", "ORTHANC", "127.0.0.1", dicom_port, node_ae_title, timeout_s=15.0)
            yield Orthanc(peer, f"http://127.0.0.1:{http_port}")
        finally:
            process.kill()  # nobody reads what it would still write
            process.wait(timeout=30)


def _settings(folder: Path, dicom_port: int, http_port: int, node_port: int, node_ae_title: str) -> dict[str, object]:
    node = {"AET": node_ae_title, "Host": "127.0.0.1", "Port": node_port, "AllowEcho": True, "AllowStore": True}
    node["AllowStorageCommitment"] = True
    return {
        "Name": "peer",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "TemporaryDirectory": str(folder),
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomPort": dicom_port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": 131072,
        "UnknownSopClassAccepted": True,
        "StableAge": 2,
        "OverwriteInstances": False,
        "DicomModalities": {"veraicon": node},
    }


@contextmanager
def running_dicomweb_orthanc(folder: Path, free_port: Callable[[], int]) -> Iterator[Orthanc]:
    """Run Orthanc with its DICOMweb plugin, in a new folder and on free ports."""
    more = {"Plugins": [find_dicomweb()], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    folder.mkdir()
    with running_orthanc(folder, dicom_port=free_port(), http_port=free_port(), node_port=free_port(), more=more) as running:
        yield running
