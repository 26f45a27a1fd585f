"""Who may associate and how many at once, over real sockets: the rejection that the caller sees, and the audit line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydicom.uid import JPEG2000, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context
from pynetdicom.sop_class import ModalityWorklistInformationFind, Verification
from structlog.testing import capture_logs

from dicom_node.archive import Archive
from dicom_node.association.policy import SourcePolicy
from dicom_node.holding.files import to_part10
from dicom_node.presentation import verification_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo
from domain.errors import PeerRefused
from tests.builders_dicom import new_archive, series_datasets
from tests.peers.dcmtk import run_dcmtk
from tests.peers.raw_scu import COMMAND, DATA, DATASET, LAST, STORE, pdu, pdv, raw_scu, store_rq


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@pytest.fixture
def node(archive: Archive) -> Iterator[StorageNode]:
    sources = {
        "PACS": SourcePolicy(("127.0.0.0/8", "::1")),
        "BUSY": SourcePolicy(maximum_associations=2),
        "SAFE": SourcePolicy(tls_required=True),
        "RAW": SourcePolicy(),
    }
    running = StorageNode(
        archive, ae_title="VERAICON", host="127.0.0.1", port=0, allowed_sources=sources, maximum_associations=3,
        acse_timeout_s=2.0, network_timeout_s=2.0, pdu_timeout_s=1.0,
    )  # fmt: skip
    structlog.reset_defaults()
    running.start()
    yield running
    running.stop()


def _peer(node: StorageNode, calling: str, called: str = "VERAICON") -> Peer:
    return Peer("node", called, "127.0.0.1", node.port, calling, timeout_s=5.0)


def _open(node: StorageNode, calling: str) -> Any:
    assoc = AE(calling).associate("127.0.0.1", node.port, contexts=verification_contexts(), ae_title="VERAICON")
    assert assoc.is_established
    return assoc


def _ended(lines: list[Any], **fields: object) -> list[Any]:
    wanted = {"action": "association", **fields}.items()
    return [line for line in lines if wanted <= line.items()]


@pytest.mark.requirement("DICOM-ASSOC-002")
def test_a_source_gets_no_more_than_its_own_maximum_and_others_still_find_a_place(
    node: StorageNode, eventually: Callable[..., object]
) -> None:
    with capture_logs() as lines:
        held = [_open(node, "BUSY") for _ in range(2)]
        with pytest.raises(PeerRefused, match=r"Local limit exceeded.*Transient"):
            echo(_peer(node, "BUSY"))
        echo(_peer(node, "PACS"))
        held.pop().release()
        eventually(lambda: _ended(lines, source="BUSY", outcome="released"))
        echo(_peer(node, "BUSY"))
        for assoc in held:
            assoc.release()
        (line,) = eventually(lambda: _ended(lines, source="BUSY", outcome="rejected"))
    assert line["reason"] == "as many associations as the source may have are open"


@pytest.mark.requirement("DICOM-ASSOC-002")
def test_beyond_the_maximum_the_node_says_local_limit_exceeded_and_silence_holds_no_place(
    node: StorageNode, eventually: Callable[..., object]
) -> None:
    with raw_scu(node.port):  # says nothing
        held = [_open(node, "PACS") for _ in range(3)]
        with capture_logs() as lines:
            with pytest.raises(PeerRefused, match=r"Local limit exceeded.*Transient"):
                echo(_peer(node, "PACS"))
            (line,) = eventually(lambda: _ended(lines, outcome="rejected"))
        assert line["reason"] == "as many associations as the node takes are open"
        held.pop().abort()

        def there_is_a_place() -> bool:
            try:
                echo(_peer(node, "PACS"))
            except PeerRefused:
                return False
            return True

        eventually(there_is_a_place, deadline_s=5)
        for assoc in held:
            assoc.abort()


@pytest.mark.requirement("DICOM-ASSOC-001")
@pytest.mark.parametrize(
    ("calling", "called", "said", "reason"),
    [
        ("STRANGER", "VERAICON", "Calling AE title not recognised", "not on the list"),
        ("PACS", "SOMEBODY", "Called AE title not recognised", "not ours"),
        ("SAFE", "VERAICON", "No reason given", "TLS only"),
    ],
)
def test_each_rejection_says_its_reason_to_the_caller_and_to_the_audit(
    node: StorageNode, calling: str, called: str, said: str, reason: str, eventually: Callable[..., object]
) -> None:
    with capture_logs() as lines:
        with pytest.raises(PeerRefused, match=f"(?i){said}.*Permanent"):
            echo(_peer(node, calling, called))
        (line,) = eventually(lambda: _ended(lines))
    assert (line["outcome"], line["source"], line["host"]) == ("rejected", calling, "127.0.0.1")
    assert reason in line["reason"]


@pytest.mark.requirement("DICOM-ASSOC-001")
def test_dcmtk_sees_its_rejection_and_the_audit_counts_what_it_stored(
    node: StorageNode, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    file = tmp_path / "one.dcm"
    file.write_bytes(to_part10(series_datasets(1)[0]))
    address = ["-aec", "VERAICON", "127.0.0.1", str(node.port), str(file)]
    with capture_logs() as lines:
        refused = run_dcmtk("storescu", "-v", "-aet", "STRANGER", *address)
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr
        assert run_dcmtk("storescu", "-aet", "PACS", *address).returncode == 0
        (line,) = eventually(lambda: _ended(lines, source="PACS"))
    assert (line["outcome"], line["stored"], line["reason"]) == ("released", 1, "")
    assert 0 <= line["duration_s"] < 60


@pytest.mark.requirement("DICOM-ASSOC-003")
def test_unknown_services_and_syntaxes_are_refused_one_by_one_with_their_result(node: StorageNode) -> None:
    proposed = [
        build_context(ModalityWorklistInformationFind),
        build_context(Verification, [JPEG2000]),
        build_context(Verification, [ImplicitVRLittleEndian]),
        build_context("1.2.826.0.1.3680043.9.9999.1", [JPEG2000]),  # a private storage class
    ]
    assoc = AE("PACS").associate("127.0.0.1", node.port, contexts=proposed, ae_title="VERAICON")
    try:
        # PS3.8 table 9-18: 3 abstract syntax not supported, 4 transfer syntaxes not supported.
        assert [context.result for context in assoc.rejected_contexts] == [3, 4]
        assert len(assoc.accepted_contexts) == 2
    finally:
        assoc.release()


@pytest.mark.requirement("DICOM-ASSOC-006")
def test_an_abort_within_a_dataset_leaves_nothing_and_is_told(
    node: StorageNode, archive: Archive, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    uid = series_datasets(1)[0].SOPInstanceUID
    with capture_logs() as lines:
        with raw_scu(node.port) as raw:
            raw.associate(STORE)
            raw.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq(MRImageStorage, uid))), pdu(DATA, pdv(1, DATASET, bytes(8000))))
            time.sleep(0.2)
            raw.send(pdu(7, bytes(4)))
        (line,) = eventually(lambda: _ended(lines, outcome="aborted"))
    assert line["source"] == "RAW"
    assert not archive.references({"SOPInstanceUID": [str(uid)]})
    assert not list((tmp_path / "node").rglob("*.part"))


@pytest.mark.requirement("DICOM-ASSOC-005")
def test_an_association_without_traffic_is_aborted_when_its_time_is_over(
    node: StorageNode, eventually: Callable[..., object]
) -> None:
    with capture_logs() as lines:
        assoc = _open(node, "PACS")
        eventually(lambda: assoc.is_aborted, deadline_s=5)
        (line,) = eventually(lambda: _ended(lines, source="PACS"))
    assert line["outcome"] == "aborted"
