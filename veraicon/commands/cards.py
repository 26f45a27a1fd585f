"""The command that prints a model's card."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from veraicon.commands.console import err


class Form(StrEnum):
    """Forms of a model card."""

    MARKDOWN = "markdown"
    CHAI = "chai"
    JSON = "json"


def card(
    name: Annotated[str, typer.Argument(help="Packaged name or bundle folder.")],
    form: Annotated[
        Form, typer.Option("--format", help="markdown, chai (CHAI Applied Model Card, XML), json (as it is digested).")
    ] = Form.MARKDOWN,
    to: Annotated[Path | None, typer.Option("--to", help="File to write instead.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print a model's card for people, as CHAI Applied Model Card, or as the file whose digest statements name."""
    from generators.cards import bundle_folder, read_card
    from veraicon.model_cards import FORMS

    content = FORMS["json" if as_json else form.value].render(read_card(bundle_folder(name)))
    if to is None:
        typer.echo(content, nl=False)
        return
    to.write_bytes(content)
    err.print(f"{len(content)} bytes in {to}", markup=False)
