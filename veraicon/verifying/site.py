"""What the site itself says of an output: the resources that its FHIR server or store holds, and whether it took them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from domain.errors import RequestInvalid, VeraiconError
from domain.identifiers import derive_fhir_id
from fhir_adapter.store import FhirStore
from provenance.attest import sidecar_jws
from provenance.canonical import from_base64url
from provenance.recall_as_fhir import is_recall_of
from provenance.statement import provenance_reference
from provenance.verification import Beside
from veraicon.settings import Settings
from veraicon.verifying.files import sidecar_in
from veraicon.wiring import open_fhir

Json = Mapping[str, Any]


def ask_site(settings: Settings) -> Callable[[str, Beside], Beside]:
    """Return a function that adds what the site holds of a request to what is at hand already."""

    def ask(request_id: str, beside: Beside) -> Beside:
        if not (settings.fhir.base_url or settings.storage.folder.exists()):
            return beside
        try:
            with open_fhir(settings) as fhir:
                return _asked(fhir, request_id, beside)
        except VeraiconError:  # not checkable then, and the report says so
            return beside

    return ask


def _asked(fhir: FhirStore, request_id: str, beside: Beside) -> Beside:
    reference = provenance_reference(request_id)
    held = _read(fhir, reference)
    attestation = beside.attestation
    if attestation is None:
        document = _read(fhir, f"DocumentReference/{derive_fhir_id(request_id, 'DocumentReference', 'attestation')}")
        attestation = sidecar_in(document) if document else None
    given = {f"{one['resourceType']}/{one['id']}" for one in beside.resources}
    wanted = [one for one in _attested(attestation) if one not in given] if attestation else []
    read = [one for one in (_read(fhir, name) for name in wanted) if one is not None]
    return replace(
        beside,
        provenance=beside.provenance or held,
        attestation=attestation,
        resources=(*beside.resources, *read),
        superseding=(*beside.superseding, *_superseding(fhir, request_id)),
        # A server that never held its Provenance cannot know of its recall.
        site_asked=held is not None,
    )


def _attested(sidecar: Json) -> list[str]:
    """References that an attestation says that it covers; whether it is true, the verification says."""
    import json

    with contextlib.suppress(VeraiconError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        payload = json.loads(from_base64url(sidecar_jws(sidecar).split(".")[1]))
        return [str(one["reference"]) for one in payload["resources"]]
    return []


def _superseding(fhir: FhirStore, request_id: str) -> list[Json]:
    """Provenance resources that take the request's own one back."""
    reference = provenance_reference(request_id)
    study = f"ImagingStudy/{derive_fhir_id(request_id, 'ImagingStudy')}"
    try:
        found = [one.body for one in fhir.search("Provenance", {"target": study})]
    except RequestInvalid:  # the embedded store knows no such parameter, and is small
        found = [one.body for one in fhir.search("Provenance", {})]
    return [one for one in found if is_recall_of(one, reference)]


def _read(fhir: FhirStore, reference: str) -> Json | None:
    try:
        return fhir.read(reference).body
    except VeraiconError:
        return None
