"""Data set versions as they are kept: made once, signed, entered in the transparency log, and never changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import defer
from sqlmodel import Session, col, select

from dicom_node.holding.files import write_durably
from domain.dataset import DatasetManifest, Member, Split, grouped
from domain.errors import RequestInvalid, ResourceNotFound
from provenance.dataset_manifest import (
    content_digest,
    dataset_file,
    jws_of,
    manifest_digest,
    manifest_from_json,
    sign_manifest,
)
from provenance.log_proof import LogProof, proof_to_json
from provenance.signing import SigningKey
from veraicon.datasets.tables import DatasetVersionRow

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# Names of parts stand in files and in TSV columns.
_PART = re.compile(r"[a-z][a-z0-9_]{0,30}")
_ROUNDING = 1e-9


def parse_split(text: str, seed: int) -> Split:
    """Return the split in a text like ``train=0.8,test=0.2``.

    Raises
    ------
    RequestInvalid
        If a name or share is none, or the shares do not add up to 1.
    """
    fractions: dict[str, float] = {}
    for one in text.split(","):
        name, _, share = (part.strip() for part in one.partition("="))
        try:
            fractions[name] = float(share)
        except ValueError as error:
            raise _bad_split(f"the share {share[:20]!r}") from error
        if not _PART.fullmatch(name) or not 0 < fractions[name] <= 1:
            raise _bad_split(f"the part {one.strip()[:40]!r}")
    if len(fractions) != text.count(",") + 1 or abs(sum(fractions.values()) - 1) > _ROUNDING:
        raise _bad_split("parts that are named twice, or shares that do not add up to 1")
    return Split(seed, tuple(fractions.items()))


@dataclass(frozen=True)
class DatasetVersions:
    """The data set versions of a site.

    Attributes
    ----------
    folder : Path
        Gets the file of each version beside its row: ``NAME/NUMBER.json``.
    enter : callable
        Enters a JWS in the transparency log as a data set and returns its proof.
    """

    engine: sa.Engine
    folder: Path
    key: SigningKey
    enter: Callable[[str], LogProof]
    software_version: str

    def create(self, name: str, members: Sequence[Member], split: Split | None) -> tuple[DatasetManifest, bool]:
        """Sign and keep the next version of a data set; the latest one, and False, where it would hold the same.

        Raises
        ------
        RequestInvalid
            If the name is none, there is no member, one comes twice, or another process made the version meanwhile.
        """
        _require_name(name)
        _require_members(members)
        latest = self._latest(name)
        dealt = tuple(
            replace(member, part=split.part_of(member.subject) if split else "")
            for member in grouped(sorted(members, key=lambda member: member.uid))
        )
        now = datetime.now(UTC)
        manifest = DatasetManifest(
            name=name,
            number=latest.number + 1 if latest else 1,
            created_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
            software_version=self.software_version,
            split=split,
            members=dealt,
        )
        if latest and latest.content_digest == content_digest(manifest):
            self.file_of(latest)
            return self.manifest(latest), False
        # The number is ours in the database before the log knows of it: the log never holds two versions of one number.
        row = _row(manifest, dataset_file(manifest, sign_manifest(manifest, self.key), None))
        self._keep(row)
        self.file_of(row)
        return manifest, True

    def find(self, text: str) -> DatasetVersionRow:
        """Return the version ``NAME:NUMBER``, or the latest one of ``NAME``.

        Raises
        ------
        ResourceNotFound
            If there is none.
        """
        name, _, number = text.partition(":")
        with Session(self.engine) as session:
            if number:
                known = number.isascii() and number.isdigit() and len(number) < 10
                row = session.get(DatasetVersionRow, (name, int(number))) if known else None
            else:
                row = self._latest(name)
        if row is None:
            raise ResourceNotFound(
                found="a data set version that is not kept here",
                allowed="NAME or NAME:NUMBER, as `veraicon dataset list` shows them",
                action="list the data sets",
            )
        return row

    def all(self) -> list[DatasetVersionRow]:
        """Return every version by name and number."""
        order = (col(DatasetVersionRow.name), col(DatasetVersionRow.number))
        with Session(self.engine) as session:
            # A file may be long, and a list needs none of them.
            light = select(DatasetVersionRow).options(defer(DatasetVersionRow.file))  # type: ignore[arg-type]
            return list(session.exec(light.order_by(*order)))

    def manifest(self, row: DatasetVersionRow) -> DatasetManifest:
        """Return the manifest of a version; its form is checked, its signature is not (`datasets.verifying`)."""
        content: Mapping[str, Any] = json.loads(row.file)
        return manifest_from_json(content["manifest"], content["instances"])

    def file_of(self, row: DatasetVersionRow) -> Path:
        """Return the file of a version, entered in the log and written again from its row where that is missing."""
        self._enter(row)
        folder = self.folder / row.name
        path = folder / f"{row.number}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(folder, path.name, row.file.encode())
        return path

    def _enter(self, row: DatasetVersionRow) -> None:
        """Enter a version in the log where a process died between keeping and entering it."""
        content = json.loads(row.file)
        if content["log"] is not None:
            return
        content["log"] = proof_to_json(self.enter(jws_of(content)))
        row.file = json.dumps(content, indent=1, ensure_ascii=False)
        with Session(self.engine) as session:
            same = (col(DatasetVersionRow.name) == row.name, col(DatasetVersionRow.number) == row.number)
            session.execute(sa.update(DatasetVersionRow).where(*same).values(file=row.file))
            session.commit()

    def _latest(self, name: str) -> DatasetVersionRow | None:
        query = select(DatasetVersionRow).where(DatasetVersionRow.name == name)
        with Session(self.engine) as session:
            return session.exec(query.order_by(col(DatasetVersionRow.number).desc())).first()

    def _keep(self, row: DatasetVersionRow) -> None:
        try:
            with Session(self.engine, expire_on_commit=False) as session:
                session.add(row)
                session.commit()
        except IntegrityError as error:
            raise RequestInvalid(
                found=f"a version {row.number} of {row.name} that another process has made at the same time",
                allowed="a number that is free",
                action="run the command again: it makes the next version, or finds that nothing changed",
            ) from error


def _row(manifest: DatasetManifest, content: Mapping[str, Any]) -> DatasetVersionRow:
    return DatasetVersionRow(
        name=manifest.name,
        number=manifest.number,
        digest=manifest_digest(manifest),
        content_digest=content_digest(manifest),
        members=len(manifest.members),
        subjects=len(manifest.subjects),
        created_at=manifest.created_at,
        file=json.dumps(content, indent=1, ensure_ascii=False),
    )


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RequestInvalid(
            found="a data set name of another form",
            allowed="lower-case letters, digits, dots, dashes and underscores, at most 63, a letter or digit first",
            action="choose such a name; it must not name a patient",
        )


def _require_members(members: Sequence[Member]) -> None:
    uids = [one.series_uid for member in members for one in member.series]
    if not members or len(set(uids)) != len(uids):
        raise RequestInvalid(
            found="a series twice" if members else "no member",
            allowed="one or more series, each once",
            action="name jobs or series; `veraicon job list` shows what was made",
        )


def _bad_split(found: str) -> RequestInvalid:
    return RequestInvalid(
        found=found, allowed="NAME=SHARE,... that add up to 1, as train=0.8,test=0.2", action="correct --split"
    )
