"""A recall as FHIR R4 resources: what we published is entered in error, and a second, signed Provenance says so.

The first Provenance is not touched, so that its signature holds for ever; the second one names it as what it revises. R4 gives
Provenance no status, and ``removal`` as the role of an entity would say that the entity itself was deleted.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from domain.errors import VerificationFailed
from domain.identifiers import derive_fhir_id
from provenance import fhir_codes as codes
from provenance.canonical import from_base64url, instant, named_information, sha256_digest
from provenance.digests import resource_content
from provenance.fhir_codes import Json, concept, marked, uri_identifier
from provenance.recall_notice import RecallReason
from provenance.signing import PROVENANCE_KIND, SigningKey, key_id_of, verify_detached

ENTERED_IN_ERROR = "entered-in-error"

# FHIR R4 value set provenance-activity-type: v3 DataOperation.
NULLIFY = {"system": "http://terminology.hl7.org/CodeSystem/v3-DataOperation", "code": "NULLIFY", "display": "nullify"}
# No standard code says why a synthetic series is taken back.
RECALL_REASON = "https://veraicon.dev/CodeSystem/recall-reason"

# Types with a status that can say so; a Patient of ours stays, since other resources refer to it.
_WITH_STATUS = frozenset({"ImagingStudy", "DocumentReference", "Device", "Endpoint"})


def nullified(resource: Mapping[str, Any]) -> Json | None:
    """Return a resource as entered in error; None where it has no such status, or says so already.

    References
    ----------
    FHIR R4 ImagingStudy.status, DocumentReference.status and docStatus, Device.status, Endpoint.status.
    """
    kind = resource.get("resourceType")
    if kind not in _WITH_STATUS or resource.get("status") == ENTERED_IN_ERROR:
        return None
    changed = dict(resource) | {"status": ENTERED_IN_ERROR}
    if kind == "DocumentReference":
        changed["docStatus"] = ENTERED_IN_ERROR
    return changed


def recall_provenance_id(recall_id: str, request_id: str) -> str:
    """Return the id of the Provenance of a recalled output: a repeat writes the same one."""
    return derive_fhir_id(recall_id, request_id, "Provenance")


def recall_provenance(
    key: SigningKey,
    *,
    recall_id: str,
    request_id: str,
    recalled_at: datetime,
    by: str,
    organization: str,
    reason: RecallReason,
    note: str,
    notice_jws: str,
    targets: Sequence[str],
    superseded: str,
) -> Json:
    """Return the signed Provenance that takes an output back; the same arguments give the same bytes.

    Parameters
    ----------
    notice_jws : str
        The signed notice, which the Provenance names by its digest.
    targets : sequence of str
        References of what is entered in error.
    superseded : str
        Reference of the Provenance that was published with them.
    """
    what = {"reference": superseded, "display": "Provenance of the recalled series"}
    notice = {"identifier": uri_identifier(named_information(sha256_digest(notice_jws.encode()))), "display": "Recall notice"}
    coded = {"system": RECALL_REASON, "code": reason.value, "display": reason.words}
    provenance = marked(
        {
            "resourceType": "Provenance",
            "id": recall_provenance_id(recall_id, request_id),
            "target": [{"reference": reference} for reference in targets],
            "occurredDateTime": instant(recalled_at),
            "recorded": instant(recalled_at),
            "reason": [concept(coded) | {"text": note or reason.words}],
            "activity": concept(NULLIFY),
            "agent": [
                {"type": concept(codes.AUTHOR), "who": {"display": by}},
                {"type": concept(codes.CUSTODIAN), "who": {"display": organization}},
            ],
            "entity": [{"role": "revision", "what": what}, {"role": "source", "what": notice}],
        }
    )
    # A person says this, and no model: the label of AI-made content is not for it.
    human = [label for label in provenance["meta"]["security"] if label["code"] != codes.AI_ASSERTED["code"]]
    provenance["meta"] = provenance["meta"] | {"security": human}
    detached = key.sign_detached(resource_content(provenance), kind=PROVENANCE_KIND)
    provenance["signature"] = [
        {
            "type": [dict(codes.AUTHORS_SIGNATURE)],
            "when": instant(recalled_at),
            "who": {"display": organization},
            "targetFormat": codes.SIGNED_FORMAT,
            "sigFormat": codes.SIGNATURE_FORMAT,
            "data": base64.b64encode(detached.encode("ascii")).decode("ascii"),
        }
    ]
    return provenance


def is_recall_of(provenance: Mapping[str, Any], superseded: str) -> bool:
    """Return whether a Provenance says that it takes back what another one was published with; see `require_signed`."""
    try:
        activity = [coding.get("code") for coding in (provenance.get("activity") or {}).get("coding") or []]
        named = [
            (one.get("what") or {}).get("reference") for one in provenance.get("entity") or [] if one.get("role") == "revision"
        ]
    except (AttributeError, TypeError):  # anybody may write one, in any shape: that is no recall
        return False
    return "NULLIFY" in activity and superseded in named


def require_signed(provenance: Mapping[str, Any], keys: Mapping[str, Any]) -> str:
    """Check the signature of a recall's Provenance, and return the id of the key that made it.

    Raises
    ------
    VerificationFailed
        If it has none, or none that holds.
    """
    signatures = provenance.get("signature")
    try:
        data = signatures[0]["data"] if isinstance(signatures, list) else ""
        detached = from_base64url(data.rstrip("=").replace("+", "-").replace("/", "_")).decode("ascii")
    except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise VerificationFailed(
            found="a Provenance without a signature that can be read",
            allowed="base64 of a detached JWS in Provenance.signature",
            action="do not trust it; ask who wrote it",
        ) from error
    verify_detached(detached, resource_content(provenance, without_signature=True), keys, kind=PROVENANCE_KIND)
    return key_id_of(detached)
