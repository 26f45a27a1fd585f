"""Which members of a data set may no longer be used: taken back by a recall, or of a source whose consent was withdrawn."""

from __future__ import annotations

from domain.dataset import DatasetManifest, Member
from domain.errors import ConsentMissing, OutputRecalled, PatientMismatch, UnreadableInstance
from veraicon.datasets.gathering import Gatherer


def recalled_members(manifest: DatasetManifest, gatherer: Gatherer) -> dict[str, str]:
    """Return why, by Series Instance UID of the images; empty where every member may be used."""
    found = {}
    for member in manifest.members:
        try:
            _require_usable(member, gatherer)
        except (OutputRecalled, ConsentMissing) as error:
            found[str(member.uid)] = error.found
    return found


def _require_usable(member: Member, gatherer: Gatherer) -> None:
    if member.origin is not None:
        gatherer.outputs.require_not_recalled(member.origin.request_id)
    try:
        source = gatherer.described(member.origin.source_series_uid if member.origin else member.uid)
    except (UnreadableInstance, PatientMismatch):
        return  # it is not held any more, or whose it is cannot be said: a recall of its output is told above
    gatherer.outputs.require_consent(source)
