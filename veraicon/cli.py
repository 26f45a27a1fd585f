"""The command line: results to stdout, talk to stderr, one exit code for each kind of failure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from domain.errors import ConfigurationError, VeraiconError
from veraicon import logs
from veraicon.commands import (
    archive,
    cards,
    checking,
    cohort,
    conformance,
    datasets,
    evaluating,
    exporting,
    hl7v2,
    jobs,
    keys,
    log,
    making,
    marks,
    orders,
    peers,
    provenance,
    recalling,
    replaying,
    series,
    serving,
    subscriptions,
    webhooks,
)
from veraicon.commands.console import Invocation, complain

# Without these there is no installation at all: their absence is a fault of ours.
_OURS = {"domain", "fhir_adapter", "dicom_node", "multimodal", "generators", "provenance", "quality", "veraicon"}

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
app.command()(replaying.replay)
app.command()(exporting.export)
app.command()(serving.doctor)
app.command()(making.train)
app.command()(evaluating.evaluate)
app.add_typer(jobs.app, name="job")
app.add_typer(orders.app, name="order")
app.add_typer(orders.rules, name="rules")
app.add_typer(hl7v2.app, name="hl7v2")
app.add_typer(hl7v2.merges, name="merge")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(series.app, name="series")
app.add_typer(provenance.app, name="provenance")
app.add_typer(archive.app, name="archive")
checking.models.command("card")(cards.card)
app.add_typer(checking.models, name="models")
app.add_typer(serving.config, name="config")
app.add_typer(peers.app, name="peer")
app.add_typer(recalling.app, name="recall")
app.add_typer(log.app, name="log")
app.add_typer(keys.app, name="keys")
app.add_typer(marks.app, name="marks")
app.add_typer(marks.watermark, name="watermark")
app.add_typer(conformance.app, name="conformance")
app.add_typer(datasets.app, name="dataset")
app.add_typer(cohort.app, name="cohort")


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
        _end(error)
    except ModuleNotFoundError as missing:
        if str(missing.name).split(".")[0] in _OURS:
            raise
        _end(_not_installed(missing))


def _end(error: VeraiconError) -> NoReturn:
    complain(error)
    sys.exit(error.exit_code)


def _not_installed(missing: ModuleNotFoundError) -> ConfigurationError:
    """The verifier's extra holds few libraries: every other command needs those of the site."""
    return ConfigurationError(
        found=f"a command that needs {missing.name}, which is not installed",
        allowed="`verify` and `provenance` with the extra `verify`; every command with the extra `site`",
        action="pip install 'veraicon[site]'",
    )
