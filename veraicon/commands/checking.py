"""Commands that check what was made, and with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from provenance.report import VerificationReport

models = typer.Typer(help="Models: weights and their cards.", no_args_is_help=True)


def verify(
    context: typer.Context,
    target: Annotated[
        Path | None, typer.Argument(exists=True, help="DICOM file, folder, Provenance JSON or attestation sidecar.")
    ] = None,
    provenance: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Provenance JSON to check it against.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) that you trust; else the site's own.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Ask no FHIR server for the Provenance.")] = False,
    peer: Annotated[str, typer.Option(help="Instead of a target: what this peer holds of ours.")] = "",
    study: Annotated[str, typer.Option(help="With --peer: this study.")] = "",
    patient: Annotated[str, typer.Option(help="With --peer: this Patient ID.")] = "",
    date: Annotated[str, typer.Option(help="With --peer: study date, or a range: 20240101-20240131.")] = "",
    modality: Annotated[str, typer.Option(help="With --peer: only this modality.")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Processes that examine a folder; 0: as many as are worth it.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say which claims of a generated object are true; exit code 0 if it verifies, 1 if not."""
    from veraicon.verifying.targets import verify as check

    if peer or target is None:
        from veraicon.commands.verifying_peers import verify_peer
        from veraicon.verifying.peers import PeerQuery

        require_one(target, peer)
        query = PeerQuery(study, patient, date, modality)
        verify_peer(settings_of(context), peer, query, keys=keys, as_json=as_json)
        return
    with _progress() as tell:
        report = check(
            target,
            settings=lambda: settings_of(context),
            provenance=provenance,
            keys=keys,
            offline=offline,
            processes=jobs or None,
            tell=tell,
        )
    if as_json:
        show_json(report.to_json())
    else:
        _show(report, target.name)
    if not report.verdict:
        raise typer.Exit(1)


def _show(report: VerificationReport, name: str) -> None:
    """Print a report; of a folder, each part with what is not true of it, then the sum."""
    for part in report.parts:
        out.print(f"[bold]{'true' if part.verdict else 'false'}[/]: {part.subject} ", end="")
        out.print(part.about, markup=False)
        for claim in part.false:
            out.print(f"  [red]{claim.truth.value:14}[/] {claim.name}: ", end="")
            out.print(claim.why, markup=False)
    for claim in report.claims:
        colour = {"true": "green", "false": "red"}.get(claim.truth.value, "yellow")
        out.print(f"[{colour}]{claim.truth.value:14}[/] {claim.name}: ", end="")
        out.print(claim.why, markup=False)
    out.print(f"[bold]{'true' if report.verdict else 'false'}[/]: {name}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows on stderr how many files are done."""
    from rich.progress import Progress

    # Without a thread of its own: processes are forked while it is shown.
    with Progress(console=err, transient=True, auto_refresh=False) as progress:
        bar = progress.add_task("examined", total=None)
        yield lambda done, of: progress.update(bar, completed=done, total=of, refresh=True)


def require_one(target: Path | None, peer: str) -> None:
    """Go on with either a target or a peer.

    Raises
    ------
    RequestInvalid
        If both are named, or none.
    """
    from domain.errors import RequestInvalid

    if (target is None) == (not peer):
        raise RequestInvalid(
            found="both a target and a peer, or neither",
            allowed="a file or folder, or --peer NAME",
            action="name what is to be verified",
        )


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
    from provenance.cards.markdown_card import to_markdown

    card = read_card(bundle_folder(name))
    if as_json:
        show_json(dataclasses.asdict(card))
    else:
        typer.echo(to_markdown(card))
