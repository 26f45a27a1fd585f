"""Commands that run the site and look after it."""

from __future__ import annotations

from typing import Annotated

import typer

from veraicon.commands.console import Invocation, err, out, settings_of, show_json

config = typer.Typer(help="Settings.", no_args_is_help=True)


def serve(context: typer.Context) -> None:
    """Run the DICOM node, the HTTP face and one worker, until stopped."""
    from veraicon.server import run

    invocation: Invocation = context.obj
    run(invocation.settings(), config=invocation.config)


def work(context: typer.Context, parent: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Run a worker apart from the server; as many as wanted, on one database and one storage folder."""
    from veraicon.worker import run

    run(settings_of(context), parent=parent)


def doctor(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check installation, settings, database, weights, keys and every peer; exit code 1 if something is wrong."""
    from veraicon.doctor import examine

    checks = examine(settings_of(context))
    if as_json:
        show_json([{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks])
    else:
        for check in checks:
            out.print(f"{'[green]ok  [/]' if check.ok else '[red]FAIL[/]'} {check.name}: ", end="")
            out.print(check.detail, markup=False)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@config.command("example")
def example() -> None:
    """Print a settings file with every key, its default and its meaning."""
    from veraicon.settings import example_toml

    typer.echo(example_toml(), nl=False)


@config.command("check")
def check(context: typer.Context) -> None:
    """Read the settings and say whether they can be used."""
    settings_of(context)
    err.print("settings can be used")
