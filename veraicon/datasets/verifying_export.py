"""Says what is true of an exported folder, with the public keys alone: no server, no database, no settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread

from dicom_node.holding.headers import PARSE_ERRORS
from domain.dataset import DatasetManifest, Member, MemberKind
from domain.errors import ResourceNotFound, UnreadableInstance, VerificationFailed
from domain.series import GeneratedInstance
from provenance.dataset_manifest import VerifiedDataset, read_dataset_file
from provenance.export_list import read_export
from provenance.report import Claim, Truth, VerificationReport
from veraicon.datasets.layout import DICOM_FOLDER, EXPORT_NAME, MANIFEST_NAME, digested, file_digest, listed_files

_SUBJECT = "data set"
_NAMED = 3  # so many failures are told by name; the rest is a number


def verify_export(folder: Path, keys: Mapping[str, Any]) -> VerificationReport:
    """Check an exported folder without us: the signed manifest, the signed list of files, and each DICOM instance.

    Raises
    ------
    ResourceNotFound
        If the folder holds no manifest.
    """
    if not (folder / MANIFEST_NAME).is_file():
        raise ResourceNotFound(
            found=f"a folder without {MANIFEST_NAME}", allowed="a folder of `veraicon dataset export`", action="name its root"
        )
    claim, verified = manifest_claim(_json_of(folder / MANIFEST_NAME), keys)
    recalled = Claim("not-recalled", Truth.NOT_CHECKABLE, "only the site that made the data set knows what was recalled since")
    if verified is None:
        return report(claim)
    files = _files_of(folder, verified.digest, keys)
    return report(claim, files, _exported(verified.manifest, folder / DICOM_FOLDER), recalled, required=("manifest", "files"))


def _json_of(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # no file of ours: the claim about it says so


def _files_of(folder: Path, dataset: str, keys: Mapping[str, Any]) -> Claim:
    """Say whether the folder holds the files that were signed for this version, and nothing else."""
    try:
        listed = read_export(_json_of(folder / EXPORT_NAME), keys)
    except VerificationFailed as error:
        return Claim("files", Truth.FALSE, f"found {error.found}")
    if listed.dataset != dataset:
        return Claim("files", Truth.FALSE, "the list of files of another data set version")
    there = {name: path for name, path in listed_files(folder).items() if name != EXPORT_NAME}
    problems = [f"{name} missing" for name in sorted(set(listed.files) - set(there))]
    problems += [f"{name} added" for name in sorted(set(there) - set(listed.files))]
    problems += [
        f"{name} changed" for name in sorted(set(there) & set(listed.files)) if file_digest(there[name]) != listed.files[name]
    ]
    return claim_of("files", problems, f"all {len(there)} files are those that were exported")


def manifest_claim(content: object, keys: Mapping[str, Any]) -> tuple[Claim, VerifiedDataset | None]:
    """Say whether a data set file is as it was signed; the version in it where it is."""
    try:
        verified = read_dataset_file(content, keys)
    except VerificationFailed as error:
        return Claim("manifest", Truth.FALSE, f"found {error.found}"), None
    manifest = verified.manifest
    parts = f"{len(manifest.split.fractions)} parts, no subject in two" if manifest.split else "no split"
    why = f"{manifest.title} is signed by key {verified.kid} and in the log since {verified.proof.logged_at:%Y-%m-%d}; {parts}"
    return Claim("manifest", Truth.TRUE, why), verified


def _exported(manifest: DatasetManifest, folder: Path) -> Claim:
    if not folder.is_dir():
        why = "NIfTI files are a conversion of what was signed: export as DICOM to have each instance checked"
        return Claim("members", Truth.NOT_CHECKABLE, why)
    listed = _instances(manifest.members)
    found, problems = list(_found(folder)), []
    for uid, instance in found:
        if instance is None or listed.get(uid) != instance:
            problems.append(f"instance {uid} {'changed' if uid in listed else 'is not of this version'}")
    needed = set(_instances(manifest.of_kind(MemberKind.GENERATED)))
    problems += [f"instance {uid} missing" for uid in sorted(needed - {uid for uid, _ in found})]
    return claim_of(
        "members", problems, f"all {len(found)} instances are those of the manifest, and no generated one is missing"
    )


def _instances(members: Iterable[Member]) -> dict[str, GeneratedInstance]:
    return {str(one.sop_instance_uid): one for member in members for series in member.series for one in series.instances}


def _found(folder: Path) -> Iterator[tuple[str, GeneratedInstance | None]]:
    """Yield UID and digests of each instance below a folder; a file that cannot be read by its name, with None."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR"):
        try:
            instance = digested(dcmread(path))
        except (*PARSE_ERRORS, UnreadableInstance):
            yield path.name, None
        else:
            yield instance.sop_instance_uid, instance


def claim_of(name: str, problems: list[str], well: str) -> Claim:
    """Return the claim that there is no problem."""
    if not problems:
        return Claim(name, Truth.TRUE, well)
    return Claim(name, Truth.FALSE, f"{len(problems)} problems: {'; '.join(problems[:_NAMED])}")


def report(*claims: Claim, required: tuple[str, ...] = ("manifest", "members", "not-recalled")) -> VerificationReport:
    """Return the report of some claims."""
    return VerificationReport(_SUBJECT, claims, frozenset(required))
