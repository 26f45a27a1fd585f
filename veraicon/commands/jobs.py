"""Commands that look after jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from domain.errors import RequestInvalid
from veraicon.commands.console import err, out, settings_of, show_json
from veraicon.pipeline import JobState

if TYPE_CHECKING:  # a database and its engine: only the commands themselves need them
    from veraicon.jobs import Jobs
    from veraicon.tables import JobRow

app = typer.Typer(help="Jobs: what was asked and where it stands.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="Job id, or its first characters.", metavar="JOB")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@contextmanager
def _jobs(context: typer.Context) -> Iterator[Jobs]:
    from veraicon.database import connect, migrate
    from veraicon.jobs import Jobs

    settings = settings_of(context)
    engine = connect(settings)
    migrate(engine)
    jobs = Jobs(engine, settings.storage.folder / "jobs")
    try:
        yield jobs
    finally:
        jobs.close()
        engine.dispose()


@app.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[list[JobState] | None, typer.Option(help="Only these states.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, the one that changed last first; a failed one shows its error and what to do."""
    from veraicon.jobs import describe

    with _jobs(context) as jobs:
        rows = jobs.recent(states=state or [], limit=limit)
    if as_json:
        show_json([describe(row) for row in rows])
        return
    table = Table("job", "state", "series", "changed", "error", box=None, pad_edge=False)
    for row in rows:
        problem = "{code} {name}: {found}".format(**row.error) if row.error else ""
        table.add_row(row.request_id[:8], row.state, f"…{row.series_uid[-12:]}", f"{row.updated_at:%Y-%m-%d %H:%M:%S}", problem)
    out.print(table)
    for row in rows:
        if row.error and JobState(row.state).ended:
            out.print(f"{row.request_id[:8]} next: ", end="", style="bold")
            out.print(row.error["next"], markup=False)


@app.command("show")
def show_job(context: typer.Context, job: JobId) -> None:
    """Show one job as JSON."""
    from veraicon.jobs import describe

    with _jobs(context) as jobs:
        show_json(describe(_find(jobs, job)))


@app.command("new")
def new_job(
    context: typer.Context,
    series: Annotated[str, typer.Argument(help="Series Instance UID of a series in our archive.")],
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Another one gives another volume.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Value to obey, above the EHR's: hippocampus-volume=3100")] = None,
) -> None:
    """Ask for one more volume from a series that was received; a running worker makes it."""
    from veraicon.asking import parse_asked, request_from
    from veraicon.wiring import open_site

    settings = settings_of(context)
    with open_site(settings) as site:
        request = request_from(
            site.archive, series, settings.generation, requested_by="command line", seed=seed, asked=parse_asked(ask or [])
        )
        site.outputs.require_consent(site.archive.series(request.series_uid))
        site.jobs.submit(request)
    out.print(request.request_id)


@app.command("retry")
def retry_job(context: typer.Context, job: JobId) -> None:
    """Queue a failed or cancelled job again; a running worker takes it."""
    with _jobs(context) as jobs:
        row = jobs.retry(_find(jobs, job).request_id)
    err.print(f"{row.request_id} is queued again")


@app.command("cancel")
def cancel_job(context: typer.Context, job: JobId) -> None:
    """Cancel a job that is under way."""
    with _jobs(context) as jobs:
        row = jobs.cancel(_find(jobs, job).request_id)
    err.print(f"{row.request_id} is cancelled")


@app.command("preview")
def preview_job(
    context: typer.Context,
    job: JobId,
    to: Annotated[Path, typer.Option("--to", help="PNG to write.", dir_okay=False)],
) -> None:
    """Draw the source and the generated volume of a job side by side: what a person looks at before approving."""
    from veraicon.previewing import draw_job
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site:
        draw_job(site, _find(site.jobs, job).request_id, to)
    out.print(str(to), markup=False)


@app.command("approve")
def approve_job(
    context: typer.Context,
    job: JobId,
    by: Annotated[str, typer.Option("--by", help="User id or role; stands in the signed statement.")],
    note: Annotated[str, typer.Option(help="Words for the job's record; no patient data.")] = "",
) -> None:
    """Let a held volume be published; a running worker goes on with it."""
    from veraicon.approving import Approvals, decision_of

    with _jobs(context) as jobs:
        row = Approvals(jobs).approve(_find(jobs, job).request_id, by=by, note=note)
    decision = decision_of(row)
    err.print(f"{row.request_id} is approved by {decision.by if decision else by}", markup=False)


@app.command("reject")
def reject_job(
    context: typer.Context,
    job: JobId,
    by: Annotated[str, typer.Option("--by", help="User id or role.")],
    reason: Annotated[str, typer.Option(help="Words for the job's record; no patient data.")],
) -> None:
    """End a held job without publishing anything."""
    from veraicon.approving import Approvals

    with _jobs(context) as jobs:
        row = Approvals(jobs).reject(_find(jobs, job).request_id, by=by, reason=reason)
    err.print(f"{row.request_id} is rejected")


def _find(jobs: Jobs, text: str) -> JobRow:
    """Return the one job whose id starts with `text`."""
    matches = jobs.starting_with(text)
    if len(matches) > 1:
        raise RequestInvalid(
            found=f"{len(matches)} jobs whose ids start so", allowed="the start of one id", action="give more characters"
        )
    return matches[0] if matches else jobs.get(text)
