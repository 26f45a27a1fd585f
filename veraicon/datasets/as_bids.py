"""A data set as NIfTI in the layout of BIDS: images, label maps as derivatives, and a mark on every file.

References
----------
Brain Imaging Data Structure 1.10: dataset_description.json, participants, anatomical MRI, segmentations as derivatives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import SegmentationStorage

from dicom_node.objects.label_map import read_label_map
from dicom_node.reading import read_volume
from domain.dataset import DatasetManifest, ListedSeries, Member, MemberKind
from domain.errors import UnsupportedSeries
from domain.volume import Volume
from veraicon.datasets import layout
from veraicon.datasets.gathering import Bytes
from veraicon.datasets.nifti import image_to_nifti, labels_to_nifti
from veraicon.datasets.staging import Staging

BIDS_VERSION = "1.10.0"
_LABELS = "derivatives/labels"
_IGNORED = (layout.EXPORT_NAME, layout.MANIFEST_NAME, layout.DATASHEET_NAME, layout.CROISSANT_NAME, layout.VOLUMES_NAME)


@dataclass(frozen=True)
class BidsWriter:
    """Writes members of one version.

    Attributes
    ----------
    suffix : str
        BIDS suffix of the images (``T1w``): what they show is not reliably said by DICOM, so whoever exports says it.
    """

    manifest: DatasetManifest
    source: Bytes
    suffix: str

    def write(self, staging: Staging, members: Sequence[Member], told: Callable[[Member], None]) -> list[tuple[str, ...]]:
        """Write every member and what describes them; return the rows of ``volumes.tsv``.

        Raises
        ------
        UnsupportedSeries
            If a series has no place in BIDS, or forms no volume.
        UnreadableInstance
            If an instance is missing or changed.
        """
        rows = []
        for member in members:
            rows.append(self._member(staging, member))
            told(member)
        self._describe(staging, members)
        return rows

    def _member(self, staging: Staging, member: Member) -> tuple[str, ...]:
        image = f"{layout.stem(member)}_{self.suffix}"
        # The sidecar comes last: where it is, everything of the member is.
        if not (staging.folder / f"{image}.json").exists():
            volume = self._volume(member)
            content = image_to_nifti(volume, layout.mark_of(member))
            staging.once(f"{image}.nii.gz", lambda: content)
            for series in member.series[1:]:
                self._labels(staging, member, series, volume)
            staging.once(f"{image}.json", lambda: _json(self._sidecar(member)))
        return layout.volume_row(member, f"{image}.nii.gz")

    def _volume(self, member: Member) -> Volume:
        images = member.series[0]
        if images.modality != "MR":
            raise UnsupportedSeries(
                found=f"series {images.series_uid} of modality {images.modality}",
                allowed="MR: BIDS has no place for others",
                action="export as DICOM",
            )
        return read_volume([ds for _, _, ds in self.source.datasets(member, images)])

    def _labels(self, staging: Staging, member: Member, series: ListedSeries, like: Volume) -> None:
        """Write the label map of a segmentation; a summary has no place here and stays in the DICOM export."""
        if {one.sop_class_uid for one in series.instances} != {SegmentationStorage}:
            return
        (_, _, ds), *_others = self.source.datasets(member, series)
        labels, named = read_label_map(ds, like)
        name = f"{_LABELS}/{layout.stem(member)}_dseg"
        content = labels_to_nifti(labels, like.affine_lps, layout.mark_of(member))
        staging.once(f"{name}.nii.gz", lambda: content)
        staging.once(f"{name}.tsv", lambda: layout.table(("index", "name"), [(str(index), text) for index, text in named]))
        about = self._marks(member) | {"SeriesInstanceUID": series.series_uid, "Manual": False}
        staging.once(f"{name}.json", lambda: _json(about))

    def _sidecar(self, member: Member) -> dict[str, Any]:
        content = self._marks(member) | {"SeriesInstanceUID": member.uid, "License": member.licence}
        if member.part:
            content["Split"] = member.part
        if member.origin is not None:
            content["GeneratedFrom"] = {
                "Model": member.origin.model.name,
                "ModelVersion": member.origin.model.version,
                "WeightsDigest": member.origin.model.weights_digest,
                "AttestationDigest": member.origin.attestation,
                "ConditioningTargets": list(member.origin.targets),
            }
        return content

    def _marks(self, member: Member) -> dict[str, Any]:
        return {"SyntheticData": member.kind is MemberKind.GENERATED, "Description": layout.mark_of(member)}

    def _describe(self, staging: Staging, members: Sequence[Member]) -> None:
        title = self.manifest.title
        staging.once("dataset_description.json", lambda: _json(self._description(title, "raw", members)))
        staging.once("README.md", lambda: self._readme(members).encode())
        staging.once(".bidsignore", lambda: "".join(f"{name}\n" for name in _IGNORED).encode())
        rows = sorted({(f"sub-{layout.subject_label(one)}", one.part or "n/a") for one in members})
        staging.once("participants.tsv", lambda: layout.table(("participant_id", "split"), rows))
        staging.once("participants.json", lambda: _json(_PARTICIPANT_COLUMNS))
        if (staging.folder / _LABELS).exists():
            about = self._description(f"{title}, label maps", "derivative", members)
            staging.once(f"{_LABELS}/dataset_description.json", lambda: _json(about))
            words = f"# {title}, label maps\n\n{layout.SYNTHETIC_MARK}.\n"
            staging.once(f"{_LABELS}/README.md", words.encode)

    def _description(self, title: str, kind: str, members: Sequence[Member]) -> dict[str, Any]:
        made = sum(member.kind is MemberKind.GENERATED for member in members)
        synthetic = made == len(members)
        mixed = f"{made} of {len(members)} volumes are synthetic, the others images of real people: see SyntheticData of each"
        return {
            "Name": title,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": kind,
            "License": "; ".join(dict.fromkeys(member.licence for member in members)),
            "GeneratedBy": [
                {
                    "Name": "Veraicon",
                    "Version": self.manifest.software_version,
                    "Description": layout.SYNTHETIC_MARK if synthetic else mixed,
                }
            ],
            "SyntheticData": synthetic,
        }

    def _readme(self, members: Sequence[Member]) -> str:
        made = sum(member.kind is MemberKind.GENERATED for member in members)
        return (
            f"# {self.manifest.title}\n\n"
            f"{made} of the {len(members)} volumes here are SYNTHETIC: made by a generator, of no person, not for clinical "
            "use. Their files carry `acq-synthetic` in the name, `SyntheticData: true` in the JSON and the same word in the "
            "NIfTI header.\n\n"
            "A participant stands for one person: everything that was made from images of one person, and those images where "
            "they are here. So no patient identifier and no study is in two parts of the split; a person with two "
            "identifiers whose images share no study counts as two. The label is a salted token; the manifest names source "
            "series by UID, so whoever can search the PACS can find the person.\n\n"
            f"`{layout.DATASHEET_NAME}` tells what this data set is, `{layout.VOLUMES_NAME}` lists its volumes, "
            f"`{layout.CROISSANT_NAME}` describes it for programs (Croissant), `{layout.MANIFEST_NAME}` is its signed "
            "manifest.\n"
        )


_PARTICIPANT_COLUMNS = {
    "participant_id": {"Description": "Salted token of the person whose images these are, or were made from"},
    "split": {"Description": "Part of the data set that everything of this participant belongs to"},
}


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
