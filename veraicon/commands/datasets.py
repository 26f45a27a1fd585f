"""Commands of data set versions: create, list, show, compare, verify, export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from domain.dataset import Member
    from provenance.report import VerificationReport
    from veraicon.datasets.book import Book

app = typer.Typer(help="Versions of data sets: signed, split by person, never changed.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Version = Annotated[str, typer.Argument(help="NAME for the latest version, or NAME:NUMBER.", metavar="NAME[:NUMBER]")]
Uids = Annotated[list[str] | None, typer.Option("--series", help="Series Instance UID of a series that a job made; repeat.")]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lower-case name; no patient in it.")],
    from_jobs: Annotated[list[str] | None, typer.Option("--from-jobs", help="Job id or its start; repeat.")] = None,
    series: Uids = None,
    all_attested: Annotated[
        bool, typer.Option("--all-attested", help="What every attested job made, but what was recalled.")
    ] = False,
    source_series: Annotated[
        list[str] | None, typer.Option("--source-series", help="UID of a received series; repeat.")
    ] = None,
    source_licence: Annotated[str, typer.Option(help="Licence of the source series.")] = "not stated",
    split: Annotated[str, typer.Option(help="Parts and their shares: train=0.8,test=0.2")] = "",
    seed: Annotated[int, typer.Option(help="Of the split.", min=0, max=2**53 - 1)] = 0,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a data set; where nothing changed, the latest one stays the latest."""
    from veraicon.datasets.versions import parse_split

    dealt = parse_split(split, seed) if split else None
    with _book(context) as book:
        members, left_out = book.gather(
            from_jobs=from_jobs or (),
            series=series or (),
            all_attested=all_attested,
            sources=source_series or (),
            source_licence=source_licence,
        )
        manifest, is_new = book.versions.create(name, members, dealt)
        row = book.versions.find(manifest.title)
        told = book.told(row)
    if left_out:
        err.print(f"{left_out} attested jobs were left out: recalled, or consent withdrawn")
    if as_json:
        show_json(told | {"new": is_new, "left_out": left_out})
        return
    out.print(f"{manifest.title} {row.digest}", markup=False)
    err.print("made" if is_new else "nothing changed since this version")
    _show_parts(told)


@app.command("list")
def list_versions(context: typer.Context, as_json: AsJson = False) -> None:
    """List every version."""
    with _book(context) as book:
        rows = [book.brief(row) for row in book.versions.all()]
    if as_json:
        show_json(rows)
        return
    table = Table("version", "members", "subjects", "created", "digest", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["version"], str(row["members"]), str(row["subjects"]), row["created_at"], row["digest"][:19])
    out.print(table)


