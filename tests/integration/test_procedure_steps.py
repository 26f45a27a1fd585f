"""Modality Performed Procedure Step over a real association. DCMTK and Orthanc have no MPPS: the modality is pynetdicom's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from dicom_node.archive import Archive
from dicom_node.association.policy import AuditTrail
from dicom_node.calling.sending import store
from dicom_node.holding.procedure_steps import Change, ListedInstance, ProcedureSteps, StepState
from dicom_node.holding.transactions import in_transaction
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer
from dicom_node.services.procedure_step import ProcedureStepService
from domain.identifiers import derive_uid
from tests.builders_dicom import index_engine, series_datasets

STEP = derive_uid("step", "mpps")


@dataclass
class Modality:
    """A modality that has associated with our node."""

    assoc: Any
    archive: Archive
    node: Peer

    def create(self, ds: Dataset, uid: str | None = STEP) -> Dataset:
        status, _ = self.assoc.send_n_create(ds, ModalityPerformedProcedureStep, uid)
        return status

    def set(self, ds: Dataset, uid: str = STEP) -> Dataset:
        status, _ = self.assoc.send_n_set(ds, ModalityPerformedProcedureStep, uid)
        return status


@contextmanager
def associated(folder: Path) -> Iterator[Modality]:
    engine, audit = index_engine(folder), AuditTrail()
    archive = Archive(engine, folder / "archive", min_free_bytes=2**20)
    service = ProcedureStepService(ProcedureSteps(engine), audit)
    node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0, services=[service], audit=audit)
    node.start()
    ae = AE("MR1")
    ae.add_requested_context(ModalityPerformedProcedureStep)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="VERAICON")
    try:
        yield Modality(assoc, archive, Peer("node", "VERAICON", "127.0.0.1", node.port, "MR1"))
    finally:
        assoc.release()
        node.stop()


@pytest.fixture
def modality(tmp_path: Path) -> Iterator[Modality]:
    with associated(tmp_path) as found:
        yield found


def started() -> Dataset:
    """Return what a modality says at the start of an examination."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID, scheduled.ReferencedStudySequence, scheduled.AccessionNumber = (
        derive_uid("series", "study"),
        [],
        "",
    )
    ds = Dataset()
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^One", "P-1", "", ""
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.Modality = "PPS1", "MR1", "MR"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20240105", "101112"
    ds.PerformedProcedureStepStatus, ds.PerformedSeriesSequence = "IN PROGRESS", []
    return ds


def ended(state: str, instances: list[Dataset]) -> Dataset:
    """Return what it says at the end."""
    series = Dataset()
    series.SeriesInstanceUID, series.ProtocolName = derive_uid("series", "series"), "T1"
    series.ReferencedImageSequence = []
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
        series.ReferencedImageSequence.append(item)
    ds = Dataset()
    ds.PerformedProcedureStepStatus, ds.PerformedSeriesSequence = state, [series]
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20240105", "103000"
    return ds


@pytest.mark.requirement("DICOM-MPPS-002")
def test_a_completed_step_settles_its_series_with_the_last_listed_instance(modality: Modality) -> None:
    instances = series_datasets(4)
    assert modality.create(started()).Status == 0x0000
    store(modality.node, instances[:3])
    assert modality.set(ended("COMPLETED", instances)).Status == 0x0000
    assert modality.archive.unannounced(600) == []
    store(modality.node, instances[3:])
    assert [found.instances for found in modality.archive.unannounced(600)] == [4]


@pytest.mark.requirement("DICOM-MPPS-001")
def test_messages_in_the_wrong_order_are_answered_with_their_status(modality: Modality) -> None:
    instances = series_datasets(1)
    assert modality.set(ended("COMPLETED", instances)).Status == 0x0112
    assert modality.create(started()).Status == 0x0000
    assert modality.create(started()).Status == 0x0111
    assert modality.set(ended("COMPLETED", instances)).Status == 0x0000
    late = modality.set(ended("DISCONTINUED", instances))
    assert (late.Status, late.ErrorID) == (0x0110, 0xA710)
    assert "no longer be updated" in late.ErrorComment


@pytest.mark.requirement("DICOM-MPPS-001")
@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda ds: delattr(ds, "Modality"), 0x0120),
        (lambda ds: delattr(ds, "ScheduledStepAttributesSequence"), 0x0120),
        (lambda ds: setattr(ds, "PerformedProcedureStepID", ""), 0x0121),
        (lambda ds: delattr(ds.ScheduledStepAttributesSequence[0], "StudyInstanceUID"), 0x0121),
        (lambda ds: setattr(ds, "PerformedProcedureStepStatus", "COMPLETED"), 0x0106),
        (lambda ds: setattr(ds, "PerformedSeriesSequence", [Dataset()]), 0x0106),
    ],
    ids=["no modality", "no scheduled step", "empty id", "no study", "completed at once", "series without uid"],
)
def test_a_faulty_start_is_refused_and_a_mended_one_taken(
    modality: Modality, spoil: Callable[[Dataset], None], status: int
) -> None:
    ds = started()
    spoil(ds)
    answered = modality.create(ds)
    assert answered.Status == status
    if status == 0x0120:
        assert answered.ErrorComment
    assert modality.create(started()).Status == 0x0000


@pytest.mark.requirement("DICOM-MPPS-001")
def test_an_unknown_state_and_a_start_without_uid_are_refused(modality: Modality) -> None:
    assert modality.create(started(), uid=None).Status == 0x0117
    assert modality.create(started()).Status == 0x0000
    assert modality.set(ended("ALMOST DONE", [])).Status == 0x0106


@pytest.mark.requirement("DICOM-MPPS-001")
def test_a_step_outlives_a_restart_of_the_node(tmp_path: Path) -> None:
    instances = series_datasets(2)
    with associated(tmp_path) as before:
        assert before.create(started()).Status == 0x0000
    with associated(tmp_path) as after:
        store(after.node, instances)
        assert after.set(ended("COMPLETED", instances)).Status == 0x0000
        assert [found.instances for found in after.archive.unannounced(600)] == [2]


def test_a_change_that_the_end_of_its_step_overtakes_changes_nothing(tmp_path: Path) -> None:
    other, kept = ProcedureSteps(index_engine(tmp_path)), [ListedInstance("1.2", "1.2.3")]
    assert other.create(STEP, (), source="MR1")

    def clock() -> float:
        assert other.change(STEP, state=StepState.COMPLETED, listed=kept) is Change.DONE
        return 0.0

    steps = ProcedureSteps(index_engine(tmp_path), clock=clock)
    assert steps.change(STEP, state=StepState.DISCONTINUED, listed=()) is Change.FINAL
    with index_engine(tmp_path).connect() as connection:
        assert connection.exec_driver_sql("SELECT state FROM dicom_procedure_step").scalar() == "COMPLETED"
        assert connection.exec_driver_sql("SELECT count(*) FROM dicom_expected_instance").scalar() == 1


def test_a_transaction_that_fails_at_first_is_tried_again(tmp_path: Path) -> None:
    engine, attempts = index_engine(tmp_path), []

    def write(_session: Session) -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise OperationalError("write", None, Exception("database is locked"))
        return "kept"

    assert in_transaction(engine, write) == "kept"
