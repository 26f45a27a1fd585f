"""A version of a data set: which series are in it, whose they are as a group, and which part each is for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from domain.generation import ModelIdentity
from domain.identifiers import SeriesUid, StudyUid
from domain.series import GeneratedInstance


class MemberKind(Enum):
    """Where a member comes from."""

    GENERATED = "generated"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Split:
    """How subjects are dealt to the parts of a data set.

    A subject's part depends on nothing but the seed and its own token: it stays where it is when others come or go, in
    whatever order they stand.

    Attributes
    ----------
    seed : int
    fractions : tuple of (str, float)
        Name of each part and the share of subjects that it gets on average; they add up to 1.
    """

    seed: int
    fractions: tuple[tuple[str, float], ...]

    def part_of(self, subject: str) -> str:
        """Return the part that a subject belongs to."""
        content = json.dumps([self.seed, subject], separators=(",", ":")).encode()
        place = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2**64
        bound = 0.0
        for name, fraction in self.fractions:
            bound += fraction
            if place < bound:
                return name
        return self.fractions[-1][0]  # the shares may add up to a little less than 1


@dataclass(frozen=True, slots=True)
class ListedSeries:
    """A series of a member with the digests of each instance, in the order of their leaves."""

    study_uid: StudyUid
    series_uid: SeriesUid
    modality: str
    instances: tuple[GeneratedInstance, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a generated member was made by and from.

    Attributes
    ----------
    source_study_uid, source_series_uid : str
        The real series that conditioned it.
    targets, used, missing : tuple of str
        Kinds of conditioning, never values: what it had to obey, what was given, what the model knows and was not given.
    attestation : str
        ``sha256:`` digest of its attestation's JWS.
    """

    request_id: str
    source_study_uid: StudyUid
    source_series_uid: SeriesUid
    model: ModelIdentity
    targets: tuple[str, ...]
    used: tuple[str, ...]
    missing: tuple[str, ...]
    attestation: str


@dataclass(frozen=True, slots=True)
class Member:
    """A series of images with what belongs to it.

    Attributes
    ----------
    subject : str
        Salted token of the person whose images these are, or were made from; not reversible.
    part : str
        Part of the split; empty where the data set has none.
    licence : str
        Of the weights that made it, or of the source as the data set's maker stated it.
    series : tuple of ListedSeries
        The images, then segmentation and summary.
    origin : Origin or None
        None for a source.
    """

    kind: MemberKind
    subject: str
    part: str
    licence: str
    series: tuple[ListedSeries, ...]
    origin: Origin | None = None

    @property
    def uid(self) -> SeriesUid:
        """Series Instance UID of the images."""
        return self.series[0].series_uid

    @property
    def count(self) -> int:
        """Number of instances of all its series."""
        return sum(len(one.instances) for one in self.series)


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """One version of a data set, complete and never changed.

    Attributes
    ----------
    number : int
        Version, counted from 1.
    members : tuple of Member
        Sorted by `Member.uid`.
    """

    name: str
    number: int
    created_at: datetime
    software_version: str
    split: Split | None
    members: tuple[Member, ...]

    @property
    def title(self) -> str:
        """``NAME:NUMBER``."""
        return f"{self.name}:{self.number}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Every subject once, sorted."""
        return tuple(sorted({member.subject for member in self.members}))

    def of_kind(self, kind: MemberKind) -> tuple[Member, ...]:
        """Return the members of one kind."""
        return tuple(member for member in self.members if member.kind is kind)


@dataclass(frozen=True, slots=True)
class DatasetDifference:
    """What changed between two versions: Series Instance UIDs of images.

    Attributes
    ----------
    changed : tuple of str
        Members with other digests, licence, kind or origin.
    moved : tuple of (str, str, str)
        Members that lie in another part: UID, part before, part after.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    moved: tuple[tuple[str, str, str], ...]

    @property
    def nothing(self) -> bool:
        """True where the two versions hold the same."""
        return not (self.added or self.removed or self.changed or self.moved)


def difference(before: DatasetManifest, after: DatasetManifest) -> DatasetDifference:
    """Return what a reader of `before` has to know of `after`."""
    old, new = ({member.uid: member for member in one.members} for one in (before, after))
    both = sorted(set(old) & set(new))
    return DatasetDifference(
        added=tuple(sorted(set(new) - set(old))),
        removed=tuple(sorted(set(old) - set(new))),
        changed=tuple(uid for uid in both if _content(old[uid]) != _content(new[uid])),
        moved=tuple((uid, old[uid].part, new[uid].part) for uid in both if old[uid].part != new[uid].part),
    )


def grouped(members: Sequence[Member]) -> tuple[Member, ...]:
    """Return the members with one subject for all that share a source series or study, directly or by way of others.

    One person may be known under two identifiers. Of the tokens that belong together the smallest stands for all, whatever
    the order of the members.
    """
    leader: dict[str, str] = {}

    def first(token: str) -> str:
        while leader.get(token, token) != token:
            token = leader[token]
        return token

    owner: dict[str, str] = {}
    for member in members:
        for uid in _origin_of(member):
            one, other = sorted((first(member.subject), first(owner.setdefault(uid, member.subject))))
            leader[other] = one
    return tuple(replace(member, subject=first(member.subject)) for member in members)


def _origin_of(member: Member) -> tuple[SeriesUid, StudyUid]:
    """Return series and study of the person's images: its own, or those that it was made from."""
    if member.origin is not None:
        return member.origin.source_series_uid, member.origin.source_study_uid
    return member.uid, member.series[0].study_uid


def leaks(manifest: DatasetManifest) -> tuple[str, ...]:
    """Return in words how a person's images could be in two parts; empty where they cannot.

    Checked are the parts of each subject, that each is the one that the split deals, that no series is listed twice, and that
    what was made from one source series or study counts as one subject, the source itself among it.
    """
    found = []
    parts: dict[str, set[str]] = {}
    owners: dict[str, set[str]] = {}
    studies: dict[str, set[str]] = {}
    uids = [one.series_uid for member in manifest.members for one in member.series]
    for member in manifest.members:
        parts.setdefault(member.subject, set()).add(member.part)
        series, study = _origin_of(member)
        owners.setdefault(series, set()).add(member.subject)
        studies.setdefault(study, set()).add(member.subject)
        if member.part != (manifest.split.part_of(member.subject) if manifest.split else ""):
            found.append(f"series {member.uid} lies in another part than the split deals to its subject")
    found += [f"subject {subject} lies in {len(names)} parts" for subject, names in sorted(parts.items()) if len(names) > 1]
    found += [
        f"source series {uid} counts as {len(subjects)} subjects"
        for uid, subjects in sorted(owners.items())
        if len(subjects) > 1
    ]
    found += [
        f"source study {uid} counts as {len(subjects)} subjects"
        for uid, subjects in sorted(studies.items())
        if len(subjects) > 1
    ]
    if len(set(uids)) != len(uids):
        found.append("a series is listed twice")
    return tuple(found)


def _content(member: Member) -> tuple[object, ...]:
    return member.kind, member.subject, member.licence, member.series, member.origin
