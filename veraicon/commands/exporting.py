"""The command that writes what our archive holds as a file-set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veraicon.commands.console import out, settings_of, show_json


def export(
    context: typer.Context,
    uids: Annotated[list[str], typer.Argument(help="Series or Study Instance UIDs in our archive.", metavar="UID...")],
    to: Annotated[Path, typer.Option(help="New or empty folder: gets the files and a DICOMDIR.", file_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write series of our archive as a DICOM file-set, for a disc or for a program that reads folders."""
    from dicom_node.archive import Archive
    from dicom_node.objects.file_set import write_file_set
    from domain.errors import ResourceNotFound
    from domain.series import InstanceReference
    from veraicon.recall.handing_out import hand_out_export
    from veraicon.wiring import open_site

    def held(archive: Archive, uid: str) -> list[InstanceReference]:
        for keyword in ("SeriesInstanceUID", "StudyInstanceUID"):
            found = archive.references({keyword: [uid]})
            if found:
                return found
        raise ResourceNotFound(
            found=f"no series or study {uid} in our archive",
            allowed="one that was received or published here",
            action="check the UID; `veraicon job list` names what was generated",
        )

    def of_uid(archive: Archive, uid: str) -> list[dict[str, str]]:
        keywords = ("SeriesInstanceUID", "StudyInstanceUID")
        return [one for keyword in keywords for one in archive.find("SERIES", {keyword: [uid]}, counted=False)]

    def checked(archive: Archive, reference: InstanceReference) -> Path:
        archive.checked_file(reference).close()
        return archive.instance_path(reference)

    with open_site(settings_of(context)) as site:
        references = [reference for uid in uids for reference in held(site.archive, uid)]
        series = {found["SeriesInstanceUID"] for uid in uids for found in of_uid(site.archive, uid)}
        hand_out_export(site.archive, site.outputs, series, to)
        count = write_file_set([checked(site.archive, reference) for reference in references], to)
    if as_json:
        show_json({"instances": count, "folder": str(to)})
    else:
        out.print(f"{count} instances and a DICOMDIR in {to}", markup=False)
