"""C-MOVE of the node, against DCMTK and Orthanc over real sockets, and against peers that stumble."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import build_context, evt

from dicom_node.archive import Archive
from dicom_node.holding.files import to_part10
from dicom_node.presentation import GET_CLASSES, MOVE_CLASSES, UNCOMPRESSED
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer
from dicom_node.statuses import Status
from domain.identifiers import derive_uid
from tests.builders_dicom import new_archive, part10_series, series_datasets
from tests.peers.orthanc import running_orthanc
from tests.peers.retrieving import (
    STUDY,
    ask,
    association,
    counted,
    identifier,
    local,
    receiver,
    serving,
    start_receiver,
)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


class TestMove:
    """What a C-MOVE says, and where it sends."""

    @pytest.mark.requirement("DICOM-QR-030")
    def test_orthanc_finds_at_our_node_and_has_it_moved_to_itself(
        self, archive: Archive, tmp_path: Path, free_port: Callable[[], int]
    ) -> None:
        for data in part10_series(7):
            archive.land(data, source="CT1")
        dicom_port, node_port = free_port(), free_port()
        peer = Peer("orthanc", "ORTHANC", "127.0.0.1", dicom_port)
        node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=node_port, move_destinations={"ORTHANC": peer})
        node.start()
        try:
            with running_orthanc(tmp_path, dicom_port=dicom_port, http_port=free_port(), node_port=node_port) as orthanc:
                wanted = {"Level": "Study", "Query": {"PatientName": "PHANTOM^*", "ModalitiesInStudy": "MR"}}
                query = orthanc.post("/modalities/veraicon/query", wanted)["ID"]
                answers = [
                    orthanc.get(f"/queries/{query}/answers/{n}/content?simplify")
                    for n in orthanc.get(f"/queries/{query}/answers")
                ]
                assert [answer["StudyInstanceUID"] for answer in answers] == [STUDY]
                orthanc.post(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
                assert len(orthanc.get("/instances")) == 7
                orthanc.post("/modalities/veraicon/move", {"Level": "Study", "Resources": [{"StudyInstanceUID": STUDY}]})
        finally:
            node.stop()

    @pytest.mark.requirement("DICOM-QR-022", "DICOM-QR-023")
    def test_each_sub_operation_names_who_asked_and_each_response_counts(self, archive: Archive) -> None:
        for data in part10_series(4):
            archive.land(data, source="CT1")
        originators: list[tuple[str, int]] = []

        def store(event: evt.Event) -> int:
            request = event.request
            originators.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
            return {2: 0xB000, 3: 0xA700}.get(event.dataset.InstanceNumber, 0x0000)

        with receiver(store) as port, serving(archive, local("SCP", port)) as node:
            responses = ask(node, MOVE_CLASSES[0], "STUDY", message_id=77, StudyInstanceUID=STUDY, PatientID="P-1")
        assert originators == [("ASKER", 77)] * 4
        assert [counted(status) for status, _ in responses] == [
            (0xFF00, 3, 1, 0, 0),
            (0xFF00, 2, 1, 0, 1),
            (0xFF00, 1, 1, 1, 1),
            (0xB000, None, 2, 1, 1),
        ]
        assert responses[-1][1].FailedSOPInstanceUIDList == derive_uid("series", "instance", "3")

    @pytest.mark.requirement("DICOM-QR-025")
    def test_an_unknown_destination_and_one_that_is_away_are_told_apart(
        self, archive: Archive, free_port: Callable[[], int]
    ) -> None:
        for data in part10_series(3):
            archive.land(data, source="CT1")
        with serving(archive, local("AWAY", free_port(), timeout_s=1.0)) as node:
            (unknown, _), *rest = ask(node, MOVE_CLASSES[1], "STUDY", destination="NOBODY", StudyInstanceUID=STUDY)
            assert (unknown.Status, rest) == (Status.MOVE_DESTINATION_UNKNOWN, [])
            *_, (away, failed) = ask(node, MOVE_CLASSES[1], "STUDY", destination="AWAY", StudyInstanceUID=STUDY)
            assert counted(away) == (Status.UNABLE_TO_PERFORM_SUBOPERATIONS, None, 0, 3, 0)
            assert len(failed.FailedSOPInstanceUIDList) == 3

    def test_what_is_not_held_is_no_failure(self, archive: Archive) -> None:
        with serving(archive, local("SCP", 1)) as node:
            for model in (*MOVE_CLASSES, *GET_CLASSES):
                responses = ask(node, model, "STUDY", StudyInstanceUID="1.2.3")
                assert [counted(status) for status, _ in responses] == [(0x0000, None, 0, 0, 0)]

    @pytest.mark.requirement("DICOM-QR-026")
    def test_without_the_key_of_its_level_nothing_is_sent(self, archive: Archive) -> None:
        with serving(archive, local("SCP", 1)) as node:
            for level, wanted in (("SERIES", {"StudyInstanceUID": STUDY}), ("PATIENT", {"PatientID": "P-1"}), ("", {})):
                responses = ask(node, MOVE_CLASSES[1], level, **wanted)
                assert [status.Status for status, _ in responses] == [Status.IDENTIFIER_DOES_NOT_MATCH]

    @pytest.mark.requirement("DICOM-QR-028")
    def test_a_receiver_that_dies_in_the_middle_fails_the_rest_soon(
        self, archive: Archive, eventually: Callable[..., object]
    ) -> None:
        for data in part10_series(20):
            archive.land(data, source="CT1")
        stored: list[str] = []

        def store(event: evt.Event) -> int:
            if len(stored) == 5:
                server.shutdown()
                event.assoc.abort()
                return 0xC000
            stored.append(event.request.AffectedSOPInstanceUID)
            return 0x0000

        server = start_receiver(store)
        with serving(archive, local("SCP", server.server_address[1])) as node:
            began = time.monotonic()
            *_, (final, failed) = ask(node, MOVE_CLASSES[1], "STUDY", StudyInstanceUID=STUDY)
            assert time.monotonic() - began < 15
        assert counted(final) == (0xB000, None, 5, 15, 0)
        assert set(failed.FailedSOPInstanceUIDList).isdisjoint(stored)

    @pytest.mark.requirement("DICOM-QR-028")
    def test_a_receiver_that_hangs_up_on_one_instance_gets_the_others(self, archive: Archive) -> None:
        for data in part10_series(6):
            archive.land(data, source="CT1")

        def store(event: evt.Event) -> int:
            if event.dataset.InstanceNumber == 3:
                event.assoc.abort()
            return 0x0000

        with receiver(store) as port, serving(archive, local("SCP", port)) as node:
            *_, (final, failed) = ask(node, MOVE_CLASSES[1], "STUDY", StudyInstanceUID=STUDY)
        assert counted(final) == (0xB000, None, 5, 1, 0)
        assert failed.FailedSOPInstanceUIDList == derive_uid("series", "instance", "3")

    @pytest.mark.requirement("DICOM-QR-028")
    def test_a_receiver_that_never_answers_is_given_up(self, archive: Archive) -> None:
        for data in part10_series(3):
            archive.land(data, source="CT1")
        hold = threading.Event()

        def store(_event: evt.Event) -> int:
            hold.wait(20)
            return 0x0000

        with receiver(store) as port, serving(archive, local("SCP", port, timeout_s=1.0)) as node:
            *_, (final, _) = ask(node, MOVE_CLASSES[1], "STUDY", StudyInstanceUID=STUDY)
            hold.set()
        assert counted(final) == (Status.UNABLE_TO_PERFORM_SUBOPERATIONS, None, 0, 3, 0)

    @pytest.mark.requirement("DICOM-QR-027")
    def test_more_classes_than_an_association_has_contexts_all_arrive(self, archive: Archive) -> None:
        classes = [f"1.2.826.0.1.3680043.8.498.{n}" for n in range(150)]  # private ones, as no receiver knows them all
        for n, (sop_class, ds) in enumerate(zip(classes, series_datasets(150), strict=True)):
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
            archive.land(to_part10(ds), source=f"CT{n % 2}")
        stored: list[str] = []

        def store(event: evt.Event) -> int:
            stored.append(event.request.AffectedSOPClassUID)
            return 0x0000

        contexts = [build_context(uid, list(UNCOMPRESSED)) for uid in classes]
        with receiver(store, contexts) as port, serving(archive, local("SCP", port)) as node:
            *_, (final, _) = ask(node, MOVE_CLASSES[1], "STUDY", StudyInstanceUID=STUDY)
        assert counted(final) == (0x0000, None, 150, 0, 0)
        assert sorted(stored) == sorted(classes)

    @pytest.mark.requirement("DICOM-QR-029")
    def test_a_caller_that_has_gone_ends_the_sending(self, archive: Archive, eventually: Callable[..., object]) -> None:
        for data in part10_series(50):
            archive.land(data, source="CT1")
        stored: list[int] = []

        def store(event: evt.Event) -> int:
            stored.append(event.request.MessageID)
            time.sleep(0.05)
            return 0x0000

        with receiver(store) as port, serving(archive, local("SCP", port)) as node:
            assoc = association(node, MOVE_CLASSES[1])
            responses = assoc.send_c_move(identifier("STUDY", StudyInstanceUID=STUDY), "SCP", MOVE_CLASSES[1])
            next(responses)
            assoc.abort()
            eventually(lambda: not node._ae.active_associations, deadline_s=10)
        assert len(stored) < 50
