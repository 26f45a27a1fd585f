"""How a data set is called outside: labels of subjects and sessions, names of files, tables. No patient stands in any name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.objects.file_set import UNFINISHED
from domain.dataset import DatasetManifest, Member, MemberKind
from domain.identifiers import InstanceUid
from domain.series import GeneratedInstance
from provenance.digests import dataset_digest, has_pixels, pixel_digest

# Files with which an export is made; none is left when it is done.
WORKING = (".lock", UNFINISHED)

_SUBJECT_DIGITS, _SESSION_DIGITS = 16, 12

# Files beside the images that are no part of BIDS.
MANIFEST_NAME, DATASHEET_NAME, CROISSANT_NAME, VOLUMES_NAME = "dataset.json", "datasheet.md", "croissant.json", "volumes.tsv"
EXPORT_NAME = "export.json"
DICOM_FOLDER = "dicom"
VOLUME_COLUMNS = ("path", "participant_id", "session_id", "kind", "split", "series_uid")

SYNTHETIC_MARK = "SYNTHETIC: made by a generator, not for clinical use (Veraicon)"
SOURCE_MARK = "Source series: an image of a real person"


def subject_label(member: Member) -> str:
    """Return the BIDS label of the subject: the first 64 bits of its token."""
    return member.subject.removeprefix("sha256:")[:_SUBJECT_DIGITS]


def session_label(member: Member) -> str:
    """Return the BIDS label of the session: each member is one, named by a digest of its Series Instance UID."""
    return hashlib.sha256(member.uid.encode()).hexdigest()[:_SESSION_DIGITS]


def acquisition_label(member: Member) -> str:
    """Return the BIDS label ``acq-``, which says in the file's name whether a person was ever scanned."""
    return "synthetic" if member.kind is MemberKind.GENERATED else "source"


def stem(member: Member) -> str:
    """Return folder and beginning of the name of a member's files, relative to the root of a BIDS data set."""
    subject, session = f"sub-{subject_label(member)}", f"ses-{session_label(member)}"
    return f"{subject}/{session}/anat/{subject}_{session}_acq-{acquisition_label(member)}"


def mark_of(member: Member) -> str:
    """Return the words that every file of a member carries."""
    return SYNTHETIC_MARK if member.kind is MemberKind.GENERATED else SOURCE_MARK


def volume_row(member: Member, path: str) -> tuple[str, ...]:
    """Return the row of a member in ``volumes.tsv``, in the order of `VOLUME_COLUMNS`."""
    subject, session = f"sub-{subject_label(member)}", f"ses-{session_label(member)}"
    return path, subject, session, member.kind.value, member.part or "n/a", member.uid


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Return a TSV file as BIDS has it: UTF-8, one header, ``n/a`` for what is not known."""
    return "".join("\t".join(row) + "\n" for row in [header, *rows]).encode()


def listed_files(root: Path) -> dict[str, Path]:
    """Return the files of an export by name, those that `veraicon.datasets.staging` works with left out."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if not any(part.startswith(WORKING) for part in name.split("/"))}


def file_digest(path: Path) -> str:
    """Return ``sha256:`` and the digest of a file's bytes."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def licences(manifest: DatasetManifest) -> tuple[str, ...]:
    """Return each licence that a member names, once."""
    return tuple(dict.fromkeys(member.licence for member in manifest.members))


def digested(ds: Dataset) -> GeneratedInstance:
    """Return the digests of an instance, ours or received: our own signed block does not count."""
    return GeneratedInstance(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=InstanceUid(str(ds.SOPInstanceUID)),
        pixel_digest=pixel_digest(ds) if has_pixels(ds) else None,
        dataset_digest=dataset_digest(ds),
    )
