"""Commands that look after held series."""

from __future__ import annotations

from typing import Annotated

import typer

from domain.identifiers import require_uid
from veraicon.commands.console import err, settings_of, show_json

app = typer.Typer(help="Series that the archive holds.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group where it has one command."""


@app.command("settle")
def settle(
    context: typer.Context,
    series: Annotated[str, typer.Argument(help="Series Instance UID of a received series.", metavar="SERIES_UID")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Declare a received series complete as it stands: a running `serve` hands it on at once."""
    from veraicon.wiring import open_site

    series_uid = require_uid(series, attribute="SeriesInstanceUID")
    with open_site(settings_of(context)) as site:
        declared = site.archive.declare_complete(series_uid, asked_by="command line")
    if as_json:
        show_json({"series_uid": series_uid, "instances": declared.instances, "handed_on": declared.handed_on})
    elif declared.handed_on:
        err.print(f"nothing to do: the series was handed on with these {declared.instances} instances")
    else:
        err.print(f"the series is complete with {declared.instances} instances")
