"""C-GET and C-MOVE of the node, against DCMTK and Orthanc over real sockets, and against peers that stumble."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, RLELossless
from pynetdicom import AE, build_context, build_role, evt

from dicom_node.archive import Archive
from dicom_node.holding.files import to_part10
from dicom_node.presentation import GET_CLASSES, MOVE_CLASSES, UNCOMPRESSED, retrieve_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer
from dicom_node.statuses import Status
from domain.identifiers import derive_uid
from tests.builders_dicom import new_archive, part10_series, series_datasets
from tests.peers.dcmtk import run_dcmtk, running_storescp
from tests.peers.orthanc import running_orthanc

SYNTAXES = "dicom/mr_siemens_7_transfer_syntaxes"
STUDY = derive_uid("series", "study")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return new_archive(tmp_path / "node")


@contextmanager
def serving(archive: Archive, *destinations: Peer, **options: Any) -> Iterator[StorageNode]:
    node = StorageNode(
        archive, ae_title="VERAICON", host="127.0.0.1", port=0, pdu_timeout_s=2.0,
        move_destinations={peer.ae_title: peer for peer in destinations}, **options,
    )  # fmt: skip
    node.start()
    try:
        yield node
    finally:
        node.stop()


def keys(level: str, **wanted: str) -> list[str]:
    return [part for keyword, value in {"QueryRetrieveLevel": level, **wanted}.items() for part in ("-k", f"{keyword}={value}")]


def land(archive: Archive, folder: Path) -> list[Dataset]:
    """Land each file of a folder byte for byte and return the datasets."""
    files = sorted(folder.glob("*.dcm"))
    for path in files:
        archive.land(path.read_bytes(), source="CT1")
    return [dcmread(path) for path in files]


def arrived(folder: Path) -> dict[str, Dataset]:
    return {str(ds.SOPInstanceUID): ds for ds in (dcmread(path) for path in folder.iterdir())}


def local(name: str, port: int, **more: Any) -> Peer:
    return replace(Peer(name.lower(), name, "127.0.0.1", port, timeout_s=5.0), **more)


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


# What the tests above share: a caller and a receiver made by hand, for what DCMTK and Orthanc cannot be told to do.


def identifier(level: str, **wanted: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in wanted.items():
        setattr(ds, keyword, value)
    return ds


def association(
    node: StorageNode,
    model: str,
    store: Callable[[evt.Event], int] = lambda _: 0x0000,
    syntaxes: list[str] | None = None,
) -> Any:
    contexts = [*retrieve_contexts([model]), build_context(MRImageStorage, syntaxes or list(UNCOMPRESSED))]
    assoc = AE("ASKER").associate(
        "127.0.0.1", node.port, contexts=contexts, ae_title="VERAICON",
        ext_neg=[build_role(MRImageStorage, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, store)],
    )  # fmt: skip
    assert assoc.is_established
    return assoc


def send(assoc: Any, model: str, wanted: Dataset, *, message_id: int, destination: str = "SCP") -> Iterator[Any]:
    if model in MOVE_CLASSES:
        return iter(assoc.send_c_move(wanted, destination, model, msg_id=message_id))
    return iter(assoc.send_c_get(wanted, model, msg_id=message_id))


def ask(
    node: StorageNode, model: str, level: str, *, destination: str = "SCP", message_id: int = 1, **wanted: str
) -> list[tuple[Dataset, Any]]:
    assoc = association(node, model)
    try:
        return list(send(assoc, model, identifier(level, **wanted), message_id=message_id, destination=destination))
    finally:
        assoc.release()


def counted(status: Dataset) -> tuple[int, int | None, int, int, int]:
    """Status, remaining, completed, failed, warning."""
    return (
        status.Status,
        status.get("NumberOfRemainingSuboperations"),
        status.NumberOfCompletedSuboperations,
        status.NumberOfFailedSuboperations,
        status.NumberOfWarningSuboperations,
    )


def start_receiver(store: Callable[[evt.Event], int], contexts: list[Any] | None = None) -> Any:
    ae = AE("SCP")
    for context in contexts or [build_context(MRImageStorage, list(UNCOMPRESSED))]:
        ae.add_supported_context(context.abstract_syntax, context.transfer_syntax)
    return ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])


@contextmanager
def receiver(store: Callable[[evt.Event], int], contexts: list[Any] | None = None) -> Iterator[int]:
    server = start_receiver(store, contexts)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


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
