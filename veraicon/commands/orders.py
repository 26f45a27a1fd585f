"""Commands that look after orders from outside, and the rules by which they are met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from domain.ordering import OrderState
from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    import sqlalchemy as sa

    from veraicon.orders.book import OrderBook
    from veraicon.orders.reading import Expected
    from veraicon.orders.tables import DeliveryRow, NewsRow
    from veraicon.orders.telling import Telling

app = typer.Typer(help="Orders: what others ask us for, and what they were told.", no_args_is_help=True)
rules = typer.Typer(help="Routing rules of the settings.", no_args_is_help=True)

OrderId = Annotated[str, typer.Argument(help="Order id as `order list` shows it.", metavar="ORDER")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@contextmanager
def _engine(context: typer.Context) -> Iterator[sa.Engine]:
    from veraicon.database import connect, migrate

    engine = connect(settings_of(context))
    migrate(engine)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _books(context: typer.Context) -> Iterator[tuple[OrderBook, Telling]]:
    from veraicon.orders.book import OrderBook
    from veraicon.orders.telling import Telling

    with _engine(context) as engine:
        yield OrderBook(engine), Telling(engine, ())


@app.command("list")
def list_orders(
    context: typer.Context,
    state: Annotated[list[OrderState] | None, typer.Option(help="Only these states.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List orders, the one that changed last first."""
    from veraicon.orders.describing import describe_order

    with _books(context) as (book, _):
        rows = book.recent(states=state or [], limit=limit)
    if as_json:
        show_json([describe_order(row) for row in rows])
        return
    table = Table("order", "state", "kind", "sender", "rule", "jobs", "changed", "why", box=None, pad_edge=False)
    for row in rows:
        told = describe_order(row)
        changed = f"{row.updated_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(row.order_id, row.state, told["kind"], row.sender, row.rule, str(len(row.requests)), changed, row.reason)
    out.print(table)


@app.command("show")
def show_order(context: typer.Context, order: OrderId) -> None:
    """Show one order as JSON: where it stands, its jobs, and who was told what."""
    from veraicon.orders.describing import describe_order

    with _books(context) as (book, telling):
        row, news = book.row(order), telling.of_order(order)
    show_json(describe_order(row) | {"news": [_news(one, delivery) for one, delivery in news]})


@app.command("retry")
def retry_order(context: typer.Context, order: OrderId) -> None:
    """Look at an order again from its beginning: after a rule was added, or what stood in its way was mended."""
    with _books(context) as (book, _):
        row = book.retry(order)
    err.print(f"order {row.order_id} is {row.state}: serve looks at it next")


@app.command("tell")
def tell_again(
    context: typer.Context,
    order: Annotated[str, typer.Argument(help="Order id as `order list` shows it.", metavar="[ORDER]")] = "",
    news: Annotated[str, typer.Option(help="One piece of news, as `order show` and the log name it.", metavar="NEWS")] = "",
    channel: Annotated[str, typer.Option(help="Only on this channel, such as webhook:ris.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Whatever failed, also of jobs that no order asked for.")] = False,
) -> None:
    """Tell news again that receivers refused: of an order, one piece of it, or all."""
    from veraicon.orders.retelling import tell_again as again

    if sum((bool(order), bool(news), everything)) != 1:
        raise typer.BadParameter("give an order, or --news, or --all (--channel narrows each of them)")
    with _engine(context) as engine:
        count = again(engine, order_id=order, news_id=news, channel=channel)
    err.print(f"{count} pieces of news are told again")


@rules.command("test")
def try_rules(
    context: typer.Context,
    message: Annotated[
        Path, typer.Argument(help="FHIR resource or webhook (JSON), or HL7 v2 message.", exists=True, dir_okay=False)
    ],
    sender: Annotated[str, typer.Option(help="As the settings name who would send it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what would be done with each order of a message, and why, rule by rule. Nothing is kept and nothing is asked for."""
    from veraicon.orders.reading import expected, read_message, require_site_rules

    settings = settings_of(context)
    require_site_rules(settings)
    told = [_told(expected(one, settings)) for one in read_message(message.read_bytes(), settings, sender=sender)]
    if as_json:
        show_json(told)
        return
    for number, one in enumerate(told, 1):
        if len(told) > 1:
            out.print(f"order {number} of {len(told)}")
        _show_verdict(one)


def _told(found: Expected) -> dict[str, Any]:
    order, verdict = found.order, found.verdict
    told: dict[str, Any] = {
        "kind": order.kind,
        "sender": order.sender,
        "names_us": order.names_us,
        "images": {
            "accession": bool(order.accession),
            "study": bool(order.study_uid),
            "series": bool(order.series_uid),
            "focus": bool(order.focus),
        },
        "action": found.action,
        "rule": verdict.rule or None if verdict else None,
        "reason": found.reason,
        "considered": [{"rule": one.rule, "matches": one.matches, "why": one.why} for one in verdict.considered]
        if verdict
        else [],
        "tell": list(found.tell) or None,
    }
    if verdict is not None and verdict.generate:
        told |= {
            "model": verdict.model,
            "samples": verdict.samples,
            "asked": [f"{fact.text}={fact.value:g} {fact.unit}" for fact in verdict.asked if isinstance(fact.value, float)],
            "fetch": verdict.fetch or None,
            "priors": verdict.priors,
            "wait_s": verdict.wait_s,
        }
    return told


def _show_verdict(told: dict[str, Any]) -> None:
    for one in told["considered"]:
        out.print(f"rule {one['rule']}: {'covers it' if one['matches'] else 'no'} ({one['why']})", markup=False)
    out.print(f"{told['action']}: {told['reason']}", markup=False)
    for name in ("model", "samples", "asked", "fetch", "priors", "wait_s", "tell"):
        if told.get(name):
            out.print(f"  {name}: {told[name]}", markup=False)
    images = told["images"]
    if told["action"] == "generate" and images["focus"] and not (images["accession"] or images["study"] or images["series"]):
        out.print("  its focus is read on the FHIR server for the images that are meant; it is refused where that says none")


def _news(news: NewsRow, delivery: DeliveryRow | None) -> dict[str, Any]:
    told: dict[str, Any] = {"news": news.news_id, "kind": news.kind, "at": news.at.isoformat(), "reason": news.reason or None}
    if delivery is None:
        return told | {"channel": None}
    return told | {
        "channel": delivery.channel,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "error": delivery.error,
        "told_at": delivery.told_at.isoformat() if delivery.told_at else None,
    }
