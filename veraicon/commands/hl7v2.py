"""Commands that look after HL7 v2 messages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

app = typer.Typer(help="HL7 v2 messages of integration engines.", no_args_is_help=True)

merges = typer.Typer(help="Patient merges that engines announced.", no_args_is_help=True)

MergeId = Annotated[str, typer.Argument(help="Merge id as `merge list` shows it.", metavar="MERGE")]
MessageId = Annotated[str, typer.Argument(help="Message id as `hl7v2 list` shows it.", metavar="MESSAGE")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_messages(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only these: received, done, not-needed, refused.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List messages that came, the last first; what they say is not shown."""
    from domain.errors import RequestInvalid
    from veraicon.database import connect, migrate
    from veraicon.hl7v2.book import MessageBook, MessageState

    known = {one.value: one for one in MessageState}
    if unknown := sorted(set(state or []) - set(known)):
        raise RequestInvalid(found=f"state {unknown[0]!r}", allowed=", ".join(known), action="name one of these states")
    engine = connect(settings_of(context))
    migrate(engine)
    rows = MessageBook(engine).recent(states=[known[one] for one in state or []], limit=limit)
    engine.dispose()
    if as_json:
        show_json([_described(row) for row in rows])
        return
    table = Table("message", "state", "kind", "sender", "repeats", "orders", "came", "why", box=None, pad_edge=False)
    for row in rows:
        why = str((row.error or {}).get("found", ""))
        came, counts = f"{row.received_at:%Y-%m-%d %H:%M:%S}", (str(row.repeats), str(len(row.orders)))
        table.add_row(row.message_id, row.state, row.kind, row.sender, *counts, came, why)
    out.print(table)


@app.command("show")
def show_message(
    context: typer.Context,
    message: MessageId,
    raw: Annotated[bool, typer.Option("--raw", help="The message itself, with patient data.")] = False,
) -> None:
    """Show what became of a message as JSON, or the message itself."""
    from veraicon.database import connect, migrate
    from veraicon.hl7v2.book import MessageBook

    engine = connect(settings_of(context))
    migrate(engine)
    row = MessageBook(engine).row(message)
    engine.dispose()
    if raw:
        typer.echo(row.raw.replace(b"\r", b"\n"), nl=False)
        return
    show_json(_described(row))


@app.command("retry")
def retry_message(context: typer.Context, message: MessageId) -> None:
    """Do what a message asks that was refused, after a setting was mended. Its sender gets no other acknowledgement."""
    from veraicon.engines import inbox_of
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site:
        outcome = inbox_of(site).again(message)
    if outcome.error is not None:
        raise outcome.error
    err.print(f"message {message} is {outcome.state.value}")


@app.command("send")
def send_message(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="An HL7 v2 message.", exists=True, dir_okay=False)],
    to: Annotated[str, typer.Option("--to", help="Name of one of [[hl7v2_destinations]].")],
) -> None:
    """Send a message as it stands to a destination, and print what answers: to see that the wiring works."""
    from domain.errors import ConfigurationError
    from fhir_adapter.hl7v2.message import read_header
    from veraicon.orders.hl7v2 import hl7v2_peer, require_accepted

    settings = settings_of(context)
    remote = next((one for one in settings.hl7v2_destinations if one.name == to), None)
    if remote is None:
        raise ConfigurationError(
            found=f"no HL7 v2 destination named {to}",
            allowed=", ".join(one.name for one in settings.hl7v2_destinations) or "none is configured",
            action="name one of these, or add it to [[hl7v2_destinations]]",
        )
    content = file.read_bytes().replace(b"\r\n", b"\r").replace(b"\n", b"\r")
    answer = hl7v2_peer(remote, settings.hl7v2).ask(content)
    typer.echo(answer.replace(b"\r", b"\n"), nl=False)
    require_accepted(answer, read_header(content).control_id, name=to)


@merges.command("list")
def list_merges(context: typer.Context, as_json: AsJson = False) -> None:
    """List the merges that count, the last first. This shows patient identifiers."""
    from veraicon.database import connect, migrate
    from veraicon.merges import MergeBook, merge_id_of

    engine = connect(settings_of(context))
    migrate(engine)
    rows = MergeBook(engine).all()
    engine.dispose()
    if as_json:
        names = ("retired_system", "retired_value", "survivor_system", "survivor_value", "message_id")
        for_programs = [{name: getattr(row, name) for name in names} | {"came": row.noted_at.isoformat()} for row in rows]
        show_json([{"merge": merge_id_of(row)} | told for row, told in zip(rows, for_programs, strict=True)])
        return
    table = Table("merge", "retired", "survivor", "came", "message", box=None, pad_edge=False)
    for row in rows:
        ends = f"{row.retired_system}|{row.retired_value}", f"{row.survivor_system}|{row.survivor_value}"
        table.add_row(merge_id_of(row), *ends, f"{row.noted_at:%Y-%m-%d %H:%M:%S}", row.message_id)
    out.print(table)


@merges.command("undo")
def undo_merge(context: typer.Context, merge: MergeId) -> None:
    """Forget a merge, so that both identifiers stand for themselves again; what was paired by it stays as it is."""
    from veraicon.database import connect, migrate
    from veraicon.merges import MergeBook

    engine = connect(settings_of(context))
    migrate(engine)
    MergeBook(engine).undo(merge)
    engine.dispose()
    err.print(f"merge {merge} is undone; what was made under it: `veraicon job list`, `veraicon recall`")


def _described(row: Any) -> dict[str, Any]:
    names = ("message_id", "state", "kind", "sender", "control_id", "repeats", "orders", "error")
    return {name: getattr(row, name) for name in names} | {"received_at": row.received_at.isoformat()}
