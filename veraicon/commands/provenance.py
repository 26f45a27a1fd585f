"""`veraicon provenance`: what a published object says of where it comes from, for people and for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from veraicon.commands.console import settings_of

app = typer.Typer(help="Where a published object comes from.", no_args_is_help=True)


class Form(StrEnum):
    """How a lineage is written."""

    JSON = "json"
    PROV_JSON = "prov-json"


@app.command("show")
def show(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Attestation sidecar or DICOM file of ours.")],
    form: Annotated[Form, typer.Option("--format", help="json, or W3C PROV as PROV-JSON.")] = Form.JSON,
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) that you trust; else the site's own.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Show the lineage in a sidecar or instance whose signature holds; run `veraicon verify` for everything else."""
    from provenance.as_prov import to_prov_json
    from veraicon.verifying.targets import lineage_json, lineage_of, trusted_keys

    lineage = lineage_of(target, trusted_keys(keys, lambda: settings_of(context)))
    text = to_prov_json(lineage) if form is Form.PROV_JSON else lineage_json(lineage)
    if to is None:
        typer.echo(text)
    else:
        to.write_text(text + "\n", encoding="utf-8")
