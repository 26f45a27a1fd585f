"""Commands that take outputs back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from veraicon.recall.executing import Recaller
    from veraicon.wiring import Site

app = typer.Typer(
    help="Take outputs back: list them and their copies; with --execute withdraw them and ask who holds copies to confirm.",
    no_args_is_help=True,
    invoke_without_command=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
RecallId = Annotated[str, typer.Argument(help="Recall id, or its first characters.", metavar="RECALL")]

_DAY = "%Y-%m-%d"
_FORMATS = [_DAY, "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


class Reason(StrEnum):
    """Why; see `provenance.recall_notice.RecallReason`."""

    QUALITY = "quality"
    SAFETY = "safety"
    CONSENT = "consent"
    OTHER = "other"


def _until(text: str) -> datetime:
    """Return the end of a span: a date without a time means all of that day."""
    for form in _FORMATS:
        with suppress(ValueError):
            moment = datetime.strptime(text, form)  # `_utc` gives it its zone
            return moment + timedelta(days=1) - timedelta(microseconds=1) if form == _DAY else moment
    raise typer.BadParameter(f"none of {', '.join(_FORMATS)}")


@app.callback()
def recall(
    context: typer.Context,
    weights: Annotated[str, typer.Option(help="Made by this model: its name, or the sha256: digest of its weights.")] = "",
    source_patient: Annotated[str, typer.Option(help="Made of this patient: Patient ID of the source.")] = "",
    system: Annotated[str | None, typer.Option(help="FHIR system of --source-patient; else each configured one.")] = None,
    source_study: Annotated[str, typer.Option(help="Made of this study: its Study Instance UID.")] = "",
    software: Annotated[str, typer.Option(help="Made by this version of Veraicon.")] = "",
    since: Annotated[datetime | None, typer.Option("--from", help="Made from then on (UTC).", formats=_FORMATS)] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--to", help="Made until then (UTC); a date means all of that day.", parser=_until, metavar="TIME"),
    ] = None,
    request: Annotated[str, typer.Option(help="This one: its request (job) id.")] = "",
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without this nothing is changed.")] = False,
    reason: Annotated[Reason | None, typer.Option(help="Why; consent also refuses new requests of that source.")] = None,
    note: Annotated[str, typer.Option(help="Why, for everybody who holds a copy; never a patient's name or number.")] = "",
    by: Annotated[str, typer.Option(help="Who decided it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take outputs back: all that is asked for has to hold. Without --execute it only lists them."""
    if context.invoked_subcommand is not None:
        return
    from veraicon.recall import planning
    from veraicon.recall.selection import Selection, tokens_of

    _require_reason(execute=execute, reason=reason, by=by)
    settings = settings_of(context)
    with _opened(context) as (site, recaller):
        tokens = tokens_of(site.salt, source_patient, system, settings.pairing) if source_patient else ()
        selection = Selection(weights, tokens, source_study, software, _utc(since), _utc(until), request)
        planned = planning.plan(site, selection)
        unknown = planning.unknown_sources(site, selection, source_patient)
        if not execute:
            _warn_of(unknown)
            _show_plan(planning.tell_plan(site, planned), as_json=as_json)
            return
        from provenance.recall_notice import RecallReason

        recall_id = planning.begin(site, planned, reason=RecallReason(str(reason)), note=note, by=by)
        err.print(f"recall {recall_id}")
        mistyped = unknown if reason is Reason.CONSENT else []
        _warn_of(mistyped)
        if mistyped:
            err.print(f"it is refused as a source from now on; if that is wrong: veraicon recall lift {recall_id[:8]}")
        _carry_through(recaller, recall_id, as_json=as_json)
        if mistyped:
            raise typer.Exit(1)


@app.command("list")
def list_recalls(context: typer.Context, as_json: AsJson = False) -> None:
    """List recalls, the latest first."""
    from veraicon.recall.reporting import report

    with _opened(context) as (_, recaller):
        told = [report(recaller, recall) for recall in recaller.recalls.all()]
    if as_json:
        show_json([{name: value for name, value in one.items() if name != "outputs"} for one in told])
        return
    table = Table("recall", "when", "reason", "by", "state", "outputs", "copies", box=None, pad_edge=False)
    for one in told:
        counts = one["counts"]
        copies = ", ".join(f"{number} {state}" for state, number in counts["copies"].items())
        done = f"{counts['outputs_done']}/{counts['outputs']}"
        table.add_row(one["recall"][:8], one["recalled_at"][:19], one["reason"], one["by"], one["state"], done, copies)
    out.print(table)


