"""Says what is true of a data set version that is kept here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from domain.dataset import DatasetManifest
from domain.errors import ResourceNotFound, UnreadableInstance
from provenance.report import Claim, Truth, VerificationReport
from veraicon.datasets.gathering import Bytes, Gatherer
from veraicon.datasets.recalled import recalled_members
from veraicon.datasets.verifying_export import claim_of, manifest_claim, report

_NAMED = 3


def verify_kept(file: str, keys: Mapping[str, Any], gatherer: Gatherer) -> VerificationReport:
    """Check a version that is kept here: signature, log and split; each instance by its digests; recalls since.

    Parameters
    ----------
    file : str
        JSON of its file.
    keys : mapping
        JWK Set of the trusted keys.
    """
    claim, verified = manifest_claim(json.loads(file), keys)
    if verified is None:
        return report(claim)
    return report(claim, _held(verified.manifest, gatherer), _not_recalled(verified.manifest, gatherer))


def _held(manifest: DatasetManifest, gatherer: Gatherer) -> Claim:
    source = Bytes(gatherer.archive, gatherer.jobs)
    problems, count = [], 0
    for member in manifest.members:
        for series in member.series:
            try:
                count += sum(1 for _ in source.datasets(member, series))
            except (UnreadableInstance, ResourceNotFound) as error:
                problems.append(error.found)
    return claim_of(
        "members", problems, f"all {count} instances of {len(manifest.members)} members are held with their digests"
    )


def _not_recalled(manifest: DatasetManifest, gatherer: Gatherer) -> Claim:
    recalled = recalled_members(manifest, gatherer)
    if not recalled:
        return Claim("not-recalled", Truth.TRUE, "no member was recalled, and no consent was withdrawn")
    named = "; ".join(f"{uid}: {why}" for uid, why in list(recalled.items())[:_NAMED])
    return Claim("not-recalled", Truth.FALSE, f"{len(recalled)} members may no longer be used: {named}")
