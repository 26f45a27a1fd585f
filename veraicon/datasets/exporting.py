"""Gives a data set version away as a folder: DICOM as it is held, or NIfTI in the layout of BIDS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from dicom_node.objects.file_set import write_file_set
from domain.dataset import DatasetManifest, Member, MemberKind
from domain.errors import OutputRecalled, RequestInvalid
from domain.model_card import ModelCard
from provenance.export_list import ExportList, sign_export
from provenance.signing import SigningKey
from veraicon.datasets import layout
from veraicon.datasets.as_bids import BidsWriter
from veraicon.datasets.croissant import to_croissant
from veraicon.datasets.datasheet import to_datasheet
from veraicon.datasets.gathering import Bytes, Gatherer
from veraicon.datasets.recalled import recalled_members
from veraicon.datasets.staging import Staging, staged
from veraicon.recall.handing_out import hand_out_export


class ExportForm(StrEnum):
    """Forms of an export."""

    DICOM = "dicom"
    BIDS = "bids"


@dataclass(frozen=True)
class Exporter:
    """Exports one version.

    Attributes
    ----------
    digest, file : str
        Identity of the version, and its signed file, which goes with every export.
    cards : mapping
        Model cards by their digest, for the datasheet.
    """

    manifest: DatasetManifest
    digest: str
    file: str
    gatherer: Gatherer
    cards: Mapping[str, ModelCard]
    key: SigningKey

    def export(
        self,
        target: Path,
        form: ExportForm,
        *,
        include_sources: bool = False,
        suffix: str = "T1w",
        told: Callable[[Member], None] = lambda _member: None,
    ) -> tuple[Member, ...]:
        """Write the folder, whole or not at all, and return the members in it; an interrupted export goes on.

        Parameters
        ----------
        target : Path
            New or empty.
        include_sources : bool
            Whether series of real people go with it.
        suffix : str
            BIDS suffix of the images.
        told : callable
            Hears of each member that is written.

        Raises
        ------
        OutputRecalled, ConsentMissing
            If a member was taken back, or the consent to one was withdrawn.
        RequestInvalid
            If no member is left, or the folder is not empty.
        UnreadableInstance, ResourceNotFound
            If a member is missing or changed.
        StorageExhausted
            If the disk is full.
        """
        members = self._members(include_sources)
        self._require_usable(members)
        options = json.dumps([self.digest, form.value, include_sources, suffix])
        with staged(target, hashlib.sha256(options.encode()).hexdigest()) as staging:
            # Noted before anything is there: a recall has to know of every copy.
            uids = {str(one.series_uid) for member in members for one in member.series}
            hand_out_export(self.gatherer.archive, self.gatherer.outputs, uids, target)
            if form is ExportForm.DICOM:
                rows = self._dicom(staging, members, told)
            else:
                rows = BidsWriter(self.manifest, self._bytes, suffix).write(staging, members, told)
            self._describe(staging, rows, form)
        return members

    @property
    def _bytes(self) -> Bytes:
        return Bytes(self.gatherer.archive, self.gatherer.jobs)

    def _members(self, include_sources: bool) -> tuple[Member, ...]:
        members = self.manifest.members if include_sources else self.manifest.of_kind(MemberKind.GENERATED)
        if not members:
            raise RequestInvalid(
                found="a data set of source series alone",
                allowed="generated members, or --include-sources",
                action="add --include-sources if these people's images may be given away",
            )
        return members

    def _require_usable(self, members: tuple[Member, ...]) -> None:
        recalled = recalled_members(self.manifest, self.gatherer)
        found = [uid for uid in recalled if uid in {member.uid for member in members}]
        if found:
            raise OutputRecalled(
                found=f"{len(found)} members that may no longer be used, the first: {recalled[found[0]]}",
                allowed="versions without recalled members",
                action="create a new version without them: veraicon dataset create",
            )

    def _dicom(self, staging: Staging, members: tuple[Member, ...], told: Callable[[Member], None]) -> list[tuple[str, ...]]:
        """Write every instance as it is held, once each was compared with the manifest."""
        folder = staging.folder / layout.DICOM_FOLDER
        if not folder.exists():
            files = []
            for member in members:
                for series in member.series:
                    files += [path for _, path, _ in self._bytes.datasets(member, series)]
                told(member)
            write_file_set(files, folder)
        return [layout.volume_row(member, f"{layout.DICOM_FOLDER}/DICOMDIR") for member in members]

    def _describe(self, staging: Staging, rows: list[tuple[str, ...]], form: ExportForm) -> None:
        staging.once(layout.MANIFEST_NAME, self.file.encode)
        staging.once(layout.VOLUMES_NAME, lambda: layout.table(layout.VOLUME_COLUMNS, rows))
        staging.once(layout.DATASHEET_NAME, lambda: to_datasheet(self.manifest, self.digest, self.cards).encode())
        folder = layout.DICOM_FOLDER if form is ExportForm.DICOM else ""
        described = to_croissant(self.manifest, self.digest, staging.folder, dicom_folder=folder)
        staging.once(layout.CROISSANT_NAME, lambda: json.dumps(described, indent=1, ensure_ascii=False).encode())
        staging.once(layout.EXPORT_NAME, lambda: json.dumps(self._signed_list(staging.folder), indent=1).encode())

    def _signed_list(self, folder: Path) -> dict[str, Any]:
        files = {name: layout.file_digest(path) for name, path in layout.listed_files(folder).items()}
        return sign_export(ExportList(self.digest, datetime.now(UTC), files), self.key)
