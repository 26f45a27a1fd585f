"""Commands of the transparency log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from veraicon.settings import Settings
    from veraicon.site_keys import KeyStore
    from veraicon.transparency.log import TransparencyLog
    from veraicon.transparency.witness import Witnessed

app = typer.Typer(help="The append-only log of what was attested: digests only.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("head")
def head(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the newest signed tree head."""
    from provenance.log_proof import head_to_json

    with _opened(context) as (_settings, _keys, log):
        shown = head_to_json(log.head())
    if as_json:
        show_json(shown)
    else:
        out.print(f"{shown['size']} entries, root {shown['root']}, signed {shown['signedAt']}, log {shown['logId']}")


@app.command("list")
def list_entries(
    context: typer.Context,
    start: Annotated[int, typer.Option(min=0, help="First entry, counted from 0.")] = 0,
    limit: Annotated[int, typer.Option(min=1)] = 100,
    as_json: AsJson = False,
) -> None:
    """List entries, the oldest first."""
    with _opened(context) as (_settings, _keys, log):
        entries = log.entries(start, start + limit)
    if as_json:
        show_json(entries)
        return
    for one in entries:
        entry = one["entry"]
        out.print(f"{one['index']:6} {entry['loggedAt']} {entry['kind']:11} {entry['digest']}", markup=False)


@app.command("prove")
def prove(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="sha256: digest of a signed object, or a job.", metavar="DIGEST|JOB")],
    to: Annotated[Path | None, typer.Option(dir_okay=False, help="File for the proof; else it is printed.")] = None,
) -> None:
    """Prove, as JSON, that an attestation or another signed object is in the log as it stands now."""
    import json

    from provenance.log_proof import proof_to_json

    with _opened(context) as (settings, _keys, log):
        proof = proof_to_json(log.prove(log.find(_digest(settings, what))))
    if to is None:
        show_json(proof)
    else:
        to.write_text(json.dumps(proof, indent=1), encoding="utf-8")


@app.command("check")
def check(
    context: typer.Context,
    head_file: Annotated[
        Path | None, typer.Option("--head", exists=True, dir_okay=False, help="Tree head that was kept outside.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the whole log again from its entries and compare it with each signed head and each attested job."""
    from veraicon.site_keys import keyring_of
    from veraicon.transparency.evidence import kept_proofs
    from veraicon.transparency.witness import Kept, LocalSource, witness

    with _opened(context) as (settings, keys, log):
        report = log.check(kept_proofs(settings.storage.folder / "jobs"))
        if head_file is not None and report.ok:
            witness(Kept.read(head_file), LocalSource(log, keyring_of(keys, keys.load()).public_jwks()))
    if as_json:
        show_json({"ok": report.ok, **asdict(report)})
    else:
        for problem in report.problems:
            out.print(problem, markup=False)
        state = "[green]sound[/]" if report.ok else "[red]not sound[/]"
        out.print(f"{state}: {report.size} entries hold, {report.attested} attested jobs compared")
    if not report.ok:
        raise typer.Exit(1)


@app.command("witness")
def witness_log(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What you keep of the log; made the first time.")],
    url: Annotated[str, typer.Option(help="Address of a site (https://veraicon.example); else our own database.")] = "",
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) to trust the first time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a log has only grown since you last looked, and keep its present head: for somebody outside the site."""
    from veraicon.files import read_json
    from veraicon.site_keys import keyring_of
    from veraicon.transparency.witness import HttpSource, Kept, LocalSource, witness

    kept, trusted = (Kept.read(file) if file.exists() else None), (read_json(keys) if keys else None)
    if url:
        found = witness(kept, HttpSource(url), trusted)
    else:
        with _opened(context) as (_settings, store, log):
            found = witness(kept, LocalSource(log, keyring_of(store, store.load()).public_jwks()), trusted)
    Kept(found.now.jws, found.keys).write(file)
    _tell(found, first_keys=kept is None and keys is None, as_json=as_json)


def _tell(found: Witnessed, *, first_keys: bool, as_json: bool) -> None:
    if as_json:
        show_json(found.to_json())
        return
    grown = f"continues the {found.before.size} that were kept" if found.before else "seen for the first time"
    out.print(f"{found.now.size} entries, {grown}; log {found.now.log_id}")
    if first_keys:
        err.print("its keys are those that it published itself: compare them with what the site says elsewhere (--keys)")


@contextmanager
def _opened(context: typer.Context) -> Iterator[tuple[Settings, KeyStore, TransparencyLog]]:
    from veraicon.wiring import open_log

    settings = settings_of(context)
    with open_log(settings) as (keys, _key, log):
        yield settings, keys, log


def _digest(settings: Settings, what: str) -> str:
    """Return the digest that is meant: itself, or that of the one job whose id starts so."""
    from domain.errors import RequestInvalid
    from veraicon.transparency.evidence import attestation_digest

    if what.startswith("sha256:"):
        return what
    folder = settings.storage.folder / "jobs"
    jobs = [path.name for path in folder.iterdir() if path.name.startswith(what)] if folder.is_dir() else []
    if len(jobs) != 1:
        raise RequestInvalid(
            found=f"{len(jobs)} jobs whose ids start so",
            allowed="one job, or a sha256: digest",
            action="see `veraicon job list`",
        )
    return attestation_digest(folder, jobs[0])
