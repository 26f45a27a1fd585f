"""Commands that talk to DICOM peers, by DIMSE or DICOMweb: does it answer, what has it, fetch it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from dicom_node.calling.remote import PullCounts, RemoteSeries
    from veraicon.pulls import Puller

app = typer.Typer(help="Configured DICOM peers.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a destination, a DICOMweb peer, or a source with host and port.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


class Level(StrEnum):
    """What is listed."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    IMAGE = "image"


class Way(StrEnum):
    """How instances of a DIMSE peer come."""

    GET = "get"
    MOVE = "move"


# What is shown of each level. Nothing that names a person, unless it is asked for.
_COLUMNS = {
    Level.PATIENT: ("NumberOfPatientRelatedStudies",),
    Level.STUDY: (
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesNumber", "NumberOfSeriesRelatedInstances"),
    Level.IMAGE: ("SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}
_WIDEST = 1000
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


@app.command("echo")
def echo(context: typer.Context, name: Name) -> None:
    """Ask a peer whether it answers: C-ECHO, or a search for one study where it speaks DICOMweb."""
    from veraicon.peers import named_remote

    named_remote(settings_of(context), name).echo()
    err.print(f"{name} answers")


@app.command("find")
def find(
    context: typer.Context,
    name: Name,
    level: Annotated[Level, typer.Option(help="What is listed.")] = Level.STUDY,
    patient_id: Annotated[str, typer.Option(help="Patient ID, may hold * and ?.")] = "",
    accession: Annotated[str, typer.Option(help="Accession number, may hold * and ?.")] = "",
    study_uid: Annotated[str, typer.Option(help="Study Instance UID.")] = "",
    series_uid: Annotated[str, typer.Option(help="Series Instance UID.")] = "",
    date: Annotated[str, typer.Option(help="Study date, or a range: 20240101-20240131.")] = "",
    modality: Annotated[str, typer.Option(help="Modality, such as MR.")] = "",
    show_patient: Annotated[bool, typer.Option("--show-patient", help="Show ids, names and birth dates too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a peer what it has (C-FIND or QIDO-RS); patients are not named unless you say so."""
    from dicom_node.holding.headers import text_of
    from veraicon.peers import named_remote

    columns = (*(_PATIENT if show_patient else ()), *_COLUMNS[level])
    of_modality = "ModalitiesInStudy" if level is Level.STUDY else "Modality"
    keys = {
        "PatientID": patient_id,
        "AccessionNumber": accession,
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": series_uid,
        "StudyDate": date,
        of_modality: modality,
    }
    matching = {keyword: value for keyword, value in keys.items() if value}
    found = named_remote(settings_of(context), name).find(level.name, columns, matching)
    rows = [{column: text_of(ds, column) for column in columns} for ds in found]
    if as_json:
        show_json(rows)
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    # As wide as its UIDs need, whatever the terminal: one that is cut short names nothing.
    Console(highlight=False, soft_wrap=True, width=_WIDEST).print(table)
    err.print(f"{len(rows)} found")


@app.command("pull")
def pull(
    context: typer.Context,
    name: Name,
    accession: Annotated[str, typer.Option(help="The studies of this accession number.")] = "",
    priors: Annotated[bool, typer.Option("--priors", help="With --accession: the patient's earlier studies too.")] = False,
    study_uid: Annotated[str, typer.Option(help="This study.")] = "",
    series_uid: Annotated[str, typer.Option(help="Only this series; most peers need --study-uid beside it.")] = "",
    patient_id: Annotated[str, typer.Option(help="All studies of this patient.")] = "",
    by: Annotated[
        Way | None,
        typer.Option(help="DIMSE only. get (default): over our own association. move: the peer sends to our node."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch studies from a peer into our archive (C-GET, C-MOVE or WADO-RS).

    What you name settles like what is pushed, and a request is made of each series. Of the studies that --priors adds none is
    made: they are there to be seen, and `veraicon job new` asks for one.

    With --by move the peer sends to our node: `veraicon serve` must be running on this archive, and the peer must know our AE
    title with host and port.
    """
    from dicom_node.calling.dimse import By
    from domain.errors import IncompleteSeries, PeerRefused
    from veraicon.peers import named_remote
    from veraicon.pulls import Puller
    from veraicon.wiring import open_site

    settings = settings_of(context)
    remote = named_remote(settings, name, by=By(by.value) if by else None)
    with open_site(settings) as site, _progress() as (progress, tell):
        puller = Puller(remote, site.archive, tell=tell)
        if by is Way.MOVE:
            err.print(f"{name} sends to {settings.node.ae_title}, our node, which has to be running")
        series = _series(
            puller, accession=accession, priors=priors, study_uid=study_uid, series_uid=series_uid, patient_id=patient_id
        )
        total = progress.add_task("series", total=len(series))
        pulled, failures = [], []
        for one in series:
            try:
                pulled.append(puller.pull(one))
            except (IncompleteSeries, PeerRefused) as error:  # the peer goes on with the next series, so do we
                failures.append(error)
            progress.advance(total)
    if as_json:
        show_json([{"study": p.series.study_uid, "series": p.series.series_uid, "held": p.held, "new": p.new} for p in pulled])
    else:
        studies = len({p.series.study_uid for p in pulled})
        out.print(f"{studies} studies, {len(pulled)} series, {sum(p.held for p in pulled)} instances are here", end="; ")
        out.print(f"{sum(p.new for p in pulled)} came now")
    if failures:
        err.print(f"{len(failures)} of {len(series)} series did not come whole; the first failure:")
        raise failures[0]


def _series(puller: Puller, *, series_uid: str, **keys: Any) -> list[RemoteSeries]:
    from dicom_node.calling.remote import RemoteStudy
    from domain.errors import ResourceNotFound

    alone = bool(series_uid) and not any(keys.values())
    studies = [RemoteStudy("")] if alone else puller.studies(**keys)
    found = puller.series_of(studies, series_uid=series_uid)
    if not found:
        raise ResourceNotFound(
            found=f"no series at {puller.remote.name} for what was named",
            allowed="an accession, study, series or patient that the peer has",
            action="see what it has: veraicon peer find; name the study of a series too",
        )
    return found


@contextmanager
def _progress() -> Iterator[tuple[Progress, Any]]:
    """Give progress bars on stderr: one over all series, and one for the series under way."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        current = progress.add_task("instances", total=None)

        def tell(_series: RemoteSeries, counts: PullCounts) -> None:
            done = counts.completed + counts.warning + counts.failed
            total = done + counts.remaining if counts.remaining is not None else None
            progress.update(current, completed=done, total=total)

        yield progress, tell
