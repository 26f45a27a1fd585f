"""Small data set versions: members of a few people, with digests of the right form and nothing behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from domain.dataset import DatasetManifest, ListedSeries, Member, MemberKind, Origin, Split
from domain.generation import ModelIdentity
from domain.identifiers import InstanceUid, SeriesUid, StudyUid
from domain.series import GeneratedInstance
from provenance.dataset_manifest import dataset_file, sign_manifest
from provenance.log_proof import DATASET_ENTRY
from provenance.signing import SigningKey
from tests.builders_provenance import MemoryLog

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HALVES = Split(7, (("train", 0.5), ("test", 0.5)))


def token(text: str) -> str:
    """Return a digest of the right form."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def make_member(person: str, number: int, *, source: bool = False, part: str = "") -> Member:
    """Return a member of a person: the source series 1.2.<person>.0, or the `number`-th volume that was made of it."""
    place = int.from_bytes(person.encode(), "big")
    uid = SeriesUid(f"1.2.{place}.{0 if source else number}")
    instances = tuple(
        GeneratedInstance(
            "1.2.840.10008.5.1.4.1.1.4", InstanceUid(f"{uid}.{one}"), token(f"{uid} {one}"), token(f"ds {uid} {one}")
        )
        for one in (1, 2)
    )
    listed = ListedSeries(StudyUid(f"1.2.{place}"), uid, "MR", instances)
    origin = Origin(
        request_id=f"request-{person}-{number}",
        source_study_uid=StudyUid(f"1.2.{place}"),
        source_series_uid=SeriesUid(f"1.2.{place}.0"),
        model=ModelIdentity("tiny", "0", token("weights"), token("card"), "CC0-1.0"),
        targets=("hippocampus-volume",),
        used=("prior-image",),
        missing=(),
        attestation=token(f"attestation {uid}"),
    )
    kind = MemberKind.SOURCE if source else MemberKind.GENERATED
    return Member(kind, token(person), part, "CC0-1.0", (listed,), None if source else origin)


def make_manifest(members: Sequence[Member], split: Split | None = HALVES, **changes: Any) -> DatasetManifest:
    """Return a version with each member dealt to its part."""
    dealt = [replace(one, part=split.part_of(one.subject) if split else "") for one in sorted(members, key=lambda one: one.uid)]
    return replace(DatasetManifest("set", 1, NOW, "0.1.0", split, tuple(dealt)), **changes)


def make_file(manifest: DatasetManifest, key: SigningKey) -> dict[str, Any]:
    """Return the file of a version, entered in a log in memory."""
    jws = sign_manifest(manifest, key)
    return dataset_file(manifest, jws, MemoryLog(key).enter(jws, kind=DATASET_ENTRY))
