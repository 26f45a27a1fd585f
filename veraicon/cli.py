"""The command line: results to stdout, talk to stderr, one exit code for each kind of failure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from domain.errors import VeraiconError
from veraicon import logs
from veraicon.commands import archive, checking, conformance, exporting, jobs, making, peers, series, serving
from veraicon.commands.console import Invocation, complain

app = typer.Typer(
    name="veraicon",
    help="Synthetic 3D medical images worth trusting: between a PACS and an EHR.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(making.demo)
app.command()(serving.serve)
app.command()(serving.work)
app.command()(making.generate)
app.command()(checking.verify)
app.command()(exporting.export)
app.command()(serving.doctor)
app.command()(making.train)
app.add_typer(jobs.app, name="job")
app.add_typer(series.app, name="series")
app.add_typer(archive.app, name="archive")
app.add_typer(checking.models, name="models")
app.add_typer(serving.config, name="config")
app.add_typer(peers.app, name="peer")
app.add_typer(conformance.app, name="conformance")


@app.callback()
def _invocation(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; without it ./veraicon.toml where there is one.", dir_okay=False)
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "",
) -> None:
    quiet = context.invoked_subcommand not in {"serve", "work"}
    logs.configure(level=log_level or ("warning" if quiet else "info"))
    context.obj = Invocation(config)


def main() -> None:
    """Run the command line; a domain error becomes one readable block and its exit code."""
    try:
        app()
    except VeraiconError as error:
        complain(error)
        sys.exit(error.exit_code)
