"""Commands that check what was made, and with what."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from veraicon.commands.console import out, settings_of, show_json

models = typer.Typer(help="Models: weights and their cards.", no_args_is_help=True)


def verify(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(exists=True, help="DICOM file, folder, Provenance JSON or attestation sidecar.")],
    provenance: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Provenance JSON to check it against.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) that you trust; else the site's own.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Ask no FHIR server for the Provenance.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say which claims of a generated object are true; exit code 0 if it verifies, 1 if not."""
    from veraicon.verifying import verify as check

    report = check(target, settings=lambda: settings_of(context), provenance=provenance, keys=keys, offline=offline)
    if as_json:
        show_json(report.to_json())
    else:
        for claim in report.claims:
            colour = {"true": "green", "false": "red"}.get(claim.truth.value, "yellow")
            out.print(f"[{colour}]{claim.truth.value:14}[/] {claim.name}: ", end="")
            out.print(claim.why, markup=False)
        out.print(f"[bold]{'true' if report.verdict else 'false'}[/]: {target.name}")
    if not report.verdict:
        raise typer.Exit(1)


@models.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the packaged models."""
    from generators.cards import bundle_folder, bundled_models, read_card

    cards = [read_card(bundle_folder(name)) for name in bundled_models()]
    if as_json:
        show_json(
            [{"name": card.name, "version": card.version, "family": card.family, "licence": card.licence} for card in cards]
        )
        return
    table = Table("name", "version", "family", "licence", box=None, pad_edge=False)
    for card in cards:
        table.add_row(card.name, card.version, card.family, card.licence)
    out.print(table)


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="Packaged name or bundle folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a model's card: what it takes, in which ranges, what it was made from, how it measured."""
    from generators.cards import bundle_folder, read_card
    from provenance.model_card_text import to_markdown

    card = read_card(bundle_folder(name))
    if as_json:
        show_json(dataclasses.asdict(card))
    else:
        typer.echo(to_markdown(card))
