"""Commands that tell what the archive keeps aside: other bytes under a held UID, unfiled bytes, rejected series."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dicom_node.holding.aside import Conflict, Refused
    from dicom_node.holding.layout import Layout

app = typer.Typer(help="What the archive keeps aside or has withdrawn; no patient is named.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]

_WHEN = {"landed_s": "landed", "settled_s": "settled"}


@app.command("conflicts")
def conflicts(
    context: typer.Context,
    settled: Annotated[bool, typer.Option("--settled", help="Those too whose sender has sent again what is held.")] = False,
    as_json: AsJson = False,
) -> None:
    """List other bytes that came under a held SOP Instance UID: what is held was not changed, these lie beside it."""
    from dicom_node.holding import aside

    with _opened(context) as (engine, layout):
        found = aside.conflicts(engine, layout, settled=settled)
    _show(found, "conflicts", as_json=as_json)


@app.command("refused")
def refused(context: typer.Context, as_json: AsJson = False) -> None:
    """List bytes that could not be filed, and why; their senders were told."""
    from dicom_node.holding import aside

    with _opened(context) as (engine, layout):
        found = aside.refused(engine, layout)
    _show(found, "refused", as_json=as_json)


@app.command("rejected")
def rejected(context: typer.Context, as_json: AsJson = False) -> None:
    """List series that rejection notes have withdrawn: their bytes are kept, and nobody finds or gets them any more."""
    from dicom_node.holding.rejecting import rejected_series

    with _opened(context) as (engine, _):
        found = rejected_series(engine)
    rows = [dataclasses.asdict(one) | {"rejected_s": _iso(one.rejected_s)} for one in found]
    if as_json:
        show_json({"count": len(rows), "rejected": rows})
        return
    for row in rows:
        out.print(row["rejected_s"], row["series_uid"], f"{row['rejected']} of {row['instances']} instances", markup=False)
        out.print(f"  {row['code']} {row['title']}, by note {row['note_uid']} of {row['source']}", markup=False)
    err.print(f"{len(rows)} series with rejected instances")


@contextmanager
def _opened(context: typer.Context) -> Iterator[tuple[sa.Engine, Layout]]:
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site:
        yield site.engine, site.archive.layout


def _show(found: Sequence[Conflict | Refused], what: str, *, as_json: bool) -> None:
    rows = [_told(one) for one in found]
    if as_json:
        show_json({"count": len(rows), what: rows})
        return
    for row in rows:
        out.print(row["landed"], row["source"], markup=False)
        for name, value in row.items():
            if name not in ("landed", "source") and value:
                out.print(f"  {name:16}", end="", style="bold")
                out.print(value, markup=False)
    err.print(f"{len(rows)} {what}")


def _told(one: Conflict | Refused) -> dict[str, Any]:
    """Return a row with its times in ISO 8601 and its path as text."""
    told = {_WHEN.get(name, name): value for name, value in dataclasses.asdict(one).items()}
    for name in _WHEN.values():
        if isinstance(told.get(name), float):
            told[name] = _iso(told[name])
    return told | {"path": str(one.path)}


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="seconds")
