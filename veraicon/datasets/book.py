"""The data sets of a site: what the commands ask for, built from its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from importlib.metadata import version
from typing import Any

from domain.dataset import DatasetManifest, Member
from domain.errors import ConsentMissing, OutputRecalled, WeightsRejected
from domain.model_card import ModelCard
from generators.cards import bundle_folder, bundled_models, card_digest, read_card
from provenance.log_proof import DATASET_ENTRY
from veraicon.datasets.exporting import Exporter
from veraicon.datasets.gathering import Gatherer
from veraicon.datasets.recalled import recalled_members
from veraicon.datasets.tables import DatasetVersionRow
from veraicon.datasets.versions import DatasetVersions
from veraicon.wiring import Site


@dataclass(frozen=True)
class Book:
    """Versions, and where their members come from.

    Attributes
    ----------
    keys : mapping
        Public keys of the site (JWK Set).
    cards : mapping
        Model cards that the site has, by their digest.
    """

    versions: DatasetVersions
    gatherer: Gatherer
    keys: Mapping[str, Any]
    cards: Mapping[str, ModelCard]

    def gather(
        self,
        *,
        from_jobs: Sequence[str],
        series: Sequence[str],
        all_attested: bool,
        sources: Sequence[str],
        source_licence: str,
    ) -> tuple[list[Member], int]:
        """Return the members that were asked for, each once, and how many attested jobs may not be used.

        What is asked for by name and may not be used is refused; of all attested jobs it is left out.
        """
        members = {str(one.uid): one for one in map(self.gatherer.generated, from_jobs)}
        members |= {str(one.uid): one for one in map(self.gatherer.generated, map(self.gatherer.job_of_series, series))}
        left_out = 0
        for job in self.gatherer.attested_jobs() if all_attested else ():
            try:
                member = self.gatherer.generated(job)
            except (OutputRecalled, ConsentMissing):
                left_out += 1
            else:
                members[str(member.uid)] = member
        members |= {one: self.gatherer.source(one, licence=source_licence) for one in sources}
        return list(members.values()), left_out

    def brief(self, row: DatasetVersionRow) -> dict[str, Any]:
        """Return a version for a list."""
        created = row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC)
        return {
            "version": f"{row.name}:{row.number}",
            "digest": row.digest,
            "members": row.members,
            "subjects": row.subjects,
            "created_at": created.isoformat(timespec="seconds"),
        }

    def told(self, row: DatasetVersionRow) -> dict[str, Any]:
        """Return a version in full, with what was recalled since."""
        manifest = self.versions.manifest(row)
        return self.brief(row) | {
            "file": str(self.versions.file_of(row)),
            "parts": dict(_parts(manifest)),
            "recalled": recalled_members(manifest, self.gatherer),
            "members_listed": [_listed(member) for member in manifest.members],
        }

    def exporter(self, row: DatasetVersionRow) -> Exporter:
        """Return the exporter of a version."""
        return Exporter(self.versions.manifest(row), row.digest, row.file, self.gatherer, self.cards, self.versions.key)


def book_of(site: Site) -> Book:
    """Return the data sets of a site."""
    versions = DatasetVersions(
        engine=site.engine,
        folder=site.settings.storage.folder / "datasets",
        key=site.key,
        enter=partial(site.log.enter, DATASET_ENTRY),
        software_version=version("veraicon"),
    )
    gatherer = Gatherer(site.archive, site.jobs, site.outputs, site.salt)
    return Book(versions, gatherer, site.keyring.public_jwks(), _cards(site.settings.generation.model))


def _cards(own_model: str) -> dict[str, ModelCard]:
    """Return the cards that can be read; a data set may hold what a model made that is not here any more."""
    cards = [read_card(bundle_folder(name)) for name in bundled_models()]
    with suppress(WeightsRejected):  # the datasheet names a model without its card's figures then
        cards.append(read_card(bundle_folder(own_model)))
    return {card_digest(card): card for card in cards}


def _parts(manifest: DatasetManifest) -> Iterator[tuple[str, dict[str, int]]]:
    for name in [name for name, _ in manifest.split.fractions] if manifest.split else [""]:
        inside = [member for member in manifest.members if member.part == name]
        yield name, {"members": len(inside), "subjects": len({member.subject for member in inside})}


def _listed(member: Member) -> dict[str, Any]:
    return {
        "series_uid": member.uid,
        "kind": member.kind.value,
        "part": member.part,
        "subject": member.subject,
        "licence": member.licence,
        "instances": member.count,
        "job": member.origin.request_id if member.origin else None,
    }
