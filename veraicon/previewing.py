"""The picture of a job that a person looks at before approving it."""

from __future__ import annotations

from pathlib import Path

from dicom_node.reading import read_volume
from domain.errors import JobNotHeld
from domain.series import ImagingSeries
from domain.volume import to_patient_axes
from veraicon.artifacts import GENERATED_VOLUME, json_codec
from veraicon.jobs import request_of
from veraicon.marking import content_credentials
from veraicon.pipeline import JobState
from veraicon.preview import draw, origin_of
from veraicon.wiring import Site


def draw_job(site: Site, request_id: str, path: Path) -> Path:
    """Write a PNG of a job's source and generated volume side by side.

    Raises
    ------
    JobNotFound
        If no job has this id.
    JobNotHeld
        If it has not generated a volume.
    OutputRecalled, ConsentMissing
        If it was recalled, or the consent of its patient was withdrawn: the picture shows the patient's own slices.
    UnreadableInstance
        If the source series is no longer in the archive.
    """
    request = request_of(site.jobs.get(request_id))
    site.outputs.require_not_recalled(request_id)
    folder = site.jobs.artifacts(request_id).folder
    kept = folder / f"{JobState.GENERATED.value}{GENERATED_VOLUME.suffix}"
    if not kept.exists():
        raise JobNotHeld(
            found="a job that has generated no volume",
            allowed="a job that is held, or has come further",
            action="wait for it: `veraicon job list`",
        )
    source: ImagingSeries = json_codec(ImagingSeries).read(folder / f"{JobState.RECEIVED.value}.json")
    site.outputs.require_consent(source)
    # Kept by whoever asked: a recall tells them. Before it is written an output stands in no book, and nor does its picture.
    site.outputs.hand_out(list(site.outputs.series(request_id)), str(path.absolute()), "preview")
    generated = GENERATED_VOLUME.read(kept)
    volume = to_patient_axes(read_volume(site.archive.datasets(source)))
    return draw(
        volume,
        generated.volume,
        path,
        caption=f"seed {request.seed}, model {generated.model.name}",
        origin=origin_of(request_id, folder),
        credentials=content_credentials(site.settings.provenance),
    )