@app.command("show")
def show(context: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """Show a version: its parts, where its members come from, and which were recalled since."""
    with _book(context) as book:
        told = book.told(book.versions.find(version))
    if as_json:
        show_json(told)
        return
    out.print(f"{told['version']} {told['digest']}", markup=False)
    _show_parts(told)
    for member in told["members_listed"]:
        out.print(f"  {member['kind']:10}{member['part'] or '-':10}{member['series_uid']}", markup=False)
    for uid, why in told["recalled"].items():
        err.print(f"[bold red]recalled[/] {uid}: {why}")


@app.command("diff")
def diff(context: typer.Context, before: Version, after: Version, as_json: AsJson = False) -> None:
    """Compare two versions: members added, removed, changed, and moved to another part."""
    from domain.dataset import difference

    with _book(context) as book:
        found = difference(*(book.versions.manifest(book.versions.find(one)) for one in (before, after)))
    if as_json:
        moved = [{"series_uid": uid, "from": old, "to": new} for uid, old, new in found.moved]
        show_json({"added": found.added, "removed": found.removed, "changed": found.changed, "moved": moved})
        return
    for sign, uids in (("+", found.added), ("-", found.removed), ("~", found.changed)):
        for uid in uids:
            out.print(f"{sign} {uid}", markup=False)
    for uid, old, new in found.moved:
        out.print(f"> {uid} {old or '-'} -> {new or '-'}", markup=False)
    err.print("the same" if found.nothing else f"{len(found.added)} added, {len(found.removed)} removed, "
              f"{len(found.changed)} changed, {len(found.moved)} moved")  # fmt: skip


@app.command("verify")
def verify(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="NAME[:NUMBER], or the folder of an export.", metavar="VERSION|FOLDER")],
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) that you trust; else the site's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a version: signature, log, split, each instance by its digests, recalls; exit code 0 if all is true, 1 if not.

    With an export's folder and --keys it needs no server and no settings.
    """
    from veraicon.datasets.verifying_export import verify_export
    from veraicon.files import read_json

    trusted, folder = read_json(keys) if keys else None, Path(target)
    if trusted is not None and folder.is_dir():
        report = verify_export(folder, trusted)
    else:
        report = _verified_here(context, target, trusted)
    if as_json:
        show_json(report.to_json())
    else:
        for claim in report.claims:
            out.print(f"{claim.truth.value:14} {claim.name}: {claim.why}", markup=False)
    if not report.verdict:
        raise typer.Exit(1)


def _verified_here(context: typer.Context, target: str, trusted: dict[str, Any] | None) -> VerificationReport:
    """Check what only the site can check: a kept version, or an export against the site's own keys."""
    from veraicon.datasets.verifying import verify_kept
    from veraicon.datasets.verifying_export import verify_export

    with _book(context) as book:
        keys = trusted or book.keys
        if Path(target).is_dir():
            return verify_export(Path(target), keys)
        return verify_kept(book.versions.find(target).file, keys, book.gatherer)


def _suffix(value: str) -> str:
    if not (value.isascii() and value.isalnum()):
        raise typer.BadParameter("letters and digits only, as T1w")
    return value


@app.command("export")
def export(
    context: typer.Context,
    version: Version,
    to: Annotated[Path, typer.Option(help="New or empty folder.", file_okay=False)],
    form: Annotated[str, typer.Option("--format", help="dicom: as it is held; bids: NIfTI in the layout of BIDS.")] = "dicom",
    include_sources: Annotated[
        bool,
        typer.Option("--include-sources", help="Series of real people too: DICOM as it is held, with what it says of them."),
    ] = False,
    suffix: Annotated[str, typer.Option(callback=_suffix, help="BIDS suffix: what the images show.")] = "T1w",
    as_json: AsJson = False,
) -> None:
    """Give a version away: data, datasheet, Croissant metadata, signed manifest; an interrupted export goes on."""
    from rich.progress import Progress

    from domain.errors import RequestInvalid
    from veraicon.datasets.exporting import ExportForm

    if form not in {one.value for one in ExportForm}:
        raise RequestInvalid(found=f"the format {form[:20]!r}", allowed="dicom, bids", action="choose one of these")
    with _book(context) as book, Progress(console=err, transient=True) as progress:
        exporter = book.exporter(book.versions.find(version))
        task = progress.add_task(f"export of {exporter.manifest.title}", total=len(exporter.manifest.members))
        members = exporter.export(
            to,
            ExportForm(form),
            include_sources=include_sources,
            suffix=suffix,
            told=lambda _member: progress.advance(task),
        )
    _show_export(members, to, form, as_json=as_json)


def _show_export(members: Sequence[Member], to: Path, form: str, *, as_json: bool) -> None:
    sources = sum(member.origin is None for member in members)
    if as_json:
        show_json({"members": len(members), "sources": sources, "format": form, "folder": str(to)})
        return
    out.print(f"{len(members)} members in {to}", markup=False)
    if sources:
        err.print(f"[bold]{sources} members are images of real people[/]; as DICOM they carry what their senders wrote in them")


def _show_parts(told: dict[str, Any]) -> None:
    for name, numbers in told["parts"].items():
        out.print(f"  {name or 'all':12}{numbers['members']} members of {numbers['subjects']} subjects", markup=False)
        if not numbers["members"]:
            err.print(f"part {name} got no subject: the split is by chance, and there are few")


@contextmanager
def _book(context: typer.Context) -> Iterator[Book]:
    from veraicon.datasets.book import book_of
    from veraicon.wiring import open_site

    with open_site(settings_of(context)) as site:
        yield book_of(site)
