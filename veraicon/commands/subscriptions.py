"""Commands that look after our subscriptions on the FHIR server."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

app = typer.Typer(help="What of the FHIR server is watched for orders.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("list")
def list_watches(context: typer.Context, as_json: AsJson = False) -> None:
    """List the watches: subscription and its status, last notification, last poll, what was found, what was missed."""
    from veraicon.database import connect, migrate
    from veraicon.subscriptions.watches import Watches

    engine = connect(settings_of(context))
    migrate(engine)
    told = [_described(row, settings_of(context).subscriptions.criteria) for row in Watches(engine).all()]
    engine.dispose()
    if as_json:
        show_json(told)
        return
    table = Table("criteria", "subscription", "heard", "last poll", "found", "repeated", "gaps", "unreadable", box=None)
    for one in told:
        counts = [str(one[name]) for name in ("found", "repeated", "gaps", "unreadable")]
        table.add_row(one["criteria"], one["status"], str(one["heard"]), one["polled_at"] or "never", *counts)
    out.print(table)
    for one in told:
        if one["error"]:
            out.print(f"{one['criteria']}: {one['error'].get('found')}; next: {one['error'].get('next')}", markup=False)


@app.command("remove")
def remove_subscriptions(context: typer.Context) -> None:
    """Switch our subscriptions off on the FHIR server; serve writes them again where the settings still want them."""
    from veraicon.subscriptions.service import keeper_of
    from veraicon.subscriptions.watches import Watches
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site:
        keeper = keeper_of(site)
        for row in Watches(site.engine).all():
            if row.subscription:
                err.print(
                    f"{row.criteria}: {'switched off' if keeper.remove(row.criteria) else 'there was none'}", markup=False
                )


@app.command("reset")
def reset_watches(context: typer.Context) -> None:
    """Have every watch begin with all that the server has, after it was restored from a backup; stop serve before."""
    from veraicon.database import connect, migrate
    from veraicon.subscriptions.watches import Watches

    engine = connect(settings_of(context))
    migrate(engine)
    watches = Watches(engine)
    for row in watches.all():
        watches.begin_anew(row.criteria)
        err.print(f"{row.criteria}: the next poll reads everything", markup=False)
    engine.dispose()


def _described(row: Any, configured: tuple[str, ...]) -> dict[str, Any]:
    names = ("criteria", "subscription", "heard", "found", "repeated", "gaps", "unreadable", "event_number", "error")
    told = {name: getattr(row, name) for name in names}
    moments = {name: getattr(row, name) for name in ("heard_at", "polled_at", "newest")}
    status = row.subscription_status or "polled only"
    return told | {
        "status": status if row.criteria in configured else f"{status}, no longer configured",
        **{name: moment.isoformat(timespec="seconds") if moment else None for name, moment in moments.items()},
    }
