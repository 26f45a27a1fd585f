"""Commands about marks: certificates for signatures and manifests, and looking for the watermark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veraicon.commands.console import err, out, settings_of, show_json

app = typer.Typer(help="Marks that say synthetic: certificates for them.", no_args_is_help=True)
watermark = typer.Typer(help="The watermark in the voxels.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("certificates")
def make_certificates(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder for certificates and keys.")],
    organization: Annotated[str, typer.Option(help="Named in them; else the one of the settings.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an authority of the site's own, and below it certificates for DICOM signatures and C2PA manifests."""
    import dataclasses
    from datetime import UTC, datetime

    from provenance.signatures.certificates import make_certificates as make

    files = make(organization or settings_of(context).provenance.organization, to, now=datetime.now(UTC))
    if as_json:
        show_json({name: str(path) for name, path in dataclasses.asdict(files).items()})
        return
    out.print(f"certificates and keys in {to}", markup=False)
    settings = {
        "dicom_signature_certificate": files.dicom_certificate,
        "dicom_signature_key": files.dicom_key,
        "c2pa_certificate": files.c2pa_certificate,
        "c2pa_key": files.c2pa_key,
    }
    out.print("[provenance]", markup=False)
    for name, path in settings.items():
        out.print(f'{name} = "{path.absolute()}"', markup=False)
    err.print(f"give {files.authority} to whoever checks them: it is on no trust list", markup=False)


@watermark.command("detect")
def detect(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(exists=True, help="Folder with a series, or one enhanced image.")],
    request: Annotated[
        list[str] | None, typer.Option("--request", help="Request id to look for; else the file's own, else every one of ours.")
    ] = None,
    search: Annotated[bool, typer.Option(help="Look at every shift too: for a volume that may have been cropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a series carries this site's watermark; exit code 0 if it does, 1 if not."""
    from veraicon.watermarks import detect as look

    found = look(target, settings_of(context), requests=tuple(request or ()), search=search)
    if as_json:
        show_json(found.to_json())
    else:
        verdict = "found" if found.detection.found else "not found"
        out.print(f"[bold]{verdict}[/]: ", end="")
        out.print(found.words, markup=False)
    if not found.detection.found:
        raise typer.Exit(1)
