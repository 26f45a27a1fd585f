"""Landing, settling and announcing, without a network."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import delete, event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, select

from dicom_node.archive import Archive
from dicom_node.commitment.records import ReceivedCommitments
from dicom_node.holding import files
from dicom_node.holding.files import digest_of, series_digest, to_part10
from dicom_node.holding.headers import read_header
from dicom_node.holding.index import Landing
from dicom_node.tables import ConflictRow, InstanceRow, RefusedRow
from domain.errors import StorageExhausted, UnreadableInstance
from domain.identifiers import InstanceUid, derive_uid
from domain.series import InstanceReference
from tests.builders_dicom import Clock, index_engine, new_archive, part10_series, series_datasets

SERIES = derive_uid("series", "series")


@pytest.mark.requirement("DICOM-STORE-002")
def test_keeps_the_bytes_as_they_came(tmp_path: Path) -> None:
    archive, (data,) = new_archive(tmp_path), part10_series(1)
    landed = archive.land(data, source="CT1")
    assert landed.landing is Landing.STORED
    assert archive.instance_path(landed.reference).read_bytes() == data
    assert landed.reference.digest == digest_of(data)
    assert landed.reference.sop_instance_uid not in str(archive.instance_path(landed.reference))


@pytest.mark.requirement("DICOM-STORE-004")
def test_a_repeated_instance_is_kept_once_and_is_no_error(tmp_path: Path) -> None:
    archive, (data,) = new_archive(tmp_path), part10_series(1)
    assert [archive.land(data, source="CT1").landing for _ in range(2)] == [Landing.STORED, Landing.DUPLICATE]
    assert len(list(tmp_path.rglob("*.dcm"))) == 1


@pytest.mark.requirement("DICOM-STORE-005")
def test_other_bytes_under_a_held_uid_are_kept_aside_and_do_not_join_the_series(tmp_path: Path) -> None:
    engine = index_engine(tmp_path)
    archive = Archive(engine, tmp_path / "archive", min_free_bytes=1)
    (first,) = part10_series(1)
    (other,) = part10_series(1, change=lambda ds: setattr(ds, "SeriesDescription", "other"))
    held = archive.land(first, source="CT1")
    aside = archive.land(other, source="CT2")
    assert aside.landing is Landing.CONFLICT
    assert archive.instance_path(aside.reference).read_bytes() == other
    assert [reference.digest for reference in archive.series(SERIES).instances] == [held.reference.digest]
    with Session(engine) as session:
        (row,) = session.exec(select(ConflictRow)).all()
    assert (row.digest, row.held_digest, row.source) == (digest_of(other), digest_of(first), "CT2")


@pytest.mark.requirement("DICOM-STORE-006")
def test_refuses_before_the_disk_is_full_and_keeps_nothing(tmp_path: Path) -> None:
    archive = Archive(index_engine(tmp_path), tmp_path / "archive", min_free_bytes=2**60)
    with pytest.raises(StorageExhausted) as caught:
        archive.land(part10_series(1)[0], source="CT1")
    assert caught.value.dimse_status == 0xA700
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.requirement("DICOM-STORE-007")
@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("no DICOM", lambda data: data[:128] + b"JUNK" + data[132:]),
        ("cut off in the header", lambda data: data[:300]),
        ("empty", lambda data: b""),
    ],
)
def test_unreadable_bytes_are_refused_and_kept(tmp_path: Path, name: str, spoil: object) -> None:
    engine = index_engine(tmp_path)
    archive = Archive(engine, tmp_path / "archive", min_free_bytes=1)
    spoilt = spoil(part10_series(1)[0])  # type: ignore[operator]  # a function of the table above
    with pytest.raises(UnreadableInstance):
        archive.land(spoilt, source="CT1")
    kept = list((tmp_path / "archive" / "refused").iterdir())
    assert [path.read_bytes() for path in kept] == [spoilt], name
    with Session(engine) as session:
        (row,) = session.exec(select(RefusedRow)).all()
        assert not session.exec(select(InstanceRow)).all()
    assert (row.code, row.digest) == ("VI-2001", digest_of(spoilt))


@pytest.mark.requirement("DICOM-STORE-007")
def test_refuses_an_instance_whose_meta_information_names_another_instance(tmp_path: Path) -> None:
    (data,) = part10_series(1)
    uid = derive_uid("series", "instance", "1").encode()
    assert data.count(uid) == 2
    with pytest.raises(UnreadableInstance, match="SOPInstanceUID"):
        read_header(data.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1))


@pytest.mark.requirement("DICOM-STORE-007")
def test_refuses_a_series_that_is_known_under_another_study(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    archive.land(part10_series(1)[0], source="CT1")

    def elsewhere(ds: Dataset) -> None:
        ds.StudyInstanceUID = derive_uid("other", "study")

    with pytest.raises(UnreadableInstance, match="another study"):
        archive.land(part10_series(2, change=elsewhere)[1], source="CT1")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 900), value=st.integers(0, 255), cut=st.integers(0, 1200))
@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it finds odd in damaged bytes, and so it should
def test_damaged_headers_are_read_or_refused_and_nothing_else(place: int, value: int, cut: int) -> None:
    data = bytearray(part10_series(1)[0])
    data[min(place, len(data) - 1)] = value
    try:
        header = read_header(bytes(data[:cut] if cut < 900 else data))
    except UnreadableInstance:
        return
    assert header.sop_instance_uid


def test_a_damaged_file_is_told_and_not_handed_on(tmp_path: Path) -> None:
    archive = new_archive(tmp_path)
    landed = archive.land(part10_series(1)[0], source="CT1")
    series = archive.series(SERIES)
    path = archive.instance_path(landed.reference)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(UnreadableInstance, match="not those that were received"):
        archive.datasets(series)
    path.unlink()
    with pytest.raises(UnreadableInstance, match="no bytes"):
        archive.datasets(series)


def test_a_damaged_file_is_mended_by_sending_the_instance_again(tmp_path: Path) -> None:
    archive, (data,) = new_archive(tmp_path), part10_series(1)
    path = archive.instance_path(archive.land(data, source="CT1").reference)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert archive.land(data, source="CT1").landing is Landing.DUPLICATE
    assert path.read_bytes() == data


def _as(ds: Dataset, syntax: str) -> bytes:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.ImplementationVersionName = "ANOTHER"
    return to_part10(ds)


def _with_sequence(undefined: bool) -> Dataset:
    ds, item = series_datasets(1)[0], Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    ds.ReferencedImageSequence = [item]
    ds["ReferencedImageSequence"].is_undefined_length = undefined
    ds.private_block(0x0029, "SOMEBODY", create=True).add_new(1, "LO", "private")
    return ds


@pytest.mark.requirement("DICOM-STORE-004")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_same_instance_by_another_way_is_no_conflict(tmp_path: Path, syntax: str) -> None:
    """With other file meta information, as a web service has it, or in the other plain transfer syntax."""
    archive = new_archive(tmp_path)
    first = archive.land(to_part10(_with_sequence(undefined=True)), source="CT1")
    again = archive.land(_as(_with_sequence(undefined=False), syntax), source="CT1")
    assert (again.landing, again.reference) == (Landing.DUPLICATE, first.reference)
    assert len(list((tmp_path / "archive" / "instances").rglob("*.dcm"))) == 1
    other = _with_sequence(undefined=True)
    other.PatientName = "Other^Bytes"
    assert archive.land(_as(other, syntax), source="CT1").landing is Landing.CONFLICT


def test_a_sender_that_repeats_what_is_held_takes_its_other_bytes_back(tmp_path: Path) -> None:
    engine = index_engine(tmp_path)
    archive, (data,) = Archive(engine, tmp_path / "archive", min_free_bytes=0), part10_series(1)
    other = part10_series(1, change=lambda ds: setattr(ds, "PatientName", "Other^Bytes"))[0]
    uid = archive.land(data, source="CT1").reference.sop_instance_uid
    records = ReceivedCommitments(engine)
    archive.land(other, source="CT1")
    assert records.in_conflict([uid], "CT1") == {uid}
    archive.land(data, source="CT2")
    assert records.in_conflict([uid], "CT1") == {uid}, "another sender cannot take them back"
    archive.land(data, source="CT1")
    assert records.in_conflict([uid], "CT1") == set()


def test_a_file_is_left_to_the_disk_until_it_is_done_also_where_the_index_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, (data,) = new_archive(tmp_path), part10_series(1)
    done: list[bool] = []
    fsync = files.os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.2)
        fsync(descriptor)  # a descriptor that was closed meanwhile would be told here
        done.append(True)

    def fail(*_: object, **__: object) -> None:
        raise OperationalError("insert", {}, Exception("locked"))

    monkeypatch.setattr(files.os, "fsync", slow)
    monkeypatch.setattr(archive._index, "file", fail)
    with pytest.raises(OperationalError):
        archive.land(data, source="CT1")
    assert len(done) == 2, "file and folder"


def test_a_file_without_row_is_adopted_when_the_sender_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, (data,) = new_archive(tmp_path), part10_series(1)

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archive._index, "file", die)
        with pytest.raises(Killed):
            archive.land(data, source="CT1")
    assert archive.series_digest(SERIES) == series_digest([])
    assert archive.land(data, source="CT1").landing is Landing.STORED


@pytest.mark.requirement("DICOM-STORE-003")
def test_file_and_folder_are_on_disk_before_the_index_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first instance of a series and of a further one, which are filed in different ways."""
    archive = new_archive(tmp_path)
    steps: list[str] = []
    fsync, rename = files.os.fsync, Path.rename
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (fsync(descriptor), steps.append("fsync"))[0])
    monkeypatch.setattr(Path, "rename", lambda self, target: (rename(self, target), steps.append("rename"))[0])
    event.listen(archive._index._engine, "commit", lambda _connection: steps.append("commit"))
    for data in part10_series(2):
        steps.clear()
        archive.land(data, source="CT1")
        assert steps == ["fsync", "rename", "fsync", "commit"]


