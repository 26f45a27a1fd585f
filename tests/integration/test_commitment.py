"""Storage commitment in both directions: Orthanc asks us and answers us; hand-made peers where no real one behaves so."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification
from sqlalchemy import Engine

from dicom_node.archive import Archive
from dicom_node.association.policy import AuditTrail
from dicom_node.calling.sending import store
from dicom_node.commitment.messages import (
    WELL_KNOWN_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    NamedInstance,
    named_instances,
    read_report,
    report_dataset,
    request_dataset,
)
from dicom_node.commitment.records import ReceivedCommitments, ReceivedRequest, SentCommitments
from dicom_node.commitment.reporter import CommitmentReporter
from dicom_node.commitment.requesting import CommitmentAnswer, request_commitment, send_report
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, echo
from dicom_node.services.commitment import CommitmentService
from domain.errors import PeerRefused
from domain.identifiers import derive_uid
from tests.builders_dicom import index_engine, series_datasets
from tests.peers.dcmtk import running_storescp
from tests.peers.orthanc import running_orthanc


@dataclass
class Node:
    """A node with storage commitment, its records and its archive."""

    scp: StorageNode
    archive: Archive
    received: ReceivedCommitments
    sent: SentCommitments

    def peer(self, calling: str = "MODALITY") -> Peer:
        return Peer("node", "VERAICON", "127.0.0.1", self.scp.port, calling, timeout_s=10.0)


@contextmanager
def running_node(folder: Path, *, port: int = 0, addresses: dict[str, Peer] | None = None) -> Iterator[Node]:
    folder.mkdir(exist_ok=True)
    engine: Engine = index_engine(folder)
    archive = Archive(engine, folder / "archive", min_free_bytes=2**20)
    received, sent, audit = ReceivedCommitments(engine), SentCommitments(engine), AuditTrail()
    reporter = CommitmentReporter(received, archive, addresses=addresses or {})
    service = CommitmentService(received, sent, reporter, audit)
    scp = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=port, services=[service], audit=audit)
    scp.start()
    reporter.start()
    try:
        yield Node(scp, archive, received, sent)
    finally:
        reporter.stop()
        scp.stop()


def _request(datasets: list[Dataset], name: str = "transaction") -> CommitmentRequest:
    return CommitmentRequest(derive_uid(name, "commitment"), named_instances(datasets))


class HandMadePeer:
    """A listener for reports, and a PACS whose manners a test chooses. pynetdicom answers; Orthanc cannot be made to do this."""

    def __init__(self, *, commits: bool = True, on_same: bool = False, refuses: int | None = None) -> None:
        self.reports: list[CommitmentReport] = []
        self.roles: list[Any] = []
        self._on_same, self._refuses = on_same, refuses
        ae = AE("HANDMADE")
        ae.supported_contexts = [build_context(Verification)]
        if commits:
            ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers = [
            (evt.EVT_N_EVENT_REPORT, self._take),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_ACCEPTED, lambda event: self.roles.append(event.assoc.requestor.role_selection)),
        ]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.peer = Peer("handmade", "HANDMADE", "127.0.0.1", self._server.server_address[1], "VERAICON", timeout_s=5.0)

    def __enter__(self) -> HandMadePeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.reports.append(read_report(event.event_information))
        return 0x0000, None

    def _action(self, event: evt.Event) -> tuple[int, None]:
        if self._refuses is not None:
            return self._refuses, None
        if self._on_same:
            request = event.action_information
            names = [
                NamedInstance(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in request.ReferencedSOPSequence
            ]
            report = CommitmentReport(request.TransactionUID, tuple(names[1:]), ((names[0], 0x0112),))
            # Before the N-ACTION response, as some PACS do: the answer and the report cross.
            event.assoc.send_n_event_report(report_dataset(report), 2, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE)
        return 0x0000, None


@pytest.mark.requirement("DICOM-SC-004")
def test_orthanc_asks_us_and_gets_the_report_on_a_new_association(
    tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., Any]
) -> None:
    datasets = series_datasets(3)
    node_port, dicom_port = free_port(), free_port()
    (tmp_path / "orthanc").mkdir()
    address = {"ORTHANC": Peer("orthanc", "ORTHANC", "127.0.0.1", dicom_port, "VERAICON", timeout_s=10.0)}
    with (
        running_node(tmp_path / "node", port=node_port, addresses=address),
        running_orthanc(tmp_path / "orthanc", dicom_port=dicom_port, http_port=free_port(), node_port=node_port) as orthanc,
    ):
        store(orthanc.peer, datasets)
        orthanc.post("/modalities/veraicon/store", orthanc.get("/instances")[:2])
        asked = orthanc.post("/modalities/veraicon/storage-commitment", {"Resources": orthanc.get("/instances")})

        def answered() -> Any:
            report = orthanc.get(asked["Path"])
            return report if report["Status"] != "Pending" else None

        report = eventually(answered, deadline_s=20)
        assert report["Status"] == "Failure"
        assert len(report["Success"]) == 2
        assert ["not available" in failure["Description"] for failure in report["Failures"]] == [True]


@pytest.mark.requirement("DICOM-SC-010")
def test_orthanc_commits_to_what_we_sent_and_reports_on_an_association_of_its_own(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    datasets = series_datasets(3)
    node_port = free_port()
    (tmp_path / "orthanc").mkdir()
    with (
        running_node(tmp_path / "node", port=node_port) as node,
        running_orthanc(tmp_path / "orthanc", dicom_port=free_port(), http_port=free_port(), node_port=node_port) as orthanc,
    ):
        store(orthanc.peer, datasets[:2])
        whole, part = _request(datasets[:2], "whole"), _request(datasets, "part")
        for request in (whole, part):
            node.sent.asking(request, orthanc.peer.ae_title)
            assert request_commitment(orthanc.peer, request, wait_s=0.3).refusal == ""
        report = node.sent.await_answer([whole.transaction_uid], 20)
        assert report is not None
        assert (report.committed, report.failed) == (whole.instances, ())
        report = node.sent.await_answer([part.transaction_uid], 20)
        assert report is not None
        assert [(instance.sop_instance_uid, reason) for instance, reason in report.failed] == [
            (str(datasets[2].SOPInstanceUID), 0x0112)
        ]


@pytest.mark.requirement("DICOM-SC-003")
def test_we_report_on_the_association_of_the_request_while_it_is_open_and_go_on_serving_it(tmp_path: Path) -> None:
    datasets = series_datasets(3)
    with running_node(tmp_path / "node") as node:
        store(node.peer(), datasets[:2])
        answer = request_commitment(node.peer(), _request(datasets), wait_s=10)
        assert answer.report is not None
        assert answer.report.committed == named_instances(datasets[:2])
        assert [reason for _, reason in answer.report.failed] == [0x0112]
        assert node.received.due(["MODALITY"]) == []


@pytest.mark.requirement("DICOM-SC-003")
def test_a_requestor_that_stores_while_it_waits_gets_both_answers(tmp_path: Path, eventually: Callable[..., Any]) -> None:
    datasets = series_datasets(12)
    reports: list[CommitmentReport] = []

    def take(event: evt.Event) -> tuple[int, None]:
        reports.append(read_report(event.event_information))
        time.sleep(0.2)  # a slow listener: its answer comes amid the C-STORE requests
        return 0x0000, None

    with running_node(tmp_path / "node") as node:
        store(node.peer(), datasets[:1])
        ae = AE("MODALITY")
        ae.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
        ae.add_requested_context(StorageCommitmentPushModel)
        assoc = ae.associate("127.0.0.1", node.scp.port, ae_title="VERAICON", evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
        request = request_dataset(_request(datasets[:1]))
        status, _ = assoc.send_n_action(request, 1, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE)
        assert status.Status == 0x0000
        end = time.monotonic() + 0.8
        sent = 0
        while time.monotonic() < end or sent < len(datasets):
            assert assoc.send_c_store(datasets[sent % len(datasets)]).Status == 0x0000
            sent += 1
        eventually(lambda: reports and not node.received.due(["MODALITY"]))
        assoc.release()
        assert reports[0].committed == named_instances(datasets[:1])


@pytest.mark.requirement("DICOM-SC-002")
def test_damaged_bytes_another_class_and_a_conflict_are_not_committed(tmp_path: Path) -> None:
    datasets = series_datasets(4)
    names = list(named_instances(datasets))
    names[1] = replace(names[1], sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    other = series_datasets(3)[2]
    other.PatientName = "Other^Bytes"
    with running_node(tmp_path / "node") as node:
        store(node.peer(), datasets)
        store(node.peer(), [other])
        damaged = node.archive.references({"SOPInstanceUID": [str(datasets[0].SOPInstanceUID)]})[0]
        node.archive.instance_path(damaged).write_bytes(b"rot")
        answer = request_commitment(node.peer(), CommitmentRequest(derive_uid("t", "c"), tuple(names)), wait_s=10)
        assert answer.report is not None
        assert [reason for _, reason in answer.report.failed] == [0x0110, 0x0119, 0x0110]
        assert answer.report.committed == (names[3],)


@pytest.mark.requirement("DICOM-SC-005")
@pytest.mark.parametrize(
    ("spoil", "action", "instance", "status"),
    [
        (lambda ds: None, 2, WELL_KNOWN_INSTANCE, 0x0123),
        (lambda ds: None, 1, "1.2.3", 0x0112),
        (lambda ds: ds.__delattr__("TransactionUID"), 1, WELL_KNOWN_INSTANCE, 0x0115),
        (lambda ds: ds.__delattr__("ReferencedSOPSequence"), 1, WELL_KNOWN_INSTANCE, 0x0115),
    ],
    ids=["action type", "instance", "no transaction", "no references"],
)
def test_a_faulty_request_is_answered_with_its_status(
    tmp_path: Path, spoil: Callable[[Dataset], None], action: int, instance: str, status: int
) -> None:
    with running_node(tmp_path / "node") as node:
        ae = AE("MODALITY")
        ae.add_requested_context(StorageCommitmentPushModel)
        assoc = ae.associate("127.0.0.1", node.scp.port, ae_title="VERAICON")
        ds = request_dataset(_request(series_datasets(1)))
        spoil(ds)
        answered, _ = assoc.send_n_action(ds, action, StorageCommitmentPushModel, instance)
        assoc.release()
        assert answered.Status == status


@pytest.mark.requirement("DICOM-SC-004")
def test_a_report_is_tried_until_its_requestor_listens_and_proposes_our_role(
    tmp_path: Path, eventually: Callable[..., Any], free_port: Callable[[], int]
) -> None:
    datasets = series_datasets(2)
    addresses = {"HANDMADE": Peer("handmade", "HANDMADE", "127.0.0.1", free_port(), "VERAICON", timeout_s=2.0)}
    with running_node(tmp_path / "node", addresses=addresses) as node:
        store(node.peer(), datasets)
        request_commitment(node.peer("HANDMADE"), _request(datasets), wait_s=0)
        eventually(lambda: _attempts(tmp_path / "node") >= 1)
    with HandMadePeer() as requestor, running_node(tmp_path / "node", addresses={"HANDMADE": requestor.peer}) as node:
        eventually(lambda: requestor.reports)
        assert requestor.reports[0].committed == named_instances(datasets)
        role = requestor.roles[0][StorageCommitmentPushModel]
        assert (role.scu_role, role.scp_role) == (False, True)
        eventually(lambda: not node.received.due(["HANDMADE"]))


def _attempts(folder: Path) -> int:
    with index_engine(folder).connect() as connection:
        return int(connection.exec_driver_sql("SELECT max(attempts) FROM dicom_commitment_request").scalar() or 0)


_KILLED = """
import sys
from pathlib import Path
from dicom_node.commitment.reporter import CommitmentReporter
from tests.integration.test_commitment import running_node
# The power fails after Success is answered and before the report goes out; here the report waits until it does.
CommitmentReporter.offer = lambda *_: None
with running_node(Path(sys.argv[1])) as node:
    print("port", node.scp.port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.requirement("DICOM-SC-001")
def test_kill_minus_nine_between_success_and_report_still_brings_the_report(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    datasets = series_datasets(2)
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "node")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        port = next(int(line.split()[1]) for line in process.stdout if line.startswith(b"port "))
        node = Peer("node", "VERAICON", "127.0.0.1", port, "HANDMADE")
        store(node, datasets)
        answer = request_commitment(node, _request(datasets), wait_s=0)
        process.kill()
        assert answer == CommitmentAnswer()
    with HandMadePeer() as requestor, running_node(tmp_path / "node", addresses={"HANDMADE": requestor.peer}):
        eventually(lambda: requestor.reports)
        assert requestor.reports[0].committed == named_instances(datasets)


@pytest.mark.requirement("DICOM-SC-010")
def test_a_report_that_crosses_the_answer_is_taken(tmp_path: Path) -> None:
    datasets = series_datasets(3)
    with HandMadePeer(on_same=True) as pacs:
        answer = request_commitment(pacs.peer, _request(datasets), wait_s=5)
        assert answer.report is not None
        assert [reason for _, reason in answer.report.failed] == [0x0112]


@pytest.mark.requirement("DICOM-SC-012")
def test_peers_that_do_not_commit_are_told_from_those_that_refuse_us(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    request = _request(series_datasets(1))
    with running_storescp(tmp_path, port):
        assert "presentation context" in request_commitment(Peer("scp", "ANY", "127.0.0.1", port), request).refusal
    with HandMadePeer(refuses=0x0122) as pacs:
        assert "0x0122" in request_commitment(pacs.peer, request).refusal
    with HandMadePeer(refuses=0x0213) as pacs, pytest.raises(PeerRefused, match="0x0213"):
        request_commitment(pacs.peer, request)


@pytest.mark.requirement("DICOM-SC-013")
def test_a_report_from_a_stranger_or_of_an_unknown_transaction_is_refused(tmp_path: Path) -> None:
    datasets = series_datasets(2)
    request = _request(datasets)
    report = CommitmentReport(request.transaction_uid, request.instances)
    with running_node(tmp_path / "node") as node:
        with pytest.raises(PeerRefused, match="0x0115"):
            send_report(node.peer("PACS"), report)
        node.sent.asking(request, "PACS")
        with pytest.raises(PeerRefused, match="0x0115"):
            send_report(node.peer("STRANGER"), report)
        assert node.sent.report(request.transaction_uid) is None
        send_report(node.peer("PACS"), report)
        send_report(node.peer("PACS"), report)
        assert node.sent.report(request.transaction_uid) == report
        echo(node.peer())


@pytest.mark.requirement("DICOM-SC-010")
def test_a_role_that_a_reporter_proposes_is_answered(tmp_path: Path) -> None:
    """pynetdicom drops this answer where it takes storage of any class."""
    with running_node(tmp_path / "node") as node:
        ae = AE("PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        assoc = ae.associate("127.0.0.1", node.scp.port, ae_title="VERAICON", ext_neg=[role])
        assert [(context.as_scu, context.as_scp) for context in assoc.accepted_contexts] == [(False, True)]
        assoc.release()


@pytest.mark.requirement("DICOM-SC-001")
def test_the_records_survive_what_the_requestor_repeats(tmp_path: Path) -> None:
    received = ReceivedCommitments(index_engine(tmp_path), clock=lambda: 0.0)
    request = ReceivedRequest(_request(series_datasets(1)), "CT1")
    received.keep(request)
    received.delivered(request)
    received.keep(request)
    later = ReceivedCommitments(index_engine(tmp_path), clock=lambda: 60.0)
    assert later.due(["CT1"]) == [request]
    assert later.due(["CT2"]) == []
