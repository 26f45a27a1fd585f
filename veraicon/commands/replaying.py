"""The command that makes a volume again from its attestation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veraicon.commands.console import err, out, settings_of, show_json

if TYPE_CHECKING:
    from veraicon.replay.replaying import ReplayReport


def replay(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="Sidecar, DICOM file, folder, or the id of a job of this site.")],
    keys: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Public keys (JWKS) that you trust; else the site's own.")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(exists=True, help="The published instances, where they are not in the site's archive.")
    ] = None,
    dicom: Annotated[Path | None, typer.Option(exists=True, help="The source series, given again.")] = None,
    fhir: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Its patient's FHIR Bundle.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Value that was asked for, where no job keeps it.")] = None,
    model: Annotated[str | None, typer.Option(help="Bundle to use, whatever its digest; else the attested one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="Else the attested number.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; else the site's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Another seed, to see that it shows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Make a volume again from its attestation and compare, bit by bit; say what differs from then.

    Exit code 0 if it is the same, or within the stated tolerance (then with a warning), from the attested inputs; 1 if it
    differs or an input does; 66 if source, snapshot or weights are not at hand.
    """
    from veraicon.asking import parse_asked
    from veraicon.replay.options import ReplayOptions
    from veraicon.replay.replaying import replay as make_again

    options = ReplayOptions(
        keys=keys,
        published=published,
        dicom=dicom,
        fhir=fhir,
        asked=parse_asked(ask or []),
        model=model,
        threads=threads,
        device=device,
        seed=seed,
    )
    with err.status("replay") as status:
        report = make_again(target, settings_of(context), options, tell=status.update)
    if as_json:
        show_json(report.to_json())
    else:
        _show(report)
    if not report.verdict:
        raise typer.Exit(1)


def _show(report: ReplayReport) -> None:
    from veraicon.replay.comparison import MAX_DIFFERENCE, MAX_LABEL_SHARE, MAX_SHARE, Likeness

    for one in report.series:
        by = (
            ""
            if one.deviation is None
            else f"; at most {one.deviation.largest:.2g} of the range, {one.deviation.share:.2%} of voxels"
        )
        out.print(f"{one.modality:4} {one.made} of {one.instances} instances: {one.likeness.value}{by}", markup=False)
    for difference in report.differences:
        kind = "input" if difference.is_input else "environment"
        out.print(f"{kind:12} {difference.what}: {difference.attested} then, {difference.here} here", markup=False)
    for unknown in report.unknown:
        out.print(f"not checked  {unknown}", markup=False)
    out.print(f"{report.likeness.value}: {report.request_id}", style="bold", markup=False)
    if report.likeness is Likeness.WITHIN_TOLERANCE:
        err.print(
            f"warning: not bit-exact; tolerated are {MAX_DIFFERENCE:g} of the output range, {MAX_SHARE:.0%} of voxels and "
            f"{MAX_LABEL_SHARE:.1%} of labels"
        )
