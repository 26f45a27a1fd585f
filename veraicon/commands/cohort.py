"""Commands of cohorts: pull from a FHIR server in bulk, show, turn into a table of facts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.errors import RequestInvalid
from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from veraicon.cohorts import Cohort

app = typer.Typer(help="Cohorts: the FHIR server's bulk export, for building training sets.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("pull")
def pull_cohort(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", help="Folder; the same command goes on where it stopped.", file_okay=False)],
    group: Annotated[str, typer.Option(help="Id of the Group whose members are pulled.")] = "",
    all_patients: Annotated[bool, typer.Option("--all-patients", help="Everybody whom our token may see.")] = False,
    types: Annotated[str, typer.Option(help="Resource types with commas; Patient and Consent always come too.")] = "",
    since: Annotated[str, typer.Option(help="FHIR instant: only what changed after it.")] = "",
    file_origin: Annotated[list[str] | None, typer.Option(help="Other origin that serves its files; repeat.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pull patients' resources into a folder; bad lines are named by number and end with exit code 1."""
    from fhir_adapter.server.bulk_export import ExportRequest
    from veraicon.cohorts import pull

    if bool(group) == all_patients:
        raise RequestInvalid(
            found="both a group and all patients" if group else "neither a group nor all patients",
            allowed="--group ID or --all-patients",
            action="say who is pulled",
        )
    asked = ExportRequest(group, tuple(sorted(one.strip() for one in types.split(",") if one.strip())), _instant(since))
    with _client(context, file_origin or []) as client:
        cohort = pull(client, asked, to, say=lambda words: err.print(words, markup=False))
    _tell(cohort, as_json)
    if cohort.bad_lines():
        raise typer.Exit(1)


@app.command("show")
def show_cohort(
    folder: Annotated[Path, typer.Argument(help="Folder of a pulled cohort.", file_okay=False)], as_json: AsJson = False
) -> None:
    """Say how far a pull is, and what its files hold; the digests of a complete one are checked."""
    from veraicon.cohorts import read_cohort, require_unchanged

    cohort = read_cohort(folder)
    if cohort.complete:
        require_unchanged(cohort, folder)
    _tell(cohort, as_json)


@app.command("facts")
def cohort_facts(
    context: typer.Context,
    folders: Annotated[list[Path], typer.Argument(help="A cohort, then what was pulled since, oldest first.")],
    to: Annotated[Path, typer.Option("--to", help="File of JSON lines to write.", dir_okay=False)],
    as_of: Annotated[str, typer.Option(help="Facts as of this time; else the time of the last export.")] = "",
    with_text: Annotated[bool, typer.Option("--with-text", help="Also values in free text, which can name people.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a cohort into a table of clinical facts by patient token; who may not be used is left out and counted."""
    from veraicon.cohort_facts import write_facts
    from veraicon.wiring import site_salt

    moment = datetime.fromisoformat(_instant(as_of)) if as_of else None
    salt = site_salt(settings_of(context).storage.folder)
    report = write_facts(folders, to, salt=salt, as_of=moment, with_text=with_text)
    told: dict[str, Any] = {
        "patients": report.patients,
        "facts": report.facts,
        "excluded": dict(sorted(report.excluded.items())),
        "left_out": dict(sorted(report.left_out.items())),
    }
    if as_json:
        show_json(told)
        return
    out.print(f"{report.patients} patients, {report.facts} facts")
    for name in ("excluded", "left_out"):
        for reason, count in told[name].items():
            out.print(f"{name.replace('_', ' ')}: {count} x {reason}", markup=False)


def _client(context: typer.Context, file_origins: list[str]) -> Any:
    from fhir_adapter.server.bulk_export import BulkClient
    from veraicon.fhir_access import fhir_context, fhir_token

    settings = settings_of(context)
    if not settings.fhir.base_url:
        raise RequestInvalid(
            found="no FHIR server in the settings", allowed="[fhir] base_url", action="set it to a server with bulk export"
        )
    return BulkClient(
        settings.fhir.base_url,
        bearer_token=fhir_token(settings),
        file_origins=file_origins,
        timeout_s=settings.fhir.timeout_s,
        verify=fhir_context(settings.fhir),
    )


def _instant(text: str) -> str:
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestInvalid(
            found="a time that is none", allowed="2026-01-31 or 2026-01-31T12:00:00+01:00", action="correct the time"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _tell(cohort: Cohort, as_json: bool) -> None:
    files = [
        {
            "file": one.name,
            "kind": one.of.kind,
            "type": one.of.resource_type,
            "lines": one.arrived.lines if one.arrived else None,
            "bytes": one.arrived.size if one.arrived else None,
            "sha256": one.arrived.sha256 if one.arrived else None,
        }
        for one in cohort.files
    ]
    told = {
        "complete": cohort.complete,
        "transaction_time": cohort.transaction_time or None,
        "exports": cohort.exports,
        "deleted_on_server": cohort.released,
        "files": files,
        "bad_lines": cohort.bad_lines(),
    }
    if as_json:
        show_json(told)
        return
    out.print("complete" if cohort.complete else "not complete: run `veraicon cohort pull` again", markup=False)
    for one in files:
        out.print(f"{one['file']}: {one['lines'] if one['lines'] is not None else 'not here yet'} lines ({one['kind']})")
    for line in cohort.bad_lines():
        err.print(f"no such resource: {line}", markup=False)
    if cohort.complete and not cohort.released:
        err.print("the server kept its copy of the export")
