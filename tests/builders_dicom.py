"""Phantoms and small series that the tests of the DICOM node share. No patient stands behind any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from sqlalchemy import Engine, event
from sqlmodel import create_engine

from dicom_node.archive import Archive
from dicom_node.holding.files import file_meta, to_part10
from dicom_node.tables import metadata
from dicom_node.writing import SeriesIdentity
from domain.generation import ConditioningRecord, ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.identifiers import InstanceUid, PatientIdentifier, SeriesUid, StudyUid, derive_uid
from domain.series import ImagingSeries, InstanceReference
from domain.volume import Volume


def index_engine(folder: Path) -> Engine:
    """Return an SQLite engine as a site has it: WAL, synchronous=FULL, tables made."""
    engine = create_engine(f"sqlite:///{folder / 'index.db'}")

    @event.listens_for(engine, "connect")
    def _durable(connection: object, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]  # a DBAPI connection has no public type

    metadata.create_all(engine)
    return engine


def new_archive(folder: Path, **options: object) -> Archive:
    """Return an empty archive with its index in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Archive(index_engine(folder), folder / "archive", min_free_bytes=2**20, **options)  # type: ignore[arg-type]  # passed on


class Clock:
    """Seconds since the epoch that a test moves by hand."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def slice_dataset(
    number: int,
    pixels: NDArray[np.uint16] | NDArray[np.int16],
    *,
    name: str = "series",
    position_mm: Sequence[float] | None = None,
    modality: str = "MR",
    **attributes: object,
) -> Dataset:
    """Return one classic slice of a made-up series; attributes by keyword replace or (None) remove what is there."""
    ds = Dataset()
    sop_class = {"MR": MRImageStorage, "CT": CTImageStorage}[modality]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, derive_uid(name, "instance", str(number))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derive_uid(name, "study"), derive_uid(name, "series")
    ds.FrameOfReferenceUID = derive_uid(name, "frame")
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-1", "Phantom^One", "19500102", "F"
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.InstanceNumber = "20240105", "101112", modality, number
    ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness = [1, 0, 0, 0, 1, 0], [1.5, 0.5], 2
    ds.ImagePositionPatient = list(position_mm if position_mm is not None else (10, 20, 2 * number))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(pixels.dtype == np.int16)
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = file_meta(ds.SOPClassUID, str(ds.SOPInstanceUID), ExplicitVRLittleEndian)
    return ds


def series_datasets(count: int = 4, *, name: str = "series", change: Callable[[Dataset], None] | None = None) -> list[Dataset]:
    """Return a small even MR series whose slice k holds 100 k + 10 row + column."""
    grid = np.arange(3)[:, None] * 10 + np.arange(2)[None, :]
    made = [slice_dataset(k, (100 * k + grid).astype(np.uint16), name=name) for k in range(1, count + 1)]
    for ds in made:
        if change is not None:
            change(ds)
    return made


def part10_series(count: int = 4, *, name: str = "series", change: Callable[[Dataset], None] | None = None) -> list[bytes]:
    """Return the same series as files."""
    return [to_part10(ds) for ds in series_datasets(count, name=name, change=change)]


def generated_phantom(shape: tuple[int, int, int] = (6, 10, 8)) -> GeneratedVolume:
    """Return a ball in an oblique grid, as a generator would return it."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    array = np.clip(1 - np.linalg.norm(grid, axis=0), 0, 1).astype(np.float32)
    angle = np.radians(12.0)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.array([[0, 0, 0.75], [0, 1.0, 0], [1.5, 0, 0]])
    affine[:3, 3] = (-30.25, 12.5, 7.125)
    return GeneratedVolume(
        volume=Volume(array, affine, "", "MR"),
        label_map=None,
        model=ModelIdentity("phantom-ball", "1.0.0", "sha256:" + "ab" * 32, "sha256:" + "cd" * 32, "Apache-2.0"),
        seed=7,
        sampler="euler",
        sampler_steps=8,
        guidance=2.0,
        conditioning=ConditioningRecord((), ("prior-image",), ()),
        environment=ExecutionEnvironment((("numpy", np.__version__),), "cpu", 1, "none"),
    )


def source_series(instances: int = 3) -> ImagingSeries:
    """Return the real series that a phantom claims to be derived from."""
    return ImagingSeries(
        study_uid=StudyUid(derive_uid("source", "study")),
        series_uid=SeriesUid(derive_uid("source", "series")),
        patient=PatientIdentifier("P-1"),
        modality="MR",
        acquired_at=datetime(2024, 1, 5, 10, 11, 12, tzinfo=UTC),
        instances=tuple(
            InstanceReference(MRImageStorage, InstanceUid(derive_uid("source", "instance", str(n))), f"sha256:{n:064x}")
            for n in range(instances)
        ),
    )


def series_identity(request_id: str = "request-1") -> SeriesIdentity:
    """Return the identity of a published phantom."""
    return SeriesIdentity.for_request(
        request_id,
        patient_system="https://veraicon.example/synthetic-patients",
        issuer="VERAICON",
        created_at=datetime(2025, 3, 4, 5, 6, 7, 890000, tzinfo=UTC),
        software_version="0.1.0",
    )
