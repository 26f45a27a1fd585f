"""C-GET of the node and C-CANCEL, against DCMTK and Orthanc over real sockets, and against peers that stumble."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt

from dicom_node.archive import Archive
from dicom_node.holding.files import to_part10
from dicom_node.presentation import GET_CLASSES, MOVE_CLASSES, retrieve_contexts
from dicom_node.statuses import Status
from tests.builders_dicom import new_archive, part10_series, series_datasets
from tests.peers.dcmtk import run_dcmtk, running_storescp
from tests.peers.retrieving import (
    STUDY,
    SYNTAXES,
    arrived,
    ask,
    association,
    counted,
    identifier,
    keys,
    land,
    local,
    receiver,
    send,
    serving,
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


class TestTransferSyntaxes:
    """The same slice in seven transfer syntaxes."""

    @pytest.mark.requirement("DICOM-QR-020")
    def test_a_receiver_of_every_syntax_gets_each_instance_as_it_was_received(
        self, archive: Archive, tmp_path: Path, free_port: Callable[[], int], data_folder: Callable[[str], Path]
    ) -> None:
        sent = land(archive, data_folder(SYNTAXES))
        port = free_port()
        with running_storescp(tmp_path, port, "+xa", "+B") as received, serving(archive, local("SCP", port)) as node:
            moved = run_dcmtk(
                "movescu", "-v", "-S", "-aec", "VERAICON", "-aem", "SCP", "127.0.0.1", str(node.port),
                *keys("STUDY", StudyInstanceUID=str(sent[0].StudyInstanceUID)),
            )  # fmt: skip
            assert moved.returncode == 0, moved.stderr
        got = arrived(received)
        assert len(got) == len({ds.SOPInstanceUID for ds in sent})
        for ds in sent:
            assert got[str(ds.SOPInstanceUID)].file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
            assert got[str(ds.SOPInstanceUID)].PixelData == ds.PixelData

    @pytest.mark.requirement("DICOM-QR-021")
    @pytest.mark.parametrize(
        ("option", "taken"),
        [
            ("+xe", (ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian)),
            ("+xi", (ImplicitVRLittleEndian,)),
        ],
    )
    def test_a_receiver_of_plain_syntaxes_gets_equal_pixels(
        self,
        archive: Archive,
        tmp_path: Path,
        free_port: Callable[[], int],
        data_folder: Callable[[str], Path],
        option: str,
        taken: tuple[str, ...],
    ) -> None:
        sent = land(archive, data_folder(SYNTAXES))
        reference = next(ds for ds in sent if ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian).pixel_array
        port = free_port()
        with running_storescp(tmp_path, port, option) as received, serving(archive, local("SCP", port)) as node:
            moved = run_dcmtk(
                "movescu", "-v", "-S", "-aec", "VERAICON", "-aem", "SCP", "127.0.0.1", str(node.port),
                *keys("STUDY", StudyInstanceUID=str(sent[0].StudyInstanceUID)),
            )  # fmt: skip
        decodable = [ds for ds in sent if can_decode(ds)]
        got = arrived(received)
        assert set(got) == {str(ds.SOPInstanceUID) for ds in decodable}, moved.stdout + moved.stderr
        own = {str(ds.SOPInstanceUID): ds.file_meta.TransferSyntaxUID for ds in sent}
        for uid, ds in got.items():
            assert ds.file_meta.TransferSyntaxUID == (own[uid] if own[uid] in taken else taken[0])
            assert (ds.pixel_array == reference).all()
        if len(decodable) < len(sent):
            assert "SubOperationsCompleteOneOrMoreFailures" in moved.stdout + moved.stderr

    @pytest.mark.requirement("DICOM-QR-021")
    def test_getscu_of_dcmtk_gets_equal_pixels(
        self, archive: Archive, tmp_path: Path, data_folder: Callable[[str], Path]
    ) -> None:
        sent = land(archive, data_folder(SYNTAXES))
        reference = next(ds for ds in sent if ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian).pixel_array
        (tmp_path / "got").mkdir()
        with serving(archive) as node:
            run_dcmtk(
                "getscu", "-v", "-P", "-aec", "VERAICON", "-od", tmp_path / "got", "127.0.0.1", str(node.port),
                *keys("STUDY", StudyInstanceUID=str(sent[0].StudyInstanceUID), PatientID=str(sent[0].PatientID)),
            )  # fmt: skip
        got = arrived(tmp_path / "got")
        assert set(got) == {str(ds.SOPInstanceUID) for ds in sent if can_decode(ds)}
        assert all((ds.pixel_array == reference).all() for ds in got.values())


def can_decode(ds: Dataset) -> bool:
    try:
        return ds.pixel_array is not None
    except (RuntimeError, NotImplementedError):
        return False


class TestCancel:
    """C-CANCEL at any time, by DCMTK and by a caller in a hurry."""

    @pytest.mark.requirement("DICOM-QR-006", "DICOM-QR-024")
    def test_movescu_and_findscu_of_dcmtk_cancel(self, archive: Archive, tmp_path: Path) -> None:
        for data in part10_series(200):
            archive.land(data, source="CT1")
        (tmp_path / "got").mkdir()
        stored: list[int] = []

        def store(event: evt.Event) -> int:
            stored.append(event.request.MessageID)
            time.sleep(0.005)
            return 0x0000

        with receiver(store) as port, serving(archive, local("SCP", port)) as node:
            moved = run_dcmtk(
                "movescu", "-v", "-S", "-aec", "VERAICON", "-aem", "SCP", "--cancel", "3", "127.0.0.1", str(node.port),
                *keys("STUDY", StudyInstanceUID=STUDY),
            )  # fmt: skip
            assert "SubOperationsTerminatedDueToCancelIndication" in moved.stdout + moved.stderr
            got = run_dcmtk(
                "findscu", "-v", "-S", "-aec", "VERAICON", "--cancel", "2", "127.0.0.1", str(node.port),
                *keys("IMAGE", StudyInstanceUID=STUDY, SOPInstanceUID=""),
            )  # fmt: skip
            assert "MatchingTerminatedDueToCancelRequest" in got.stdout + got.stderr
        assert 3 <= len(stored) < 200

    @pytest.mark.requirement("DICOM-QR-024")
    @pytest.mark.parametrize("model", [MOVE_CLASSES[1], GET_CLASSES[1]])
    def test_a_cancel_right_behind_the_request_is_heard(self, archive: Archive, model: str) -> None:
        for data in part10_series(100):
            archive.land(data, source="CT1")
        with receiver(lambda _: 0x0000) as port, serving(archive, local("SCP", port)) as node:
            assoc = association(node, model)
            try:
                responses = send(assoc, model, identifier("STUDY", StudyInstanceUID=STUDY), message_id=5)
                assoc.send_c_cancel(5, query_model=model)
                *_, (final, _) = responses
                assert final.Status == Status.CANCEL
                assert final.NumberOfRemainingSuboperations > 0
                # The cancel of that operation is void for the next one of the same Message ID.
                *_, (final, _) = send(assoc, model, identifier("STUDY", StudyInstanceUID=STUDY), message_id=5)
                assert counted(final) == (0x0000, None, 100, 0, 0)
            finally:
                assoc.release()


class TestGet:
    """What is special where the sub-operations share the association."""

    @pytest.mark.requirement("DICOM-QR-029")
    def test_a_caller_that_reads_no_more_is_given_up_and_the_node_serves_on(
        self, archive: Archive, eventually: Callable[..., object]
    ) -> None:
        for data in part10_series(5):
            archive.land(data, source="CT1")
        with serving(archive, dimse_timeout_s=1.0) as node:
            hold = threading.Event()

            def store(_event: evt.Event) -> int:
                hold.wait(20)
                return 0x0000

            assoc = association(node, GET_CLASSES[1], store)
            responses = send(assoc, GET_CLASSES[1], identifier("STUDY", StudyInstanceUID=STUDY), message_id=1)
            reading = threading.Thread(target=lambda: list(responses))
            reading.start()
            eventually(lambda: not node._ae.active_associations, deadline_s=10)
            hold.set()
            reading.join(timeout=20)
            assert [counted(status)[2] for status, _ in ask(node, GET_CLASSES[1], "STUDY", StudyInstanceUID=STUDY)][-1] == 5

    @pytest.mark.requirement("DICOM-QR-029")
    def test_a_caller_whose_line_is_stuck_does_not_freeze_the_node(
        self, archive: Archive, eventually: Callable[..., object]
    ) -> None:
        """The instance is larger than what sockets buffer, and nobody reads it."""
        ds = series_datasets(1)[0]
        ds.Rows, ds.Columns, ds.PixelData = 4096, 4096, b"\0" * 2 * 4096 * 4096
        archive.land(to_part10(ds), source="CT1")
        with serving(archive, dimse_timeout_s=1.0) as node:
            assoc = association(node, GET_CLASSES[1])
            read, assoc.dul._is_transport_event = assoc.dul._is_transport_event, lambda: False
            responses = send(assoc, GET_CLASSES[1], identifier("STUDY", StudyInstanceUID=STUDY), message_id=1)
            eventually(lambda: not node._ae.active_associations, deadline_s=15)
            assoc.dul._is_transport_event = read
            list(responses)

    @pytest.mark.requirement("DICOM-QR-022")
    def test_a_class_that_was_not_proposed_fails_alone(self, archive: Archive) -> None:
        first, second = series_datasets(2)
        second.SOPClassUID = second.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        for ds in (first, second):
            archive.land(to_part10(ds), source="CT1")
        with serving(archive) as node:
            *_, (final, failed) = ask(node, GET_CLASSES[0], "PATIENT", PatientID="P-1")
        assert counted(final) == (0xB000, None, 1, 1, 0)
        assert failed.FailedSOPInstanceUIDList == second.SOPInstanceUID

    @pytest.mark.requirement("DICOM-QR-021")
    def test_a_syntax_that_the_caller_leaves_to_us_is_one_that_can_be_sent(self, archive: Archive) -> None:
        for data in part10_series(2):
            archive.land(data, source="CT1")
        with serving(archive) as node:
            syntaxes = [RLELossless, ImplicitVRLittleEndian, ExplicitVRLittleEndian]
            assoc = association(node, GET_CLASSES[1], syntaxes=syntaxes)
            try:
                *_, (final, _) = send(assoc, GET_CLASSES[1], identifier("STUDY", StudyInstanceUID=STUDY), message_id=1)
            finally:
                assoc.release()
        assert counted(final) == (0x0000, None, 2, 0, 0)

    @pytest.mark.requirement("DICOM-QR-029")
    def test_a_caller_that_dies_in_the_middle_frees_the_association(
        self, archive: Archive, eventually: Callable[..., object]
    ) -> None:
        for data in part10_series(30):
            archive.land(data, source="CT1")
        with serving(archive) as node:
            seen: list[int] = []

            def store(event: evt.Event) -> int:
                seen.append(1)
                if len(seen) == 3:
                    event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
                return 0x0000

            assoc = association(node, GET_CLASSES[1], store)
            list(send(assoc, GET_CLASSES[1], identifier("STUDY", StudyInstanceUID=STUDY), message_id=1))
            eventually(lambda: not node._ae.active_associations, deadline_s=10)


@pytest.mark.requirement("DICOM-QR-022")
def test_more_instances_than_can_be_counted_are_refused_as_too_many(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in part10_series(3):
        archive.land(data, source="CT1")
    monkeypatch.setattr("dicom_node.services.retrieve._MAX_SUB_OPERATIONS", 2)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", STUDY
    with serving(archive) as node:
        assoc = AE("TEST").associate("127.0.0.1", node.port, contexts=retrieve_contexts([GET_CLASSES[1]]), ae_title="VERAICON")
        ((status, _),) = assoc.send_c_get(identifier, GET_CLASSES[1])
        assoc.release()
    assert status.Status == Status.UNABLE_TO_PERFORM_SUBOPERATIONS
    assert status.ErrorComment == "more than 2 instances: ask series by series"
