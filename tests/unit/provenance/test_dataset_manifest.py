from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from domain.errors import AttestationError, VerificationFailed
from provenance.dataset_manifest import content_digest, dataset_file, manifest_digest, manifest_to_json, read_dataset_file
from provenance.export_list import ExportList, read_export, sign_export
from provenance.log_proof import DATASET_ENTRY, RECALL_ENTRY
from provenance.signing import ATTESTATION_KIND, DATASET_KIND, SigningKey
from tests.builders_dataset import NOW, make_file, make_manifest, make_member, token
from tests.builders_provenance import MemoryLog

KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
KEYS = KEY.public_jwks()
MANIFEST = make_manifest([make_member("a", 1), make_member("a", 0, source=True), make_member("b", 1)])
FILE = make_file(MANIFEST, KEY)


@pytest.mark.requirement("PROV-DATA-001")
def test_a_version_comes_back_from_its_file_as_it_was() -> None:
    verified = read_dataset_file(copy.deepcopy(FILE), KEYS)
    assert verified.manifest == MANIFEST
    assert verified.digest == manifest_digest(MANIFEST)
    assert verified.kid == KEY.kid


def _edit(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


_UID = str(MANIFEST.members[0].uid)
TAMPERED = {
    "a member that was taken out": lambda one: one["manifest"]["members"].pop(),
    "a part that was changed": _edit("manifest", "members", 0, "part", value="validation"),
    "another name": _edit("manifest", "name", value="other"),
    "another seed": _edit("manifest", "split", "seed", value=8),
    "an instance that was taken out": lambda one: one["instances"][_UID].pop(),
    "a pixel digest that was changed": _edit("instances", _UID, 0, "pixelDigest", value=token("other")),
    "a series that was added": lambda one: one["instances"].update({"1.2.3": one["instances"][_UID]}),
    "another log entry": lambda one: one["log"]["entry"].update({"digest": token("other")}),
    "no log": _edit("log", value=None),
    "no signature": _edit("signature", value=""),
    "more than a file has": _edit("note", value="x"),
}


@pytest.mark.requirement("PROV-DATA-001")
@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_changed_file_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    content = copy.deepcopy(FILE)
    change(content)
    with pytest.raises(VerificationFailed):
        read_dataset_file(content, KEYS)


@pytest.mark.requirement("PROV-DATA-001")
def test_a_file_of_another_key_kind_or_entry_is_refused() -> None:
    for jws, kind, key in (
        (STRANGER.sign(manifest_to_json(MANIFEST), kind=DATASET_KIND), DATASET_ENTRY, KEY),
        (KEY.sign(manifest_to_json(MANIFEST), kind=ATTESTATION_KIND), DATASET_ENTRY, KEY),
        (KEY.sign(manifest_to_json(MANIFEST), kind=DATASET_KIND), RECALL_ENTRY, KEY),
        (KEY.sign(manifest_to_json(MANIFEST), kind=DATASET_KIND), DATASET_ENTRY, STRANGER),
    ):
        with pytest.raises(VerificationFailed):
            read_dataset_file(dataset_file(MANIFEST, jws, MemoryLog(key).enter(jws, kind=kind)), KEYS)


@pytest.mark.requirement("PROV-SPLIT-001")
def test_a_leaky_manifest_is_not_signed_and_not_believed_when_somebody_signed_it() -> None:
    first, *others = MANIFEST.members
    leaky = replace(MANIFEST, members=(replace(first, part={"train": "test", "test": "train"}[first.part]), *others))
    with pytest.raises(AttestationError, match="leaks"):
        make_file(leaky, KEY)
    jws = KEY.sign(manifest_to_json(leaky), kind=DATASET_KIND)
    with pytest.raises(VerificationFailed, match="leaks"):
        read_dataset_file(dataset_file(leaky, jws, MemoryLog(KEY).enter(jws, kind=DATASET_ENTRY)), KEYS)


def test_the_same_members_and_split_are_the_same_content_under_another_number() -> None:
    later = replace(MANIFEST, number=2, created_at=NOW.replace(year=2027))
    assert content_digest(later) == content_digest(MANIFEST)
    assert manifest_digest(later) != manifest_digest(MANIFEST)
    assert content_digest(make_manifest(MANIFEST.members, None)) != content_digest(MANIFEST)


@pytest.mark.requirement("PROV-EXPORT-002")
def test_a_list_of_exported_files_is_believed_only_as_it_was_signed() -> None:
    listed = ExportList(token("set"), NOW, {"a.nii.gz": token("a")})
    content = sign_export(listed, KEY)
    assert read_export(content, KEYS) == listed
    changed = {"list": content["list"] | {"files": {"a.nii.gz": token("b")}}, "signature": content["signature"]}
    for wrong, keys in (
        (changed, KEYS),
        (content, STRANGER.public_jwks()),
        (None, KEYS),
        ({"list": {}, "signature": ""}, KEYS),
    ):
        with pytest.raises(VerificationFailed):
            read_export(wrong, keys)
