"""The part of a recall that the FHIR server holds: resources entered in error, and the Provenance that says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from domain.errors import PeerRefused
from fhir_adapter.bundles import amendment_bundle
from fhir_adapter.store import FhirStore, RawResource, Search
from provenance.recall_as_fhir import nullified

# Kinds that are not changed: the synthetic Patient stays, and the first Provenance keeps its signature.
_KEPT = frozenset({"Patient", "Provenance"})
_TRIES = 3


def references_in(bundle: str) -> list[str]:
    """Return ``Type/id`` of what a publication's Bundle wrote."""
    return [entry["request"]["url"] for entry in json.loads(bundle)["entry"]]


def withdraw(
    fhir: FhirStore,
    written: Sequence[str],
    recall_provenance_id: str,
    make_provenance: Callable[[Sequence[str]], dict[str, Any]],
) -> bool:
    """Enter the resources of an output in error, with the Provenance that says so, in one transaction.

    A repeat changes nothing. Where somebody else has written in between, all of it is read again and tried anew.

    Parameters
    ----------
    written : sequence of str
        References of what was published.
    make_provenance : callable
        Makes the recall's Provenance of the references that it is about.

    Returns
    -------
    bool
        False where the server holds none of the resources: they were never written.

    Raises
    ------
    PeerError
        If the server cannot be read or does not take the transaction.
    """
    for attempt in range(1, _TRIES + 1):
        held = _held(fhir, [*written, f"Provenance/{recall_provenance_id}"])
        targets = [reference for reference in written if reference in held and reference.split("/")[0] not in _KEPT]
        if not targets:
            return False
        changed = [body for reference in targets if (body := nullified(held[reference].body)) is not None]
        added = [] if f"Provenance/{recall_provenance_id}" in held else [make_provenance(targets)]
        if not changed and not added:
            return True
        try:
            fhir.transact(amendment_bundle(changed, added))
        except PeerRefused:
            if attempt == _TRIES:
                raise
        else:
            return True
    return True


def _held(fhir: FhirStore, references: Sequence[str]) -> dict[str, RawResource]:
    """Return those of some resources that the server holds, by reference: one search a type, all in one batch."""
    by_kind: dict[str, list[str]] = {}
    for reference in references:
        kind, identity = reference.split("/")
        by_kind.setdefault(kind, []).append(identity)
    searches = [Search(kind, {"_id": ",".join(identities)}) for kind, identities in by_kind.items()]
    return {found.reference: found for found in fhir.search_many(searches)}
