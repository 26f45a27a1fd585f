"""What all commands share: where settings come from, and how results and errors are shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from domain.errors import VeraiconError

if TYPE_CHECKING:  # the reader of settings takes a tenth of a second that not every command needs
    from veraicon.settings import Settings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Invocation:
    """The options that stand before the command."""

    config: Path | None

    def settings(self) -> Settings:
        """Read the settings, once the command needs them."""
        from veraicon.settings import load_settings

        return load_settings(self.config)


def settings_of(context: typer.Context) -> Settings:
    """Return the settings of this call."""
    invocation: Invocation = context.obj
    return invocation.settings()


def show_json(value: object) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def complain(error: VeraiconError) -> None:
    """Show an error to a person: what was found, what is allowed, what to do."""
    err.print(f"[bold red]{error.code} {type(error).__name__}[/]")
    for label, text in (("found", error.found), ("allowed", error.allowed), ("next", error.action)):
        err.print(f"  {label:8}", end="", style="bold")
        err.print(text, markup=False)