def test_no_row_is_committed_for_bytes_that_could_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, further = part10_series(2)
    archive = new_archive(tmp_path)
    archive.land(first, source="CT1")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    for data, known in ((further, True), (part10_series(1, name="another")[0], False)):
        with monkeypatch.context() as broken:
            broken.setattr(files.os, "fsync", fail)
            with pytest.raises(OSError, match="the disk is broken"):
                archive.land(data, source="CT1")
        assert len(archive.references({})) == 1, known
        assert archive.land(data, source="CT1").landing is Landing.STORED
        with Session(archive._index._engine) as session:
            session.exec(delete(InstanceRow).where(col(InstanceRow.digest) == digest_of(data)))
            session.commit()


def test_many_threads_file_one_study_without_loss(tmp_path: Path) -> None:
    archive, files_ = new_archive(tmp_path), part10_series(24)
    failures: list[BaseException] = []

    def land(part: list[bytes]) -> None:
        try:
            for data in part:
                archive.land(data, source="CT1")
        except BaseException as error:  # noqa: BLE001  # a thread's failure has to reach the test
            failures.append(error)

    threads = [threading.Thread(target=land, args=(files_[k::4] + files_[:2],)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert archive.series_digest(SERIES) == series_digest(digest_of(data) for data in files_)


class TestSettling:
    """When a series is handed on."""

    def landed(self, tmp_path: Path, data: list[bytes], **options: object) -> tuple[Archive, Clock]:
        clock = Clock()
        archive = new_archive(tmp_path, clock=clock)
        for item in data:
            archive.land(item, source="CT1", **options)  # type: ignore[arg-type]  # passed on
        return archive, clock

    @pytest.mark.requirement("DICOM-SETTLE-003")
    def test_a_series_settles_after_the_quiet_time_and_is_announced_once(self, tmp_path: Path) -> None:
        data = part10_series(3)
        archive, clock = self.landed(tmp_path, data)
        clock.advance(4.9)
        assert archive.unannounced(5.0) == []
        clock.advance(0.2)
        (settled,) = archive.unannounced(5.0)
        assert (settled.series_uid, settled.instances, settled.source) == (SERIES, 3, "CT1")
        assert settled.series_digest == series_digest(map(digest_of, data)) == archive.series_digest(SERIES)
        assert archive.announce(SERIES, settled.series_digest)
        assert archive.unannounced(5.0) == []

    @pytest.mark.requirement("DICOM-SETTLE-003")
    def test_a_late_instance_makes_the_series_unannounced_again(self, tmp_path: Path) -> None:
        archive, clock = self.landed(tmp_path, part10_series(3))
        clock.advance(6)
        (settled,) = archive.unannounced(5.0)
        archive.land(part10_series(4)[3], source="CT1")
        assert not archive.announce(SERIES, settled.series_digest)
        clock.advance(6)
        (again,) = archive.unannounced(5.0)
        assert again.instances == 4
        assert again.series_digest != settled.series_digest

    @pytest.mark.requirement("DICOM-SETTLE-003")
    def test_a_duplicate_does_not_announce_again(self, tmp_path: Path) -> None:
        archive, clock = self.landed(tmp_path, part10_series(3))
        clock.advance(6)
        archive.announce(SERIES, archive.series_digest(SERIES))
        archive.land(part10_series(1)[0], source="CT1")
        clock.advance(6)
        assert archive.unannounced(5.0) == []

    @pytest.mark.requirement("DICOM-SETTLE-001")
    @pytest.mark.parametrize(("expected", "quiet_s"), [(3, 1.0), (4, 30.0), (2, 5.0), (None, 5.0)])
    def test_the_stated_number_of_instances_sets_the_pace(self, tmp_path: Path, expected: int | None, quiet_s: float) -> None:
        def state(ds: Dataset) -> None:
            if expected is not None:
                ds.ImagesInAcquisition = expected

        archive, clock = self.landed(tmp_path, part10_series(3, change=state))
        clock.advance(quiet_s - 0.1)
        assert archive.unannounced(5.0) == []
        clock.advance(0.2)
        assert len(archive.unannounced(5.0)) == 1

    def test_our_own_series_is_never_announced(self, tmp_path: Path) -> None:
        archive, clock = self.landed(tmp_path, part10_series(3), origin="generated")
        clock.advance(1000)
        assert archive.unannounced(5.0) == []


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.part", tmp_path / ".b.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1_000.0, 1_000.0))
    assert files.remove_leftovers(tmp_path, before_s=2_000.0) == 1
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.requirement("DICOM-STORE-008")
@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha256:" + "g" * 64, ""])
def test_a_text_that_is_no_digest_names_no_file(tmp_path: Path, digest: str) -> None:
    with pytest.raises(UnreadableInstance, match="no digest"):
        new_archive(tmp_path).instance_path(InstanceReference("1.2", InstanceUid("1.2"), digest))