@app.command("show")
def show_recall(context: typer.Context, recall: RecallId, as_json: AsJson = False) -> None:
    """Show how a recall stands, with the text for those who have to be told by hand."""
    from veraicon.recall.reporting import in_markdown, report

    with _opened(context) as (_, recaller):
        told = report(recaller, recaller.recalls.find(recall))
    if as_json:
        show_json(told)
    else:
        out.print(in_markdown(told), markup=False)


@app.command("resume")
def resume_recall(context: typer.Context, recall: RecallId, as_json: AsJson = False) -> None:
    """Go on with a recall that was interrupted, and ask those again that could not be reached, refused, or still showed it."""
    with _opened(context) as (_, recaller):
        found = recaller.recalls.find(recall)
        recaller.ask_again(found)
        _carry_through(recaller, found.recall_id, as_json=as_json)


@app.command("lift")
def lift_recall(context: typer.Context, recall: RecallId, by: Annotated[str, typer.Option(help="Who decided it.")]) -> None:
    """Let new requests of the source of a withdrawn consent in again; what was recalled stays recalled."""
    with _opened(context) as (_, recaller):
        found = recaller.recalls.find(recall)
        recaller.recalls.lift(found, by=by)
        others = [
            one.recall_id[:8]
            for one in recaller.recalls.all()
            if one.lifted_at is None and (one.blocked_patients or one.blocked_study)
        ]
    err.print(f"{found.recall_id}: no longer refuses its source")
    if others:
        err.print(f"other recalls that refuse a source, perhaps the same: {', '.join(others)}")


@contextmanager
def _opened(context: typer.Context) -> Iterator[tuple[Site, Recaller]]:
    from veraicon.recall.planning import recaller_of
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site, _progress() as progress:
        yield site, recaller_of(site, progress)


def _carry_through(recaller: Recaller, recall_id: str, *, as_json: bool) -> None:
    """Go on with a recall as far as it goes, and report; exit 1 where something is left to be done."""
    from veraicon.recall.reporting import in_markdown, write_report

    found = recaller.recalls.find(recall_id)
    done = recaller.carry_through(found)
    told = write_report(recaller, found)
    if as_json:
        show_json(told)
    else:
        out.print(in_markdown(told), markup=False)
    err.print(f"report: {recaller.folder(recall_id).folder}")
    if not done:
        err.print(f"not finished; when the cause is mended: veraicon recall resume {recall_id[:8]}")
        raise typer.Exit(1)


def _warn_of(unknown: Sequence[str]) -> None:
    for option in unknown:
        err.print(f"{option}: we hold nothing of this source and have made nothing of it: is it spelt right?")


def _require_reason(*, execute: bool, reason: Reason | None, by: str) -> None:
    from domain.errors import RequestInvalid

    if execute and (reason is None or not by.strip()):
        raise RequestInvalid(
            found="--execute without --reason or --by",
            allowed="--reason quality, safety, consent or other, and --by with a name or role",
            action="give both: they go into the signed notice",
        )


def _show_plan(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    for one in told["outputs"]:
        instances = sum(one["series"].values())
        out.print(f"{one['request']}  {one['state']}  {one['generated_at'][:19]}  {one['model']}  {instances} instances")
        for copy in one["copies"]:
            word = "accepted" if copy["accepted"] else "sent, not confirmed"
            out.print(
                f"  {copy['recipient']} ({copy['protocol']}) {copy['sent_at'][:19]}, {word}: {copy['would']}", markup=False
            )
    for job in told["jobs_to_cancel"]:
        out.print(f"{job['job']}  {job['state']}: on its way, would be cancelled")
    for copy in told["source_copies"]:
        out.print(f"source {copy['series']}: {copy['recipient']} ({copy['protocol']}) {copy['sent_at'][:19]}", markup=False)
    before = f"; {len(told['recalled_before'])} were recalled before" if told["recalled_before"] else ""
    err.print(f"{len(told['outputs'])} outputs, {len(told['jobs_to_cancel'])} jobs on their way{before}; nothing was changed")


def _utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def _progress() -> Iterator[Any]:
    """Give a progress bar over the outputs on stderr, seen where somebody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task: list[Any] = []

        def tell(done: int, total: int) -> None:
            if not task:
                task.append(progress.add_task("outputs", total=total))
            progress.update(task[0], completed=done)

        yield tell
