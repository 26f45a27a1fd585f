"""Objects written only to be listed: requests that have nothing in common, so that what they share is fixed by the writers.

No patient and no model stands behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from dicom_node.identity import SeriesIdentity
from dicom_node.objects.rejection_note import NoteIdentity, rejection_note
from dicom_node.objects.segmentation import Labels
from dicom_node.writing import ImageForm, SummaryForm, write_segmentation, write_series, write_summary
from domain.findings import Finding, Outcome
from domain.generation import ConditioningRecord, ExecutionEnvironment, GeneratedVolume, ModelIdentity
from domain.identifiers import InstanceUid, PatientIdentifier, SeriesUid, StudyUid, derive_uid
from domain.series import ImagingSeries, InstanceReference
from domain.volume import Volume


@dataclass(frozen=True)
class Phantom:
    """One request that was never made.

    Attributes
    ----------
    generated : GeneratedVolume
        MR with intensities 0 to 1.
    findings : tuple of Finding
    labels : sequence of (int, str)
        Of its label map.
    """

    generated: GeneratedVolume
    identity: SeriesIdentity
    source: ImagingSeries
    findings: tuple[Finding, ...]
    labels: Labels

    def images(self, modality: str, form: ImageForm) -> list[Dataset]:
        """Return the images of one kind."""
        return write_series(self._as(modality), self._identity_of(modality), source=self.source, form=form)

    def segmentation(self, images: Sequence[Dataset]) -> Dataset:
        """Return the segmentation of some images."""
        modality = str(images[0].Modality)
        return write_segmentation(self._as(modality), self._identity_of(modality), images, self.labels)

    def summary(self, images: Sequence[Dataset], form: SummaryForm) -> Dataset:
        """Return the summary beside some images."""
        modality = str(images[0].Modality)
        return write_summary(self._as(modality), self._identity_of(modality), images, self.findings, form=form)

    def rejection(self, images: Sequence[Dataset]) -> Dataset:
        """Return the note that rejects some images."""
        name = self.identity.request_id
        when = self.identity.created_at + timedelta(days=len(name))
        title = "113001" if name == "first" else "113037"
        uids = (derive_uid(name, "note-series"), derive_uid(name, "note"))
        return rejection_note(images, NoteIdentity(*uids, title, f"Recall {name}", when, self.identity.software_version))

    def _as(self, modality: str) -> GeneratedVolume:
        volume = self.generated.volume
        if modality == "CT":
            array = (volume.array * 2000 - 1000).astype(np.float32)
            volume = replace(volume, array=array, modality="CT", unit="[hnsf'U]")
        return replace(self.generated, volume=volume)

    def _identity_of(self, modality: str) -> SeriesIdentity:
        return replace(self.identity, series_description=self.identity.series_description.replace("MR", modality))


def phantoms() -> tuple[Phantom, ...]:
    """Return two requests that differ in everything that a request decides, and the second once more without a body part."""
    morning = datetime(2001, 2, 3, 4, 5, 6, 700000, tzinfo=UTC)
    evening = datetime(2012, 11, 10, 19, 18, 17, 160000, tzinfo=timezone(timedelta(hours=2)))
    first = Phantom(
        _volume((2, 4, 6), tilt_deg=12.0, first=True),
        _identity("first", morning, body_part="BRAIN"),
        _source("first", instances=2, sop_class=MRImageStorage),
        (Finding("finite", Outcome.PASSED, 0.0, "only finite voxels", "Every voxel is finite."),),
        ((1, "hippocampus-anterior-volume"), (2, "brain-left-volume")),
    )
    second = Phantom(
        _volume((3, 5, 8), tilt_deg=-31.0, first=False),
        _identity("second", evening, body_part="CHEST"),
        _source("second", instances=3, sop_class=CTImageStorage),
        (
            Finding("range", Outcome.NOT_APPLICABLE, None, "the range of training", "No range was asked for."),
            Finding("shape", Outcome.PASSED, 1.0, "one part", "The label is one part."),
        ),
        ((1, "unlisted-structure"), (2, "hippocampus-posterior-right-volume")),
    )
    return first, second, replace(second, identity=replace(second.identity, body_part=""))


def _volume(shape: tuple[int, int, int], *, tilt_deg: float, first: bool) -> GeneratedVolume:
    ramp = np.linspace(0.1 if first else 0.0, 1.0 if first else 0.7, int(np.prod(shape)), dtype=np.float32)
    array = ramp.reshape(shape)
    label_map = (np.arange(array.size).reshape(shape) % 3).astype(np.uint8)
    angle = np.radians(tilt_deg)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.array([[0, 0, 0.75 if first else 0.5], [0, 1.0 if first else 0.6, 0], [1.5, 0, 0]])
    affine[:3, 3] = (-30.25, 12.5, 7.125) if first else (11.75, -3.5, 20.5)
    if not first:
        affine[:3, 0] *= 1.2
    letter, seed = ("a", 7) if first else ("b", 11)
    return GeneratedVolume(
        volume=Volume(array, affine, "", "MR"),
        label_map=label_map,
        model=ModelIdentity(
            f"model-{letter}", f"{seed}.0", f"sha256:{letter * 64}", f"sha256:{letter * 64}", f"Licence {letter}"
        ),
        seed=seed,
        sampler="euler" if first else "heun",
        sampler_steps=8 if first else 16,
        guidance=2.0 if first else 3.5,
        conditioning=ConditioningRecord((("kind-of-target", 3.0, "mL"),) if first else (), ("prior-image",), ()),
        environment=ExecutionEnvironment((("numpy", "0"),), "cpu", 1, "none"),
    )


def _identity(name: str, created_at: datetime, *, body_part: str) -> SeriesIdentity:
    return SeriesIdentity.for_request(
        name,
        patient_system=f"https://{name}.example/patients",
        issuer=f"ISSUER-{name.upper()}",
        created_at=created_at,
        software_version=f"version-{name}",
        body_part=body_part,
    )


def _source(name: str, *, instances: int, sop_class: str) -> ImagingSeries:
    return ImagingSeries(
        study_uid=StudyUid(derive_uid(name, "source-study")),
        series_uid=SeriesUid(derive_uid(name, "source-series")),
        patient=PatientIdentifier(name),
        modality="MR",
        acquired_at=datetime(2000, 1, 1, tzinfo=UTC),
        instances=tuple(
            InstanceReference(sop_class, InstanceUid(derive_uid(name, "source", str(number))), f"sha256:{number:064x}")
            for number in range(instances)
        ),
    )
