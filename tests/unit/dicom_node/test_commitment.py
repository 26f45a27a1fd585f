"""Storage commitment as data and as rows, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.commitment.messages import (
    CommitmentReport,
    CommitmentRequest,
    NamedInstance,
    held_against,
    read_report,
    read_request,
    report_dataset,
    request_dataset,
)
from dicom_node.commitment.records import ReceivedCommitments, ReceivedRequest, SentCommitments
from domain.errors import UnreadableInstance
from domain.identifiers import derive_uid
from tests.builders_dicom import Clock, index_engine

A, B, C = (NamedInstance("1.2.840.10008.5.1.4.1.1.4", derive_uid(name, "instance")) for name in "ABC")
TRANSACTION = derive_uid("one", "transaction")


def test_requests_and_reports_survive_the_wire() -> None:
    request = CommitmentRequest(TRANSACTION, (A, B))
    assert read_request(request_dataset(request)) == request
    for report in (CommitmentReport(TRANSACTION, (A, B)), CommitmentReport(TRANSACTION, (), ((A, 0x0112), (B, 0x0213)))):
        assert read_report(report_dataset(report)) == report
    assert [CommitmentReport(TRANSACTION, (A,)).event_type, CommitmentReport(TRANSACTION, (), ((A, 1),)).event_type] == [1, 2]
    assert "FailedSOPSequence" not in report_dataset(CommitmentReport(TRANSACTION, (A,)))


@pytest.mark.requirement("DICOM-SC-005")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda ds: setattr(ds, "ReferencedSOPSequence", []),
        lambda ds: delattr(ds, "TransactionUID"),
        lambda ds: delattr(ds.ReferencedSOPSequence[0], "ReferencedSOPInstanceUID"),
        lambda ds: delattr(ds.ReferencedSOPSequence[0], "ReferencedSOPClassUID"),
    ],
)
def test_a_request_that_names_nothing_is_refused(spoil: Callable[[Dataset], None]) -> None:
    ds = request_dataset(CommitmentRequest(TRANSACTION, (A,)))
    spoil(ds)
    with pytest.raises(UnreadableInstance):
        read_request(ds)


@pytest.mark.requirement("DICOM-SC-012")
def test_an_instance_that_a_report_leaves_out_is_not_committed() -> None:
    said = held_against(CommitmentReport(TRANSACTION, (A, C), ((C, 0x0110),)), (A, B, C))
    assert said.committed == (A,)
    assert said.failed == ((B, 0x0112), (C, 0x0110))


class TestReceived:
    """What peers asked of us."""

    def records(self, folder: Path) -> tuple[ReceivedCommitments, Clock]:
        clock = Clock()
        return ReceivedCommitments(index_engine(folder), clock=clock), clock

    @pytest.mark.requirement("DICOM-SC-004")
    def test_a_request_is_due_on_our_own_association_a_little_later_until_it_is_delivered(self, tmp_path: Path) -> None:
        records, clock = self.records(tmp_path)
        received = ReceivedRequest(CommitmentRequest(TRANSACTION, (A, B)), "CT1")
        records.keep(received)
        assert records.due(["CT1"]) == []
        clock.advance(3)
        assert records.due(["CT1"]) == [received]
        assert records.due(["CT2"]) == [], "nobody else's address will do"
        records.delivered(received)
        assert records.due(["CT1"]) == []
        records.keep(received)
        clock.advance(3)
        assert records.due(["CT1"]) == [received], "asked again, answered again"

    @pytest.mark.requirement("DICOM-SC-004")
    def test_attempts_come_ever_later_and_end_after_a_week(self, tmp_path: Path) -> None:
        records, clock = self.records(tmp_path)
        received = ReceivedRequest(CommitmentRequest(TRANSACTION, (A,)), "CT1")
        records.keep(received)
        assert records.abandon_old() == 0
        engine, began, pauses = index_engine(tmp_path), clock.now_s, []
        while records.postponed(received):
            assert records.due(["CT1"]) == []
            with engine.connect() as connection:
                pauses.append(connection.exec_driver_sql("SELECT next_attempt_s FROM dicom_commitment_request").scalar())
            pauses[-1] -= clock.now_s
            clock.advance(pauses[-1])
            assert records.due(["CT1"]) == [received]
        records.keep(received)
        clock.advance(8 * 86400)
        assert records.abandon_old() == 1
        assert pauses[:4] == [2, 4, 8, 16]
        assert max(pauses) == 900
        assert 7 * 86400 < clock.now_s - 8 * 86400 - began < 7 * 86400 + 1000
        assert records.due(["CT1"]) == []


class TestSent:
    """What we asked of peers."""

    @pytest.mark.requirement("DICOM-SC-012")
    def test_a_late_commitment_counts_and_a_late_failure_does_not(self, tmp_path: Path) -> None:
        sent = SentCommitments(index_engine(tmp_path))
        uids = [derive_uid(name, "transaction") for name in ("first", "second", "third")]
        for uid in uids:
            sent.asking(CommitmentRequest(uid, (A,)), "PACS")
        assert sent.reported(CommitmentReport(uids[0], (), ((A, 0x0112),)), reporter="PACS")
        assert sent.answer(uids) is None
        assert sent.reported(CommitmentReport(uids[1], (A,)), reporter="PACS")
        assert sent.answer(uids) == CommitmentReport(uids[1], (A,))
        assert sent.reported(CommitmentReport(uids[2], (), ((A, 0x0110),)), reporter="PACS")
        assert sent.answer(uids) == CommitmentReport(uids[2], (), ((A, 0x0110),))

    def test_the_first_report_of_the_peer_that_was_asked_counts(self, tmp_path: Path) -> None:
        sent = SentCommitments(index_engine(tmp_path))
        request, report = CommitmentRequest(TRANSACTION, (A, B)), CommitmentReport(TRANSACTION, (A,), ((B, 0x0112),))
        assert not sent.reported(report, reporter="PACS")
        sent.asking(request, "PACS")
        assert not sent.reported(report, reporter="STRANGER")
        assert sent.report(TRANSACTION) is None
        assert sent.reported(report, reporter="PACS")
        assert sent.reported(CommitmentReport(TRANSACTION, (A, B)), reporter="PACS")
        sent.asking(request, "PACS")
        assert sent.report(TRANSACTION) == report
        assert sent.await_answer([TRANSACTION], 0) == report
