"""What `veraicon verify --peer` does: the series of a PACS, one line each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from veraicon.commands.console import err, out, show_json

if TYPE_CHECKING:
    from veraicon.settings import Settings
    from veraicon.verifying.peers import PeerQuery, SeriesStanding

_COLOURS = {"verified": "green", "not ours": "dim"}


def verify_peer(settings: Settings, name: str, query: PeerQuery, *, keys: Path | None, as_json: bool) -> None:
    """Verify what a peer holds of ours and print it; exit code 1 if anything of ours is not as it should be."""
    from veraicon.database import connect, migrate
    from veraicon.peers import named_remote
    from veraicon.verifying.book import expected_at, recalled_series
    from veraicon.verifying.peers import PeerVerification, require_query
    from veraicon.verifying.targets import trusted_keys

    remote, trusted = named_remote(settings, name), trusted_keys(keys, lambda: settings)
    engine = connect(settings)
    try:
        migrate(engine)
        expected, recalled = expected_at(engine, name), recalled_series(engine)
    finally:
        engine.dispose()
    found = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err
    ) as progress:
        task = progress.add_task("series", total=None)
        verification = PeerVerification(
            remote,
            trusted,
            settings.provenance.issuer,
            expected,
            recalled,
            tell=lambda done, total: progress.update(task, completed=done, total=total),
        )
        for one in verification.run(require_query(query)):
            found.append(one)
            if not as_json:
                _show(one)
    bad = [one for one in found if not one.standing.good]
    counts = dict(Counter(one.standing.value for one in found))
    if as_json:
        show_json({"peer": name, "verdict": not bad, "counts": counts, "series": [one.to_json() for one in found]})
    else:
        told = ", ".join(f"{count} {standing}" for standing, count in counts.items()) or "no series of ours"
        out.print(f"[bold]{'false' if bad else 'true'}[/]: {name}: {told}")
    if bad:
        raise typer.Exit(1)


def _show(one: SeriesStanding) -> None:
    colour = _COLOURS.get(one.standing.value, "red")
    out.print(f"[{colour}]{one.standing.value:12}[/] {one.modality:4} {one.instances:5} {one.series_uid}: ", end="")
    out.print(one.why, markup=False)
