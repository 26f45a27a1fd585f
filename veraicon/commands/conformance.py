"""Commands that say what the product conforms to."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from veraicon.commands.console import settings_of, show_json

app = typer.Typer(help="What the product conforms to.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group where it has one command."""


@app.command("dicom")
def dicom(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the DICOM conformance statement of this site in Markdown, in the order of PS3.2 Annex N."""
    from dicom_node.conformance.document import to_data, to_markdown
    from dicom_node.conformance.statement import statement
    from veraicon.conformance import facts_of

    document = statement(facts_of(settings_of(context)))
    if as_json:
        show_json(to_data(document))
    else:
        typer.echo(to_markdown(document), nl=False)


@app.command("fhir")
def fhir(context: typer.Context) -> None:
    """Print the CapabilityStatement of this site's FHIR service as JSON."""
    from fhir_adapter.json_text import write_json
    from veraicon.api.metadata import statement_of
    from veraicon.wiring import open_site

    settings = settings_of(context)
    with open_site(settings) as site:
        told = statement_of(site, f"http://{settings.http.host}:{settings.http.port}/fhir")
    show_json(json.loads(write_json(told)))
