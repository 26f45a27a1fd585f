"""A disk that fills up while instances come: a small file system of its own, mounted where the test may do so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicom_node.archive import Archive
from dicom_node.holding.files import to_part10
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo
from tests.builders_dicom import new_archive, slice_dataset
from tests.peers.raw_scu import COMMAND, DATA, DATASET, LAST, RELEASE, pdu, pdv, raw_scu, status_of, store_rq

_MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount is not None and os.getuid() == 0
    command = [str(mount), "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("small disk not here: mounting a tmpfs needs root and its permission")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.requirement("DICOM-STORE-006")
@pytest.mark.parametrize("min_free", [2 * _MIB, 0], ids=["before it is full", "when it is full"])
def test_a_full_disk_is_told_and_what_was_acknowledged_is_safe_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, min_free: int
) -> None:
    archive = Archive(new_archive(tmp_path / "node")._index._engine, small_disk / "archive", min_free_bytes=min_free)
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0)
    node.start()
    sent = [slice_dataset(number, np.full((512, 512), number, np.uint16)) for number in range(1, 25)]
    encoded = [_dataset_of(to_part10(ds)) for ds in sent]
    try:
        with raw_scu(node.port) as raw:
            raw.associate((MRImageStorage, ExplicitVRLittleEndian))
            statuses = [
                raw.store(1, MRImageStorage, ds.SOPInstanceUID, data, number)
                for number, (ds, data) in enumerate(zip(sent, encoded, strict=True), start=1)
            ]
            assert set(statuses) == {0x0000, 0xA700}, "each is answered on one association"
            assert shutil.disk_usage(small_disk).free >= min_free - len(encoded[0]), "looked at before each instance"
            assert not list(small_disk.rglob("*.part"))
            for ds, status in zip(sent, statuses, strict=True):
                references = archive.references({"SOPInstanceUID": [str(ds.SOPInstanceUID)]})
                assert len(references) == (1 if status == 0x0000 else 0)
                assert all(archive.read(reference).PixelData == ds.PixelData for reference in references)
            subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
            late = statuses.index(0xA700)
            assert raw.store(1, MRImageStorage, sent[late].SOPInstanceUID, encoded[late], 99) == 0x0000
            raw.send(pdu(RELEASE, bytes(4)))
        echo(Peer("node", "VERAICON", "127.0.0.1", node.port, "TEST", timeout_s=10.0))
    finally:
        node.stop()


def _dataset_of(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]


@pytest.mark.requirement("DICOM-STORE-006")
def test_a_dataset_that_never_ends_is_stopped_before_it_fills_the_disk(small_disk: Path, tmp_path: Path) -> None:
    archive = Archive(new_archive(tmp_path / "node")._index._engine, small_disk / "archive", min_free_bytes=0)
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0)
    node.start()
    try:
        with raw_scu(node.port) as raw:
            raw.associate((MRImageStorage, ExplicitVRLittleEndian))
            raw.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq(MRImageStorage, "1.2.3"))))
            for _ in range(2000):
                raw.send(pdu(DATA, pdv(1, DATASET, bytes(16000))))
            raw.send(pdu(DATA, pdv(1, DATASET | LAST, bytes(16000))))
            answer = raw.read()
            assert answer is not None
            assert status_of(answer[1]) == 0xA700
        assert shutil.disk_usage(small_disk).free > 7 * _MIB, "what was begun is gone"
    finally:
        node.stop()
