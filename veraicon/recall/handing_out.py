"""Exports: every series that leaves in a folder is noted before anything is written, ours and those of real people."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dicom_node.archive import Archive
from domain.errors import PatientMismatch, UnreadableInstance
from domain.identifiers import PatientIdentifier
from veraicon.recall.outputs import Outputs, SourceSeries

EXPORT = "export"


def hand_out_export(archive: Archive, outputs: Outputs, series_uids: Collection[str], folder: Path) -> None:
    """Note that series are about to be written to a folder: those of outputs as their copies, others as copies of a source.

    Raises
    ------
    OutputRecalled
        If an output among them was taken back.
    ConsentMissing
        If the consent to a source among them was withdrawn by a recall.
    """
    recipient = str(folder.absolute())
    outputs.hand_out(series_uids, recipient, EXPORT)
    received = sorted(set(series_uids) - outputs.ours(series_uids))
    held = archive.find("SERIES", {"SeriesInstanceUID": received}, counted=False) if received else []
    sources = [
        SourceSeries(one["SeriesInstanceUID"], one["StudyInstanceUID"], _patient_of(archive, one["SeriesInstanceUID"]))
        for one in held
    ]
    outputs.hand_out_sources(sources, recipient, EXPORT)


def _patient_of(archive: Archive, series_uid: str) -> PatientIdentifier | None:
    try:
        return archive.series(series_uid).patient
    except (UnreadableInstance, PatientMismatch):
        return None  # its study still says that it left
